"""Probes from photos: the bytes of the lake's rows, refused by a quality gate, matched against an export."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import facelake
from facelake.config import load_config
from facelake.embedder import Embedder, ProbeGate, probe_matrix
from facelake.errors import ConfigError, Refused
from facelake.lake.lake import Lake
from facelake.match.evaluation import evaluate
from facelake.match.search import MatchOptions, OperatingPoint, match_photos
from facelake.matcher import Gallery
from facelake.nightly import run_night, writing
from facelake.stages.gallery.versions import require_gallery
from facelake.stages.sharing.export import export_gallery
from tests.conftest import run_cli, run_json
from tests.e2e.test_london import assessed

P = "identity-grouping"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


def photos_of(lake: Path) -> dict[str, bytes]:
    rows = [row for file in sorted((lake / "corpus").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return {row["image_id"]: row["image"] for row in rows}


def test_importing_the_package_stays_light() -> None:
    code = "import sys, facelake; assert not {'numpy', 'onnxruntime', 'faiss'} & set(sys.modules); facelake.Embedder"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert facelake.Embedder is Embedder
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        facelake.Nothing  # noqa: B018


def test_embeddings_are_those_of_the_lake_bit_for_bit(demo_lake: Path, embedder: Embedder) -> None:
    """In other batches than the run's, by several threads at once."""
    rows = Lake.open(str(demo_lake))["faces"].read(["image_id", "embedding", "quality", "model_digest"]).to_pylist()
    stored: dict[str, list[tuple[bytes, float]]] = {}
    for row in rows:
        stored.setdefault(row["image_id"], []).append((row["embedding"], row["quality"]))
    photos = photos_of(demo_lake)
    rejected = Lake.open(str(demo_lake))["rejects"].read(["image_id"])["image_id"].to_pylist()
    chosen = [*sorted(stored)[::6], *sorted(rejected)[:4]]
    assert any(len(stored.get(name, ())) > 1 for name in chosen)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda at: embedder.embed([photos[name] for name in chosen[at::3]]), range(3)))
    for at, result in enumerate(results):
        for name, photo in zip(chosen[at::3], result, strict=True):
            theirs = [(face.embedding.tobytes(), np.float32(face.quality)) for face in photo.faces]
            assert sorted(theirs) == sorted((e, np.float32(q)) for e, q in stored.get(name, []))
            assert bool(photo.reject) == (not photo.faces)
    assert {row["model_digest"] for row in rows} == {embedder.model_digest}


def test_a_poor_probe_is_refused_with_a_reason(demo_lake: Path, tmp_path: Path, embedder: Embedder) -> None:
    lake = str(demo_lake)
    run_json("gallery", "export", "--out", str(tmp_path / "a"), "--purpose", P, "--recipient", "a", "--lake", lake)
    gallery, strict = Gallery.open(str(tmp_path / "a")), Embedder(gate=ProbeGate(min_quality=0.99))
    photos = photos_of(demo_lake)
    faces = Lake.open(lake)["faces"].read(["image_id"])["image_id"].to_pylist()
    group = next(name for name in sorted(set(faces)) if faces.count(name) > 1)
    point = MatchOptions(threshold=0.5)
    (photo,) = match_photos(gallery, strict, [photos[group]], point)["photos"]
    assert {face["decision"] for face in photo["faces"]} == {"refused"}
    assert all("quality" in face["refused"] and not face["candidates"] for face in photo["faces"])
    someone = gallery.identity_ids[0]
    claimed = match_photos(gallery, embedder, [photos[group]], MatchOptions(threshold=0.5, claim=someone))
    reasons = [face["refused"] for face in claimed["photos"][0]["faces"]]
    assert all(reasons)
    assert any("a claim is of one person" in reason for reason in reasons)
    (bad,) = match_photos(gallery, embedder, [b"not a photo"], point)["photos"]
    assert (bad["faces"], bool(bad["reject"])) == ([], True)
    with pytest.raises(ConfigError, match="no identity"):
        match_photos(gallery, embedder, [photos[group]], MatchOptions(claim="id-nobody", threshold=0.5))
    with pytest.raises(ConfigError, match="cannot be read"):
        embedder.embed([tmp_path / "none.jpg"])
    other = Embedder(config=load_config(overrides={"embed.min_face_px": 30}))
    with pytest.raises(Refused, match="model"):
        match_photos(gallery, other, [photos[group]], point)


def test_a_photo_that_cannot_be_read_leaves_the_others_answered(demo_lake: Path, tmp_path: Path) -> None:
    lake, gate = str(demo_lake), str(tmp_path / "a")
    run_json("gallery", "export", "--out", gate, "--purpose", P, "--recipient", "a", "--lake", lake)
    stored = Lake.open(lake)["faces"].read(["image_id", "quality"]).to_pylist()
    good = photos_of(demo_lake)[max(stored, key=lambda row: row["quality"])["image_id"]]
    for name, content in (("one.jpg", good), ("two.jpg", good), ("broken.jpg", b"\xff\xd8\xff no"), ("empty.jpg", b"")):
        (tmp_path / name).write_bytes(content)
    given = [str(tmp_path / name) for name in ("one.jpg", "missing.jpg", "broken.jpg", "empty.jpg", "two.jpg")]
    given.append(str(tmp_path))  # a folder
    done = run_json("match", *given, "--gallery", gate, "--threshold", "0.5", code=1)
    assert [photo["photo"] for photo in done["photos"]] == given
    rejects = [photo["reject"] for photo in done["photos"]]
    assert rejects == [None, "missing", rejects[2], "empty", None, "missing"]
    assert rejects[2]
    assert [face["decision"] for at in (0, 4) for face in done["photos"][at]["faces"]].count("match")
    assert (done["ok"], done["unread"]) == (False, 4)
    shown = run_cli("match", *given, "--gallery", gate, "--threshold", "0.5")
    assert "missing: No such file or directory" in shown.stdout
    assert "4 of 6 photos could not be read" in shown.stderr
    assert run_cli("match", given[0], "--gallery", gate, "--threshold", "0.5").returncode == 0


@pytest.mark.parametrize(
    "values", [{"threshold": float("nan")}, {"threshold": 60.0}, {"fmr": float("nan")}, {"top": 0}]
)
def test_numbers_that_cannot_be_meant_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(values))}"):
        MatchOptions(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--min-quality"):
        ProbeGate(min_quality=float("nan"))


def test_second_photos_of_london_against_the_first(shared: Path, tmp_path: Path) -> None:
    """Every person's second photo finds them at rank 1; without them in the gallery it is refused at FMR 1e-4."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    images = sorted((shared / "data/london/images").glob("*.jpg"))
    for number, image in enumerate(images):
        shutil.copy(image, (first, second)[number % 2])
    lake, out = str(tmp_path / "lake"), str(tmp_path / "gate")
    run_json("import", str(first), "--basis", "b", "--lake", lake)
    config = load_config(assessed(tmp_path), lake=lake)
    run_night(config)
    with writing(config, "test") as context:
        manifest = export_gallery(context, out, P, "gate")
        members = require_gallery(context.lake).read("memberships", ["image_id", "identity_id"]).to_pylist()
    identity = {Path(row["image_id"]).name.partition("_")[0]: row["identity_id"] for row in members}
    assert len(identity) == manifest["identities"] == 102
    assert {point["genuine"] for point in manifest["thresholds"]} == {0}
    assert {point["fnmr"] for point in manifest["thresholds"]} == {None}
    gallery, embedder = Gallery.open(out), Embedder(config=config)
    point = OperatingPoint.of(gallery, MatchOptions(fmr=1e-4))
    assert point.source == "extrapolated"  # 5,151 comparisons do not measure a rate of 1e-4
    files = sorted(second.iterdir())
    photos = embedder.embed(files)
    wanted = [identity[path.name.partition("_")[0]] for path in files]
    probes = probe_matrix([photo.faces[0] for photo in photos], embedder.dim)
    similarity, names = gallery.similarities(probes, embedder.model_digest)
    own = np.array(names)[None, :] == np.array(wanted)[:, None]
    assert [names[i] for i in similarity.argmax(axis=1)] == wanted
    assert similarity[own].min() >= point.similarity
    assert similarity[~own].max() < point.similarity

    labels = tmp_path / "labels.csv"
    with labels.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "identity_id"])
        writer.writerows([path.name, name] for path, name in zip(files[:40], wanted[:40], strict=True))
        writer.writerow([files[40].name, ""])
    report = evaluate(gallery, embedder, str(labels), str(second), point)
    assert report["rank_1"] == {"correct": 40, "mated": 40}
    assert (report["identification"]["false_negatives"], report["identification"]["not_mated"]) == (0, 1)
    assert report["missing"] == []
    assert report["photos"] == 41
    with labels.open("a") as file:
        file.write("nobody.jpg,\n")
    again = evaluate(gallery, embedder, str(labels), str(second), point)
    assert (again["compared"], again["failed"], again["photos"]) == (41, {"missing": 1}, 42)
    assert again["missing"] == [f"row 42 of labels.csv: no such file under --images: {second / 'nobody.jpg'}"]
    assert again["points"] == report["points"]
    lost = run_json("match", "--evaluate", str(labels), "--gallery", out, code=2)["error"]  # without --images
    assert lost["what"].startswith("row 1 of labels.csv: no such file under the CSV's folder: ")
    assert lost["what"].endswith("; nor any of the other 41")
    last = report["points"][0]
    assert (last["impostors"], last["genuine"], last["fmr"], last["fnmr"]) == (41 * 102 - 40, 40, 1.0, 0.0)
    done = run_cli("match", str(files[0]), "--gallery", out)
    assert "the lake that this copy is from is not at hand" in done.stderr
    (tmp_path / "with-lake.yaml").write_text(f"lake: {lake}\n")
    done = run_cli("match", str(files[0]), "--gallery", out, "-c", str(tmp_path / "with-lake.yaml"))
    assert (done.returncode, "not at hand" in done.stderr) == (0, False)
    shown = run_json("match", str(files[0]), "--gallery", out, "--top", "2", "--claim", wanted[0])
    (face,) = shown["photos"][0]["faces"]
    assert (face["decision"], [c["identity_id"] for c in face["candidates"]]) == ("match", [wanted[0]])
    assert face["candidates"][0]["fmr"] == 0.0
    assert 0 < face["candidates"][0]["fmr_high"] < 1e-3
    assert run_cli("match", "--gallery", out).returncode == 2
