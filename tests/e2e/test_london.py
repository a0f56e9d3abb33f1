"""Real faces, default config: 102 volunteers with two photos each, 40 with ten each."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facelake.bench.cluster import cluster_files
from facelake.config import Config
from facelake.events import ignore_events
from facelake.lake.lake import Lake
from tests.conftest import run_json


def assessed(folder: Path) -> str:
    """A config that names an assessment, as every lake but the demo needs."""
    config = folder / "assessed.yaml"
    config.write_text("governance: {dpia: DPIA-2026-11, controller: the tests}\n")
    return str(config)


def test_london_is_perfect(shared: Path, tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    imported = run_json(
        "import", str(shared / "data/london/images"), "--basis", "b", "--lake", lake, "--person-from", r"^(\d+)_"
    )
    assert imported["imported"] == 204
    night = run_json("nightly", "-c", assessed(tmp_path), "--lake", lake)
    assert (night["faces"], night["identities"]) == (204, 102)
    scores = run_json(
        "bench", "quality", "--lake", lake, "--labels", str(shared / "data/london/people.csv"), "--baselines"
    )
    assert (scores["faces"], scores["identities"]) == (204, 102)
    assert scores["pairwise"] == {"precision": 1.0, "recall": 1.0, "f": 1.0}
    assert scores["bcubed"] == {"precision": 1.0, "recall": 1.0, "f": 1.0}
    compared = scores["compared"]
    assert (compared["faces"], compared["people"], compared["tar"]) == (204, 102, 1.0)
    methods = compared["methods"]
    ours = methods.pop("facelake")["fixed"]["bcubed"]["f"]
    assert all(ours >= score["bcubed"]["f"] for kinds in methods.values() for score in kinds.values())
    nobody_joins_a_stranger(lake, tmp_path)
    erased = run_json("erase", "--lake", lake, "--subject", "042", "--yes")
    assert (erased["images"], erased["faces"], erased["identities_retired"]) == (2, 2, 1)
    assert run_json("verify", "--lake", lake)["ok"]
    night = run_json("nightly", "-c", assessed(tmp_path), "--lake", lake)
    assert (night["faces"], night["identities"]) == (202, 101)


def nobody_joins_a_stranger(lake: str, folder: Path) -> None:
    """Of half of the people one photo is missing: the other one stays alone."""
    faces = Lake.open(lake)["faces"].read(["face_id", "image_id", "quality", "embedding"])
    person = np.array([image.split("/")[-1][:3] for image in faces["image_id"].to_pylist()])
    smiling = np.array(["smiling" in image for image in faces["image_id"].to_pylist()])
    for seed in range(4):
        half = np.random.default_rng(seed).permutation(np.unique(person))[::2]
        kept = ~(np.isin(person, half) & (smiling == bool(seed % 2)))
        (folder / f"half-{seed}").mkdir()
        pq.write_table(faces.filter(pa.array(kept)), folder / f"half-{seed}/faces.parquet")
        cluster_files(Config(lake=lake), str(folder / f"half-{seed}"), str(folder / "groups.parquet"), ignore_events)
        groups = pq.read_table(folder / "groups.parquet")["identity_id"].to_numpy()
        assert len(np.unique(groups)) == len(set(zip(groups.tolist(), person[kept].tolist(), strict=True))) == 102


def test_orl_is_not_behind_a_simple_method(shared: Path, tmp_path: Path) -> None:
    """40 volunteers with ten photos each: nobody is joined with another, few are split."""
    lake, labels = str(tmp_path / "lake"), tmp_path / "people.csv"
    photos = shared / "data/orl/images"
    pairs = [f"{path.name},{path.name.split('_')[0]}" for path in sorted(photos.iterdir())]
    labels.write_text("\n".join(["image,person", *pairs]) + "\n")
    run_json("import", str(photos), "--basis", "b", "--lake", lake, "--person-from", r"^(orl\d+)_")
    run_json("nightly", "-c", assessed(tmp_path), "--lake", lake)
    scores = run_json("bench", "quality", "--lake", lake, "--labels", str(labels), "--baselines")
    assert scores["faces"] == 400
    assert scores["pairwise"]["precision"] == 1.0
    assert scores["pairwise"]["f"] > 0.99
    methods = scores["compared"]["methods"]
    ours = methods.pop("facelake")["fixed"]["bcubed"]["f"]
    assert ours >= methods["chinese_whispers"]["fixed"]["bcubed"]["f"]


def test_hostile_folder_has_one_outcome_per_row(shared: Path, tmp_path: Path) -> None:
    photos, lake = tmp_path / "photos", str(tmp_path / "lake")
    shutil.copytree(shared / "data/hostile", photos, ignore=shutil.ignore_patterns("parquet_bad", "*.json", "*.md"))
    for path in list(photos.rglob("*")):  # import takes what looks like a photo; here all of it shall be tried
        if path.is_file() and not path.suffix:
            path.rename(path.with_suffix(".jpg"))
    imported = run_json("import", str(photos), "--basis", "b", "--lake", lake)
    night = run_json("nightly", "-c", assessed(tmp_path), "--lake", lake)
    embed = night["stages"]["embed"]
    assert embed["admitted"] == imported["imported"] == embed["embedded"] + embed["rejected"]
    assert embed.get("rejected_worker_died", 0) == 0
    assert run_json("verify", "--lake", lake)["ok"]
