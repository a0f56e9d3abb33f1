"""The report in a real browser: no network requests, no console messages, accessible, and no faces of erased people."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from facelake.config import load_config
from facelake.contracts import Verdict
from facelake.lake.lake import Lake
from facelake.nightly import reading, run_night, writing
from facelake.stages.gallery.corrections import CorrectionRequest, record_correction
from facelake.stages.gallery.versions import current_gallery
from facelake.stages.reporting import sheets
from facelake.stages.reporting.sheets import crops_of
from tests.conftest import run_cli, run_json
from tests.e2e.test_demo import members

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VIEWS = [("light", 1200, 900), ("dark", 1200, 900), ("light", 390, 844), ("dark", 390, 844)]
CROP = re.compile(rb"data:image/jpeg;base64,([A-Za-z0-9+/=]+)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "Chromium is missing: bash infra/test.sh installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


class Watched:
    """A page that records its requests and its console messages."""

    def __init__(
        self, browser: Browser, lake: Path, scheme: str = "light", width: int = 1200, height: int = 900
    ) -> None:
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page: Page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})  # type: ignore[arg-type]
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(f"file://{lake}/reports/latest.html")

    def assert_no_requests_or_messages(self) -> None:
        assert self.messages == []
        assert [url for url in self.requests if not url.startswith(("file:///", "data:"))] == []


@pytest.fixture(scope="module")
def corrected_lake(demo_template: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: the demo, then an identity split by a correction, then two identities merged by a correction."""
    lake = Path(shutil.copytree(demo_template[0], tmp_path_factory.mktemp("corrected") / "lake"))
    config = load_config(lake=str(lake))
    identities = sorted(set(members(lake).values()))
    faces = [face for face, identity in sorted(members(lake).items()) if identity == identities[0]]
    for request in (
        CorrectionRequest(Verdict.SPLIT, identities[0], None, tuple(faces[:9]), "another person"),
        CorrectionRequest(Verdict.MERGE, identities[1], identities[2], (), "one person"),
    ):
        with writing(config, "correct") as context:
            record_correction(context, request)
        run_night(config, only=["publish", "report"])
    gallery = current_gallery(Lake.open(str(lake)))
    assert gallery is not None
    assert gallery.version == 3
    return lake


@pytest.mark.parametrize(("scheme", "width", "height"), VIEWS, ids=lambda value: str(value))
def test_report_in_chromium(
    demo_template: tuple[Path, dict[str, Any]], browser: Browser, tmp_path: Path, scheme: str, width: int, height: int
) -> None:
    watched = Watched(browser, demo_template[0], scheme, width, height)
    page = watched.page
    assert page.title() == "facelake: gallery 1"
    assert page.locator(".figure .big").all_inner_texts()[:4] == ["280", "248", "255", "8"]
    text = page.inner_text("body")
    for word in ("no basis", "other purpose", "withdrawn", "expired", "no face", "unreadable", "empty"):
        assert word in text
    assert page.locator("svg.histogram").count() == 1
    assert page.locator("p.summary").inner_text() == "1 alert with action required."
    assert "past the date of destruction or expired; 8 photos" in page.locator("#alerts").inner_text()
    sizes = page.eval_on_selector_all(".sheets img", "all => all.map(i => i.naturalWidth)")
    assert len(sizes) == 64
    assert set(sizes) == {96}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    audit = Axe().run(page)
    assert audit.violations_count == 0, audit.generate_report()
    page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    watched.assert_no_requests_or_messages()


def test_the_page_works_with_mouse_and_keyboard(demo_template: tuple[Path, dict[str, Any]], browser: Browser) -> None:
    watched = Watched(browser, demo_template[0])
    page = watched.page
    legend = page.locator(".legend button")
    assert legend.count() == 3
    assert "175 pairs" in legend.nth(0).inner_text()
    legend.nth(0).press("Enter")
    assert legend.nth(0).get_attribute("aria-pressed") == "false"
    assert not page.locator('[data-layer="0"]').is_visible()
    legend.nth(0).click()
    assert page.locator('[data-layer="0"]').is_visible()
    assert not page.locator("#tip").is_visible()
    page.locator(".hit").nth(40).hover()
    assert re.fullmatch(r"0\.40 to 0\.42: same photo [\d,]+; same identity [\d,]+; nearest other identity [\d,]+", page.locator("#tip").inner_text())  # fmt: skip
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    stages = page.locator("table.sortable", has=page.get_by_text("Stages: time"))
    seconds = stages.get_by_role("button", name="seconds")
    for order, name in ((1, "ascending"), (-1, "descending")):
        seconds.click()
        shown = [float(v.replace(",", "")) for v in stages.locator("tbody td:nth-child(3)").all_inner_texts()]
        assert shown == sorted(shown, reverse=order < 0)
        assert stages.locator("th[aria-sort]").get_attribute("aria-sort") == name
    details = page.locator("#similarity details")
    details.locator("summary").click()
    assert details.locator("tbody tr").count() == 14
    assert Axe().run(page).violations_count == 0
    watched.assert_no_requests_or_messages()


def test_the_page_is_complete_without_javascript(demo_template: tuple[Path, dict[str, Any]], browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{demo_template[0]}/reports/latest.html")
    assert page.locator("section").count() == 9
    assert page.locator(".legend li").count() == 3
    assert page.locator("button").count() == 0
    context.close()


def test_merges_and_splits_are_shown_before_and_after(corrected_lake: Path, browser: Browser, tmp_path: Path) -> None:
    watched = Watched(browser, corrected_lake)
    page = watched.page
    event = page.locator("article.event")
    assert event.count() == 1  # of this run; the split happened in the run before
    assert re.search(r"was merged into id-", event.locator("h3").inner_text())
    before, after = event.locator(".two > div").all()
    assert [before.locator("figure").count(), after.locator("figure").count()] == [2, 1]
    assert all(figure.locator("img").count() == 8 for figure in before.locator("figure").all())
    pages = sorted((corrected_lake / "reports").glob("2*.html"))
    assert len(pages) == 3
    assert "was split off" in pages[1].read_text()
    assert pages[1].read_text().count('class="event split"') == 1
    assert page.locator(".multiple").count() == 11  # drift in sds is not measured by full clusterings
    assert "3 runs" not in page.inner_text("#runs")
    assert "2 fewer than in the previous run" not in page.inner_text("#numbers")
    assert "1 fewer than in the previous run" in page.inner_text("#numbers")
    assert Axe().run(page).violations_count == 0
    page.screenshot(path=tmp_path / "corrected.png", full_page=True)
    watched.assert_no_requests_or_messages()


def test_faces_can_be_left_out_of_every_page(corrected_lake: Path, tmp_path: Path) -> None:
    lake = Path(shutil.copytree(corrected_lake, tmp_path / "lake"))
    assert sum(bool(CROP.search(page.read_bytes())) for page in (lake / "reports").iterdir()) == 4
    config = tmp_path / "c.yaml"
    config.write_text("report: {contact_sheets: false}\n")
    run_json("report", "-c", str(config), "--lake", str(lake))
    pages = list((lake / "reports").iterdir())
    assert len(pages) == 2  # the new page and latest.html; earlier pages with faces were deleted
    assert not [page for page in pages if b"data:image/jpeg" in page.read_bytes()]
    assert "was merged into" not in (lake / "reports/latest.html").read_text()


def test_old_pages_are_deleted(corrected_lake: Path, tmp_path: Path) -> None:
    lake = Path(shutil.copytree(corrected_lake, tmp_path / "lake"))
    newest = sorted(page.name for page in (lake / "reports").glob("2*.html"))[-1]
    config = tmp_path / "c.yaml"
    config.write_text("report: {keep: 2}\n")
    run_json("report", "-c", str(config), "--lake", str(lake))
    remaining = sorted(page.name for page in (lake / "reports").glob("2*.html"))
    assert len(remaining) == 2
    assert remaining[0] == newest


def test_an_erased_person_is_on_no_page(corrected_lake: Path, tmp_path: Path) -> None:
    """No file of the lake contains a crop of the erased person, who was on every page; the others are shown again."""
    lake = Path(shutil.copytree(corrected_lake, tmp_path / "lake"))
    config = load_config(lake=str(lake))
    faces = reading(config).lake["faces"].read(["face_id", "image_id"]).to_pylist()
    erased = {row["face_id"] for row in faces if "/person-1-" in row["image_id"]}
    crops = {face: base64.b64encode(crop) for face, crop in crops_of(reading(config), erased).items()}
    assert len(crops) == 23
    before = {path: path.read_bytes() for path in (lake / "reports").iterdir()}
    assert len(before) == 4
    assert all(sum(crop in page for crop in crops.values()) >= 8 for page in before.values())
    result = run_json("erase", "--subject", "person-1", "--yes", "--lake", str(lake))
    assert (result["faces"], result["residual_hits"]) == (23, 0)
    assert not [path for path in before if path.exists()]
    run_json("report", "--lake", str(lake))
    page = (lake / "reports/latest.html").read_bytes()
    assert len(set(CROP.findall(page)) & set(CROP.findall(before[lake / "reports/latest.html"]))) >= 40
    all_bytes = b"".join(path.read_bytes() for path in lake.rglob("*") if path.is_file())
    assert page in all_bytes
    assert not [face for face, crop in crops.items() if crop in all_bytes]
    assert run_json("verify", "--lake", str(lake))["ok"]


def test_the_crops_of_a_page_stay_under_the_byte_limit(
    corrected_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Path(shutil.copytree(corrected_lake, tmp_path / "lake"))
    (lake / "reports/latest.html").unlink()
    monkeypatch.setattr(sheets, "_MAX_CROP_BYTES", 40_000)
    run_night(load_config(lake=str(lake)), only=["report"])
    page = (lake / "reports/latest.html").read_bytes()
    crops = CROP.findall(page)
    assert 5 < len(crops) < 40
    assert sum(len(base64.b64decode(crop)) for crop in crops) <= 40_000
    (left_out,) = re.findall(rb"(\d+) faces are left out", page)
    assert len(crops) + int(left_out) == 64 + 24  # on the sheets, and before and after the merge


def test_nobody_leaves_by_a_report_that_is_older_than_a_withdrawal(corrected_lake: Path, tmp_path: Path) -> None:
    lake, copy = Path(shutil.copytree(corrected_lake, tmp_path / "lake")), str(tmp_path / "copy.html")
    config = load_config(lake=str(lake))
    faces = reading(config).lake["faces"].read(["face_id", "image_id"]).to_pylist()
    theirs = {row["face_id"] for row in faces if "/person-1-" in row["image_id"]}
    crops = [base64.b64encode(crop) for crop in crops_of(reading(config), theirs).values()]
    run_json("ledger", "withdraw", "--subject", "person-1", "--lake", str(lake))
    done = run_cli("report", "--download", copy, "--lake", str(lake))
    assert done.returncode != 0
    assert "run `facelake report`" in done.stderr
    assert not Path(copy).exists()
    run_json("report", "--lake", str(lake))
    run_json("report", "--download", copy, "--lake", str(lake))
    page = Path(copy).read_bytes()
    assert CROP.search(page)
    assert not any(crop in page for crop in crops)
    assert run_json("report", "--lake", str(lake))["stages"]["report"]["pages"] == 1  # asked for by name: written again
