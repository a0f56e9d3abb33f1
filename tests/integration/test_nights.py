"""Nights: what is new is placed, ids stay, corrections hold through increments and full nights, copies follow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from facelake.bench.nights import add_and_remove
from facelake.bench.synthetic_lake import admitted_rows, grant_once
from facelake.config import Config, load_config
from facelake.contracts import Covers, DataFileName, Verdict
from facelake.embed import Pack
from facelake.errors import ConfigError, Refused
from facelake.matcher import Gallery as Copy
from facelake.nightly import writing
from facelake.publish.corrections import agreement, holds, in_force, met
from facelake.publish.prototypes import weight_of, weighted_means
from facelake.stages.clustering.stage import cluster
from facelake.stages.core.context import Context, StageResult
from facelake.stages.gallery.analytics import analyse
from facelake.stages.gallery.corrections import CorrectionRequest, _numbered, record_correction, undo
from facelake.stages.gallery.face_keys import faces_of_ids
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.publish import publish
from facelake.stages.gallery.versions import current_gallery
from facelake.stages.sharing.changes import changes_since
from facelake.stages.sharing.export import export_gallery
from facelake.vectors import embedding_matrix

_DIM, _PEOPLE = 128, 150


class World:
    """People with ten faces or so, some of whom come later; written as nights of Parquet files."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(5)
        self.folder, self.person, self.vectors = folder, [], []
        centres = rng.normal(size=(_PEOPLE, _DIM))
        for who in range(_PEOPLE):
            for _ in range(int(rng.integers(1, 18))):
                x = centres[who] + rng.normal(size=_DIM) * 0.75
                self.person.append(who)
                self.vectors.append(x / np.linalg.norm(x))
        order = rng.permutation(len(self.person))
        self.person = [self.person[i] for i in order]
        self.vectors = [self.vectors[i] for i in order]
        late = rng.random(len(order)) < 0.12
        late |= np.array(self.person) >= _PEOPLE - 6  # people who were not there in the first night
        self.night = np.where(late, rng.integers(1, 7, len(order)), 0)
        self.ids = [f"{i * 7919 % 100003:032x}" for i in range(len(order))]

    def faces(self, night: int) -> list[Path]:
        mine = np.flatnonzero(self.night == night)
        path = self.folder / f"night-{night}.parquet"
        vectors = np.array([self.vectors[i] for i in mine], np.float16).reshape(len(mine), _DIM)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), _DIM)
        ids = [self.ids[i] for i in mine]
        quality = np.full(len(mine), 0.9, np.float32)
        pq.write_table(
            pa.table({"face_id": ids, "image_id": [f"p/{i}" for i in ids], "quality": quality, "embedding": flat}), path
        )
        return [path]

    def removed(self, night: int) -> list[Path]:
        gone = [self.ids[i] for i in np.flatnonzero(self.night == 0)[night * 5 : night * 5 + 4]]
        path = self.folder / f"gone-{night}.parquet"
        pq.write_table(pa.table({"face_id": gone}), path)
        return [path]

    def truth(self) -> dict[str, int]:
        return dict(zip(self.ids, self.person, strict=True))


@contextmanager
def lake_of(config: Config, pack: Pack, rebase: bool = False) -> Iterator[Context]:
    with writing(config, "test") as context:
        context.pack, context.rebase = pack, rebase
        yield context


def admit_all(context: Context) -> None:
    """Decisions on the photos of all faces, as `admit` leaves them: what leaves the lake depends on them."""
    grant_once(context, "world")
    table = context.lake["admissions"]
    images = pc.unique(context.lake["faces"].read(["image_id"])["image_id"]).to_pylist()
    photos = {"image_id": images, "subject_ref": [None] * len(images), "content_sha256": [None] * len(images)}
    rows = admitted_rows(context, "world", "world", photos, Covers.EVERYONE)
    table.commit([table.stage(rows, DataFileName.of_corpus_file("world"))], table.snapshot().files)


def one_night(context: Context) -> tuple[StageResult, StageResult]:
    admit_all(context)
    grouped, made = cluster(context), publish(context)
    analyse(context)
    return grouped, made


def members(context: Context) -> dict[str, str]:
    gallery = current_gallery(context.lake)
    assert gallery
    rows = gallery.read("memberships", ["face_id", "identity_id"])
    return dict(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def majority(found: dict[str, str], truth: dict[str, int]) -> dict[int, str]:
    votes: dict[int, dict[str, int]] = {}
    for face, name in found.items():
        votes.setdefault(truth[face], {}).setdefault(name, 0)
        votes[truth[face]][name] += 1
    return {who: max(sorted(of), key=lambda name: of[name]) for who, of in votes.items()}


def broken(context: Context) -> list[int]:
    found = members(context)
    ids = pa.array(sorted(found), pa.string())
    labels = np.unique([found[face] for face in ids.to_pylist()], return_inverse=True)[1].astype(np.int64)
    stored = in_force(context.lake["corrections"].read().to_pylist())
    faces, order = faces_of_ids(lambda: [ids], "memberships")
    corrections = _numbered(stored, faces)
    parts = agreement(corrections, len(ids))
    return [c.seq for c in corrections if not (holds(c, parts) and met(c, parts, labels[order]))]


def correct_at_random(context: Context, count: int) -> int:
    """Corrections of every kind; those that contradict earlier ones or repeat one are not counted."""
    rng, kept = np.random.default_rng(9), set[int]()
    found = members(context)
    by_name: dict[str, list[str]] = {}
    for face, name in sorted(found.items()):
        by_name.setdefault(name, []).append(face)
    names = sorted(by_name)
    for _ in range(20 * count):
        if len(kept) == count:
            break
        a, b = (str(name) for name in rng.choice(names, 2, replace=False))
        kind = [Verdict.MERGE, Verdict.SPLIT, Verdict.REJECT, Verdict.CONFIRM, Verdict.DISTINCT][int(rng.integers(5))]
        said = CorrectionRequest(kind, a, b)
        if kind is Verdict.SPLIT:
            if len(by_name[a]) < 4:
                continue
            said = CorrectionRequest(kind, a, None, tuple(by_name[a][:2]))
        elif kind is Verdict.REJECT:
            if len(by_name[a]) < 3:
                continue
            said = CorrectionRequest(kind, None, None, (by_name[a][0],))
        elif kind is Verdict.CONFIRM:
            said = CorrectionRequest(kind, a, None, (by_name[b][0],))
        try:
            kept.add(record_correction(context, said)["seq"])
        except Refused:
            continue
    return len(kept)


def test_nights(tmp_path: Path, pack: Pack) -> None:
    world = World(tmp_path)
    config = load_config(lake=str(tmp_path / "lake"), overrides={"gallery.full_below": 0})
    truth = world.truth()
    with lake_of(config, pack) as context:
        add_and_remove(context, world.faces(0), [])
        grouped, made = one_night(context)
        assert grouped.details["mode"] == "full"
        before = members(context)
        export_gallery(context, str(tmp_path / "copy"), config.purpose, "gate")
    copy = Copy.open(str(tmp_path / "copy"))

    # increments: nobody who was there changes his id, whoever came is with his own, and copies follow
    for night in range(1, 4):
        with lake_of(config, pack) as context:
            add_and_remove(context, world.faces(night), world.removed(night))
            grouped, made = one_night(context)
            assert grouped.details["mode"] == "increment", grouped.counts
            assert grouped.counts["came"] == int((world.night == night).sum())
            assert grouped.counts["went"] == 4
            after = members(context)
            assert set(after) == set(context.lake["faces"].read(["face_id"])["face_id"].to_pylist())
            kept = set(before) & set(after)
            assert sum(before[face] != after[face] for face in kept) == 0
            told = majority(after, truth)
            assert np.mean([told[truth[face]] == name for face, name in after.items()]) > 0.99
            rows_are_exact(context)
            changes = changes_since(context.lake, copy.version)
            gallery = current_gallery(context.lake)
            assert gallery
            copy.apply_rows(changes, gallery.version)
            export_gallery(context, str(tmp_path / f"fresh-{night}"), config.purpose, f"gate-{night}")
            assert copy.same_as(Copy.open(str(tmp_path / f"fresh-{night}")))
            assert not cluster(context).skipped or publish(context).skipped
            before = after

    # corrections hold in increments, in a full night, and are undone
    with lake_of(config, pack) as context:
        count = correct_at_random(context, 200)
        assert count == 200
        one_night(context)
        assert broken(context) == []
    for night in range(4, 7):
        with lake_of(config, pack) as context:
            add_and_remove(context, world.faces(night), world.removed(night))
            grouped, made = one_night(context)
            assert grouped.details["mode"] == "increment"
            assert made.counts["corrections_in_conflict"] == 0
            assert broken(context) == []
    with lake_of(config, pack, rebase=True) as context:
        before = members(context)
        grouped, made = one_night(context)
        assert (grouped.details["mode"], made.counts["corrections"]) == ("full", 200)
        assert broken(context) == []
        after = members(context)
        assert np.mean([before[face] == after[face] for face in before]) > 0.97
        row = next(row for row in in_force(context.lake["corrections"].read().to_pylist()) if row["kind"] == "merge")
        undo(context, row["seq"])
        with pytest.raises(ConfigError):
            undo(context, row["seq"])
        context.rebase = False
        one_night(context)
        assert row["seq"] not in [one["seq"] for one in in_force(context.lake["corrections"].read().to_pylist())]
        assert broken(context) == []
        assert not placed_by_undone(context, row)
        context.rebase = True
        files = len(list(context.lake.store.list("memberships")))
        again = one_night(context)
        assert again[0].details["mode"] == "full"
        context.rebase = False
        assert [result.skipped for result in one_night(context)] == [True, True]
        assert len(list(context.lake.store.list("memberships"))) <= files + 1
    analytics_are_right(context)


def placed_by_undone(context: Context, undone: dict[str, Any]) -> list[str]:
    """Faces of an undone correction that are recorded as corrected although no correction in force names one of their
    identity.
    """
    gallery = current_gallery(context.lake)
    assert gallery
    rows = gallery.read("memberships", ["face_id", "identity_id", "how"]).to_pylist()
    valid = in_force(context.lake["corrections"].read().to_pylist())
    named = {face for row in valid for side in ("faces_a", "faces_b") for face in row[side] or ()}
    touched = {row["identity_id"] for row in rows if row["face_id"] in named}
    own = {*(undone["faces_a"] or ()), *(undone["faces_b"] or ())}
    return [
        row["face_id"]
        for row in rows
        if row["face_id"] in own and row["how"] == "corrected" and row["identity_id"] not in touched
    ]


def rows_are_exact(context: Context) -> None:
    """Prototypes made from yesterday's rows and what came are those of all faces."""
    gallery = current_gallery(context.lake)
    assert gallery
    rows = gallery.read("identities").filter(pc.field("status") == "active").sort_by("identity_id")
    joined = gallery.read("memberships", ["face_id", "identity_id", "core"]).join(
        context.lake["faces"].read(["face_id", "quality", "embedding"]), "face_id"
    )
    names = rows["identity_id"].to_pylist()
    labels = np.array([names.index(name) for name in joined["identity_id"].to_pylist()], np.int64)
    vectors, _ = embedding_matrix(joined["embedding"])
    wanted, *_ = weighted_means(vectors, weight_of(joined["quality"].to_numpy()), labels, len(names))
    np.testing.assert_allclose(matrix_of(rows["prototype"], _DIM), wanted, atol=2e-4)
    like = np.einsum("ij,ij->i", vectors, wanted[labels])
    cohesion = np.bincount(labels, like) / np.bincount(labels)
    np.testing.assert_allclose(rows["cohesion"].to_numpy(), cohesion, atol=2e-3)
    np.testing.assert_array_equal(rows["size"].to_numpy(), np.bincount(labels))
    home = dict(zip(joined["face_id"].to_pylist(), joined["identity_id"].to_pylist(), strict=True))
    for name, faces in zip(names, rows["exemplar_faces"].to_pylist(), strict=True):
        assert faces, name
        assert all(home[face] == name for face in faces)
    cores = joined.filter(joined["core"])["identity_id"].to_pylist()
    assert set(cores) == set(names)
    assert max(cores.count(name) for name in names) <= 5


def analytics_are_right(context: Context) -> None:
    gallery = current_gallery(context.lake)
    assert gallery
    rows = gallery.read("identities").filter(pc.field("status") == "active").sort_by("identity_id")
    stats = context.lake["identity_stats"].read().sort_by("identity_id")
    assert stats["identity_id"].equals(rows["identity_id"])
    assert stats["size"].equals(rows["size"])
    means = matrix_of(rows["prototype"], _DIM)
    like = means @ means.T
    np.fill_diagonal(like, -1)
    np.testing.assert_allclose(stats["nearest_similarity"].to_numpy(), like.max(axis=1), atol=1e-5)
    versions = context.lake["drift"].read(["gallery_version"])["gallery_version"].to_pylist()
    assert sorted(versions) == list(range(1, gallery.version + 1))
    queue = context.lake["reviews"].read()
    assert queue["score"].to_pylist() == sorted(queue["score"].to_pylist(), reverse=True)
    assert json.dumps(queue.to_pylist())
