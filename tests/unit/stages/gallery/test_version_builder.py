"""Galleries are the same whatever divides them: engines, ranges, items; and equal to a slow reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from facelake.bench.synthetic_lake import Population, add_faces, completed_rows, write_groups
from facelake.config import Config, load_config
from facelake.contracts import GROUPS
from facelake.engines.exchange import Block, Emit, LocalExchange, Reduce
from facelake.errors import Corrupt
from facelake.nightly import reading, writing
from facelake.publish.ranges import range_of_file
from facelake.stages.core.context import StageRun
from facelake.stages.gallery import publish as publish_module
from facelake.stages.gallery import version_builder
from facelake.stages.gallery.previous import match_by_photo
from facelake.stages.gallery.publish import publish
from facelake.stages.gallery.table_codec import pack_tables, unpack_tables
from facelake.stages.gallery.versions import current_gallery
from facelake.vectors import decode_embeddings

PEOPLE = Population(3_000, 16, 6, seed=3)


class Shuffled(LocalExchange):
    """Hands every task its blocks in another order, as a cluster may."""

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        rng = np.random.default_rng(len(items))

        def mixed(reduce: Reduce) -> Reduce:
            return lambda key, blocks: reduce(key, [blocks[i] for i in rng.permutation(len(blocks))])

        return super().run(rng.permutation(np.array(items)).tolist(), first, *(mixed(r) for r in then), keys=keys)


def runs(folder: Path, extra: Sequence[int] = (60, 35), **overrides: object) -> Config:
    """A lake after a full run and, for each extra number of faces, an incremental one."""
    config = load_config(
        lake=str(folder), overrides={key.replace("__", "."): value for key, value in overrides.items()}
    )
    count = PEOPLE.faces
    with writing(config, "test") as context:
        add_faces(context, PEOPLE, 0, count)
        write_groups(context, PEOPLE, count)
        publish(context)
    for more in extra:
        with writing(config, "test") as context:
            add_faces(context, PEOPLE, count, more)
            count += more
            write_groups(context, PEOPLE, count)
            StageRun(context, "cluster").finish({}, "test", {"mode": "increment"})
            publish(context)
    return config


def tables(config: Config) -> dict[str, pa.Table]:
    gallery = current_gallery(reading(config).lake)
    assert gallery
    keys = {"identities": "identity_id", "memberships": "face_id", "changes": "identity_id"}
    order = {"changes": [("gallery_version", "ascending"), ("identity_id", "ascending")]}
    return {name: gallery.read(name).sort_by(order.get(name, key)).combine_chunks() for name, key in keys.items()}


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    return tables(runs(tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("way", ["many ranges", "small items", "shuffled blocks"])
def test_the_same_rows_whatever_divides_the_work(
    way: str, plain_run: dict[str, pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "many ranges":
        monkeypatch.setattr(version_builder, "bits_for", lambda *_: 4)
    if way == "small items":
        monkeypatch.setattr(version_builder, "_ROWS_PER_ITEM", 1)
    if way == "shuffled blocks":
        monkeypatch.setattr(version_builder, "bits_for", lambda *_: 3)
        monkeypatch.setattr(publish_module, "open_exchange", lambda *_, **__: Shuffled())
    made = tables(runs(tmp_path / "lake"))
    for name, rows in plain_run.items():
        assert made[name].equals(rows), name


def churned(folder: Path) -> dict[str, pa.Table]:
    """A lake after incremental runs in which identities merge, fall apart and lose single faces."""
    config = load_config(lake=str(folder))
    with writing(config, "test") as context:
        add_faces(context, PEOPLE, 0, PEOPLE.faces)
    for number in range(4):
        identity = PEOPLE.identity_of(0, PEOPLE.faces)
        kind, face = identity % 10, np.arange(PEOPLE.faces)
        if number in (1, 3):
            identity = np.where(kind == 1, identity - 1, identity)  # two identities become one
            identity = np.where((kind == 5) & (face % 2 == 0), identity + 10_000, identity)  # one falls apart
            identity = np.where((kind == 7) & (face % 4 == 0), identity - 1, identity)  # faces go to another
        with writing(config, "test") as context:
            table = context.lake["groups"]
            rows = {"face_id": [f"{n:032x}" for n in face], "group_id": identity, "score": np.ones(len(face), "f4")}
            table.commit([table.stage(completed_rows(rows, GROUPS))], table.snapshot().files)
            StageRun(context, "cluster").finish({}, "test", {"mode": "increment" if number else "full"})
            publish(context)
    return tables(config)


@pytest.mark.parametrize("way", ["many ranges", "threads", "shuffled blocks"])
def test_faces_and_templates_that_change_their_range(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_builder, "bits_for", lambda *_: 0)
    exchange = {"many ranges": LocalExchange(), "threads": LocalExchange(4), "shuffled blocks": Shuffled()}[way]
    monkeypatch.setattr(publish_module, "open_exchange", lambda *_, **__: LocalExchange())
    expected = churned(tmp_path / "one")
    assert {"merged", "split", "created"} <= set(expected["changes"]["kind"].to_pylist())
    monkeypatch.setattr(version_builder, "bits_for", lambda *_: 4)
    monkeypatch.setattr(publish_module, "open_exchange", lambda *_, **__: exchange)
    made = churned(tmp_path / "many")
    for name, rows in expected.items():
        assert made[name].equals(rows), name


def test_files_of_unchanged_ranges_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_builder, "bits_for", lambda *_: 6)
    config = runs(tmp_path / "lake", extra=())
    lake = reading(config).lake
    before = {name: set(lake[name].snapshot().digest_paths()) for name in ("identities", "memberships")}
    assert all(range_of_file(path) for paths in before.values() for path in paths)
    with writing(config, "test") as context:
        add_faces(context, PEOPLE, PEOPLE.faces, 4)
        write_groups(context, PEOPLE, PEOPLE.faces + 4)
        publish(context)
    for name, paths in before.items():
        after = set(reading(config).lake[name].snapshot().digest_paths())
        assert 1 <= len(after - paths) <= 4, name
        assert len(after) == len(paths)


def test_another_number_of_ranges_rewrites_all_and_keeps_every_row(
    tmp_path: Path, plain_run: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    monkeypatch.setattr(version_builder, "bits_for", lambda *_: (0, 2, 5)[current_version(lake)])
    made = tables(runs(tmp_path / "lake"))
    for name, rows in plain_run.items():
        assert made[name].equals(rows), name


def current_version(folder: Path) -> int:
    """The newest gallery version of a lake; 0 before the first."""
    gallery = current_gallery(reading(load_config(lake=str(folder))).lake)
    return gallery.version if gallery else 0


def test_templates_are_weighted_means_of_the_faces(plain_run: dict[str, pa.Table], tmp_path: Path) -> None:
    config = runs(tmp_path / "lake")
    faces = {row["face_id"]: row for row in reading(config).lake["faces"].read().to_pylist()}
    members: dict[str, list[str]] = {}
    for row in plain_run["memberships"].to_pylist():
        members.setdefault(row["identity_id"], []).append(row["face_id"])
        assert row["image_id"] == faces[row["face_id"]]["image_id"]
    for row in plain_run["identities"].to_pylist():
        own = members[row["identity_id"]]
        assert row["size"] == len(own)
        vectors = decode_embeddings([faces[face]["embedding"] for face in own], PEOPLE.dim).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        total = sum(faces[face]["quality"] * vector for face, vector in zip(own, vectors, strict=True))
        np.testing.assert_allclose(row["prototype"], total / np.linalg.norm(total), atol=2e-3)
        assert set(row["exemplar_faces"]) <= set(own)


def test_a_grouped_face_without_a_vector_is_an_error(tmp_path: Path) -> None:
    config = load_config(lake=str(tmp_path / "lake"))
    with writing(config, "test") as context:
        add_faces(context, PEOPLE, 0, 100)
        write_groups(context, PEOPLE, 101)
        with pytest.raises(Corrupt, match="1 grouped faces are not in the faces table"):
            publish(context)


def test_a_face_that_left_the_faces_table_does_not_come_back_from_the_previous_version(tmp_path: Path) -> None:
    config = runs(tmp_path / "lake", extra=())
    lake = reading(config).lake
    lake["faces"].commit([], lake["faces"].snapshot().files)
    other = load_config(lake=config.lake, overrides={"purpose": "another"})
    with writing(other, "test") as context, pytest.raises(Corrupt, match="not in the faces table"):
        publish(context)


def test_tables_travel_as_bytes() -> None:
    tables_ = {"a": pa.table({"x": [1, 2], "y": ["", "é"]}), "b": pa.table({"z": pa.array([], pa.binary())})}
    back = unpack_tables(pack_tables(**tables_))
    assert back.keys() == tables_.keys()
    assert all(back[name].equals(table) for name, table in tables_.items())
    assert unpack_tables(pack_tables()) == {}


def test_identities_of_another_model_follow_the_photos() -> None:
    # photo 1 shows a and b, photo 2 a, photo 3 b and c; the new model finds the same people
    old_images, old_identity = np.array([1, 1, 2, 3, 3]), np.array([0, 1, 0, 1, 2])
    images, labels = np.array([1, 1, 2, 3, 3, 9]), np.array([5, 4, 5, 4, 3, 3])
    assert match_by_photo(images, labels, old_images, old_identity).tolist() == [0, 1, 0, 1, 2, -1]
