"""A world of embeddings becomes a lake that verify accepts, night by night."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.bench.gallery import GallerySize
from facelake.bench.world_lake import World, add_night, subject_of_person
from facelake.config import Config
from facelake.errors import ConfigError
from facelake.nightly import reading, writing
from facelake.stages.operations.verify import verify

DIM = 8
NIGHTS = {  # (night, shard): face, photo, person
    (0, 0): [("f0", "p0", 5), ("f1", "p0", 6), ("f2", "p1", 6)],
    (0, 1): [("f3", "p3", 5), ("f4", "p2", 7)],
    (1, 0): [("f5", "p5", 5)],
    (1, 1): [("f6", "p6", 9)],
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two shards and two nights; the second removes face f2."""
    rng = np.random.default_rng(0)
    for shard in (0, 1):
        truth = []
        for night in (0, 1):
            rows = NIGHTS[night, shard]
            vectors = rng.standard_normal((len(rows), DIM)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            table = {
                "face_id": [face for face, _, _ in rows],
                "image_id": [photo for _, photo, _ in rows],
                "quality": np.full(len(rows), 0.8, np.float32),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
            }
            _write(pa.table(table), tmp_path / f"world/faces/night={night}/part-{shard}.parquet")
            truth += [{"face_id": face, "identity": person, "added_night": night} for face, _, person in rows]
        _write(pa.Table.from_pylist(truth[::-1]), tmp_path / f"world/truth/part-{shard}.parquet")
    _write(pa.table({"face_id": ["f2"]}), tmp_path / "world/removed/night=1/part-0.parquet")
    return World.of(str(tmp_path / "world"))


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def test_nights_of_a_world_become_admissions_and_faces(world: World, tmp_path: Path) -> None:
    config = Config(lake=str(tmp_path / "lake"))
    with writing(config, "bench") as context:
        context.lake.mark_as_demo()
        add_night(context, world, 0)
    lake = reading(config).lake
    admitted = {row["image_id"]: row["subject_ref"] for row in lake["admissions"].read().to_pylist()}
    assert admitted == {  # the person of the photo's first face
        "p0": subject_of_person(5),
        "p1": subject_of_person(6),
        "p2": subject_of_person(7),
        "p3": subject_of_person(5),
    }
    with writing(config, "bench") as context:
        add_night(context, world, 1)
    lake = reading(config).lake
    rows = lake["faces"].read(["face_id", "image_id", "content_sha256"]).to_pylist()
    assert {row["face_id"]: row["image_id"] for row in rows} == {
        "f0": "p0",
        "f1": "p0",
        "f3": "p3",
        "f4": "p2",
        "f5": "p5",
        "f6": "p6",
    }
    assert len({row["content_sha256"] for row in rows}) == 5
    assert lake["admissions"].snapshot().rows == 6
    assert world.people() == [5, 6, 7]


def test_verify_finds_nothing_wrong_with_it_but_the_missing_photos(world: World, tmp_path: Path) -> None:
    config = Config(lake=str(tmp_path / "lake"))
    with writing(config, "bench") as context:
        context.lake.mark_as_demo()
        add_night(context, world, 0)
    findings, counts = verify(reading(config))
    assert [finding.problem for finding in findings if "corpus" not in finding.problem] == []
    assert (counts["admitted"], counts["embedded"]) == (4, 4)


def test_size_of_a_world(world: World) -> None:
    assert GallerySize.of_world(world.folder) == GallerySize(5, DIM, 1, 0, world.folder)


def test_a_folder_without_nights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no faces/night=0"):
        World.of(str(tmp_path))
