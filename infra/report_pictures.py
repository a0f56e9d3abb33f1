"""Takes the pictures of README and docs from the demo:

    .venv/bin/facelake demo --lake LAKE && .venv/bin/python infra/report_pictures.py LAKE docs/images

`report.png` and `similarity.png` show the report, `review.png` and `identity.png` the review page, `det.png` the DET
curve of the demo's labelled faces. Faces are blurred: that the demo's test photos are public is no consent of the
people in them to illustrate a documentation. Needs Chromium, and the extras review and test.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from facelake.lake.lake import Lake, is_demo
from facelake.match.det_page import det_page
from facelake.match.evaluation import det_points
from facelake.vectors import embedding_matrix

_SIZE = {"width": 1100, "height": 720}
_COLOURS = 128
_MOST_BYTES = 150_000
_BINS = 20_000  # of similarities from -1 to 1, as in facelake.match.evaluation


def main(lake: str, folder: str) -> None:
    """Take all pictures of a demo lake."""
    if not is_demo(Lake.open(lake).store):
        sys.exit(f"{lake} is not a lake of `facelake demo`. Next: facelake demo --lake {lake}")
    out = Path(folder)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport=_SIZE, color_scheme="light")
        page.goto((Path(lake) / "reports/latest.html").resolve().as_uri())
        _save(page, out / "report.png")
        _save(page.locator("#similarity figure").first, out / "similarity.png")
        page.set_content(_det_of(lake))
        _save(page.locator("svg").first, out / "det.png")
        with _served(lake) as link:
            _review(page, link, lake, out)
        browser.close()


def _review(page: Page, link: str, lake: str, out: Path) -> None:
    """Take a comparison of two identities, and one identity with an explanation."""
    rows = Lake.open(lake)["identities"].read(["identity_id", "status", "size"]).to_pylist()
    names = sorted(row["identity_id"] for row in rows if row["status"] == "active")
    page.goto(link)
    _wait(page, "document.getElementById('who').textContent !== ''")  # signed in
    page.evaluate(f"location.hash = '#same_person/{names[0]}/{names[1]}'")
    page.locator("#work").wait_for()
    page.get_by_role("button", name="Identities", exact=True).click()
    page.locator("#identities button").first.wait_for()
    _wait_for_faces(page, "#columns .faces img, #identities img")
    _save(page, out / "review.png")
    page.set_viewport_size({"width": 1100, "height": 900})
    page.evaluate(f"location.hash = '#identity/{names[0]}'")
    page.locator("#dated button").last.click()
    page.locator("#person-why-path img").first.wait_for()
    _wait_for_faces(page, "#dated img, #person-why-path img, #identities img")
    _save(page, out / "identity.png")


def _wait_for_faces(page: Page, selector: str) -> None:
    for image in page.locator(selector).all():
        image.scroll_into_view_if_needed()
    _wait(page, f"[...document.querySelectorAll('{selector}')].every(image => image.complete && image.naturalWidth)")
    page.evaluate("document.querySelectorAll('img').forEach(image => { image.style.filter = 'blur(6px)'; })")
    page.locator("#desk").evaluate("desk => desk.scrollTo(0, 0)")
    page.locator("#queue").evaluate("list => list.scrollTo(0, 0)")


def _wait(page: Page, condition: str) -> None:
    """Wait until a JavaScript expression is true. `wait_for_function` would need eval, which the page forbids."""
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    sys.exit(f"the page did not show: {condition}")


@contextmanager
def _served(lake: str) -> Iterator[str]:
    """Serve the review page and yield its link."""
    command = [sys.executable, "-m", "facelake", "review", "--purpose", "identity-grouping", "--reviewer", "a reviewer"]
    with subprocess.Popen([*command, "--json", "--lake", lake], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


def _det_of(lake: str) -> str:
    """Return the DET page of the demo's faces, each labelled by the subject of its photo; photos with several faces are
    left out.
    """
    opened = Lake.open(lake)
    faces = pl.DataFrame(opened["faces"].read(["image_id", "embedding", "quality"]))
    people = pl.DataFrame(opened["admissions"].read(["image_id", "subject_ref"])).drop_nulls()
    alone = faces.filter(pl.len().over("image_id") == 1, pl.col("quality") >= 0.35).join(people, on="image_id")
    vectors, _ = embedding_matrix(pa.chunked_array([alone["embedding"].to_arrow().cast(pa.binary())]))
    person = alone["subject_ref"].to_numpy()
    first, second = np.triu_indices(len(vectors), 1)
    cosine = (vectors @ vectors.T)[first, second].astype(np.float64)
    bins = np.clip(((cosine + 1) * (_BINS / 2)).astype(np.int64), 0, _BINS - 1)
    same = person[first] == person[second]
    impostor, genuine = (np.bincount(bins[kind], minlength=_BINS) for kind in (~same, same))
    points = [asdict(point) for point in det_points(impostor, genuine)]
    return det_page({"photos": len(faces), "compared": len(vectors), "failed": {}, "points": points})


def _save(shown: Page | Locator, path: Path) -> None:
    """Save a screenshot with few colours, which halves the file."""
    with Image.open(BytesIO(shown.screenshot())) as picture:
        picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if size > _MOST_BYTES:
        sys.exit(f"{path}: {size} bytes are too many for the documentation")


if __name__ == "__main__":
    main(*sys.argv[1:])
