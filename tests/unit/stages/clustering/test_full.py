"""The whole of clustering over a work store: people found, whatever the files, kills and faults."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.cluster.calibrate import Calibration, Prior
from facelake.cluster.edges import Known
from facelake.cluster.neighbours import Search
from facelake.cluster.quality_norm import Gate
from facelake.config import ClusterSection, S3Section
from facelake.engines.exchange import Block, Emit, LocalExchange, Reduce
from facelake.errors import Corrupt
from facelake.lake.store import open_store
from facelake.stages.clustering.full import STEPS, FullClustering
from facelake.stages.clustering.result import Clustered
from facelake.stages.clustering.source import LocalFiles
from facelake.stages.clustering.step_results import Indexed
from facelake.stages.clustering.steps.grouping import GroupingTasks
from facelake.stages.clustering.steps.index import IndexTasks
from facelake.stages.clustering.steps.join import JoinTasks
from facelake.stages.clustering.steps.scan import ScanTasks
from facelake.stages.clustering.steps.second_pass import SecondPassTasks
from facelake.stages.clustering.work import Work
from tests.unit.cluster.test_cluster import people, unit
from tests.unit.cluster.test_within_person import sessions, templates

PRIOR = Prior(0.02, 0.09, 0.8)
CUTS = Calibration(0.4, 0.75, 0.75, 0.7, 0.02, 0.09, "")
SMALL = ClusterSection(exact_below=200, list_size=30, deep_cells=2)


class World:
    """Faces of known people, written as any number of files in any order."""

    def __init__(self, x: np.ndarray, truth: np.ndarray, quality: np.ndarray | None = None) -> None:
        self.x, self.truth = x, truth
        self.ids = np.array([f"face-{i * 7919 % 100_003:06d}" for i in range(len(x))])
        self.quality = np.ones(len(x), np.float32) if quality is None else quality

    def write(self, folder: Path, files: int = 3, seed: int | None = None) -> tuple[str, ...]:
        folder.mkdir(parents=True, exist_ok=True)
        order = np.arange(len(self.x)) if seed is None else np.random.default_rng(seed).permutation(len(self.x))
        paths = []
        for number, part in enumerate(np.array_split(order, files)):
            vectors = pa.FixedSizeListArray.from_arrays(
                pa.array(self.x[part].astype(np.float16).ravel()), self.x.shape[1]
            )
            photos = pa.array([f"photo-{i}" for i in part])
            columns = [pa.array(self.ids[part]), photos, pa.array(self.quality[part]), vectors]
            path = folder / f"part-{number}.parquet"
            pq.write_table(pa.table(columns, names=["face_id", "image_id", "quality", "embedding"]), path)
            paths.append(str(path))
        return tuple(paths)


def clustering_of(
    paths: tuple[str, ...],
    place: Path,
    dim: int,
    settings: ClusterSection = SMALL,
    exchange: Any = None,
    scratch_bytes: float = math.inf,
) -> FullClustering:
    store = open_store(str(place))
    work = Work(LocalFiles(paths), store.uri, S3Section().model_dump_json(), "state", dim)
    return FullClustering(work, exchange or LocalExchange(), settings, PRIOR, lambda *_, **__: None, scratch_bytes)


def by_id(paths: tuple[str, ...], found: Clustered) -> dict[str, int]:
    """Group of each face, -1 for one that was set aside."""
    out: dict[str, int] = {}
    for path, number in zip(paths, found.number, strict=True):
        for face, n in zip(pq.read_table(path)["face_id"].to_pylist(), number.tolist(), strict=True):
            out[face] = int(found.labels[n]) if n >= 0 else -1
    return out


def cluster(
    world: World, place: Path, files: int = 3, seed: int | None = None, settings: ClusterSection = SMALL
) -> tuple[dict[str, int], Clustered]:
    paths = world.write(place / "faces", files, seed)
    found = clustering_of(paths, place / "work", world.x.shape[1], settings).run()
    return by_id(paths, found), found


def agree(world: World, groups: dict[str, int]) -> bool:
    labels = [groups[face] for face in world.ids]
    return (
        len(set(zip(world.truth.tolist(), labels, strict=True))) == len(set(world.truth.tolist())) == len(set(labels))
    )


@pytest.fixture(scope="module")
def crowd() -> World:
    generator = np.random.default_rng(5)
    return World(*people(generator, generator.integers(1, 30, 60).tolist(), dim=64, noise=0.5))


def test_people_are_found_exactly_and_through_lists(crowd: World, tmp_path: Path) -> None:
    exact = ClusterSection(exact_below=10_000)
    assert agree(crowd, cluster(crowd, tmp_path / "exact", settings=exact)[0])
    assert agree(crowd, cluster(crowd, tmp_path / "lists")[0])


@pytest.mark.parametrize(("files", "seed"), [(1, None), (5, 1), (11, 2)])
def test_files_and_order_do_not_matter(crowd: World, tmp_path: Path, files: int, seed: int | None) -> None:
    wanted, _ = cluster(crowd, tmp_path / "one")
    assert cluster(crowd, tmp_path / "other", files, seed)[0] == wanted


class Killed(Exception):
    pass


class Dying(LocalExchange):
    """Dies before or after its nth job."""

    def __init__(self, job: int, after: bool) -> None:
        super().__init__()
        self.left, self.after, self.jobs = job, after, 0

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        self.jobs += 1
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        out = super().run(items, first, *then, keys=keys)
        if self.left == 0:
            raise Killed
        return out


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_job_it_goes_on_to_the_same_end(crowd: World, tmp_path: Path, after: bool) -> None:
    wanted, _ = cluster(crowd, tmp_path / "calm")
    paths = crowd.write(tmp_path / "faces")
    counting = Dying(0, after)
    clustering_of(paths, tmp_path / "count", 64, exchange=counting).run()
    assert counting.jobs >= len(STEPS)
    for job in range(1, counting.jobs + 1):
        place = tmp_path / f"work-{job}"
        with pytest.raises(Killed):
            clustering_of(paths, place, 64, exchange=Dying(job, after)).run()
        rest = Dying(0, after)
        found = clustering_of(paths, place, 64, exchange=rest).run()
        assert by_id(paths, found) == wanted
        assert rest.jobs <= counting.jobs


@pytest.fixture
def small_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facelake.cluster.lists.FACES_PER_CELL", 90)


@pytest.mark.usefixtures("small_cells")
@pytest.mark.parametrize(("scratch", "few"), [(268_000, True), (1000, False)], ids=["three waves", "a cell at a time"])
def test_cells_joined_in_waves_give_the_same(crowd: World, tmp_path: Path, scratch: float, few: bool) -> None:
    paths = crowd.write(tmp_path / "faces")
    whole = clustering_of(paths, tmp_path / "whole", 64)
    wanted = by_id(paths, whole.run())
    counting = Dying(0, after=False)
    steps = clustering_of(paths, tmp_path / "waves", 64, exchange=counting, scratch_bytes=scratch)
    assert by_id(paths, steps.run()) == wanted
    waves = len(list(steps.store.list("waves/")))
    assert waves == (3 if few else whole.work.read(Indexed).cells) > 1
    for item in list(whole.store.list("edges/")):
        assert whole.store.read(item.key) == steps.store.read(item.key)
    for job in range(4, 4 + waves):  # scan, sample, index; then each wave dies once, and the next run has another size
        place = tmp_path / f"killed-{job}"
        with pytest.raises(Killed):
            clustering_of(paths, place, 64, exchange=Dying(job, after=True), scratch_bytes=scratch).run()
        rest = Dying(0, after=False)
        assert by_id(paths, clustering_of(paths, place, 64, exchange=rest, scratch_bytes=scratch).run()) == wanted
        assert rest.jobs == counting.jobs - job + 1
    with pytest.raises(Killed):
        clustering_of(paths, tmp_path / "moved", 64, exchange=Dying(5, after=True), scratch_bytes=scratch).run()
    assert by_id(paths, clustering_of(paths, tmp_path / "moved", 64, scratch_bytes=537_000).run()) == wanted


def test_finished_steps_are_not_done_again_and_another_state_starts_anew(crowd: World, tmp_path: Path) -> None:
    paths = crowd.write(tmp_path / "faces")
    first = clustering_of(paths, tmp_path / "work", 64).run()
    again = Dying(0, after=False)
    found = clustering_of(paths, tmp_path / "work", 64, exchange=again).run()
    assert again.jobs == 0
    assert by_id(paths, found) == by_id(paths, first)
    assert found.manifest == first.manifest
    other = clustering_of(paths, tmp_path / "work", 64, exchange=Dying(0, after=False))
    other = replace(other, work=replace(other.work, run="another"))
    other.run()
    assert other.exchange.jobs > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("deleted", [0, 1, 2, 9, 30])
def test_killed_while_it_drops_what_it_left_it_starts_anew(crowd: World, tmp_path: Path, deleted: int) -> None:
    paths = crowd.write(tmp_path / "faces")
    steps = clustering_of(paths, tmp_path / "work", 64)
    wanted = by_id(paths, steps.run())
    store, left = type(steps.store), deleted

    def delete(self: Any, key: str, really: Any = store.delete) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        really(self, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "delete", delete)
        with pytest.raises(Killed):
            steps.clear()
    assert by_id(paths, clustering_of(paths, tmp_path / "work", 64).run()) == wanted
    steps.clear()
    assert not list(steps.store.list(""))


def test_duplicates_share_a_group_and_count_once(tmp_path: Path) -> None:
    generator = np.random.default_rng(8)
    x, truth = people(generator, [4] * 30, dim=64)
    twice = World(np.concatenate([x, x, x[:5]]), np.concatenate([truth, truth, truth[:5]]))
    groups, found = cluster(twice, tmp_path)
    assert found.duplicates == 125
    assert len(found.labels) == 120
    assert agree(twice, groups)


def test_rows_that_cannot_be_compared_are_set_aside_by_reason(tmp_path: Path) -> None:
    x, truth = people(np.random.default_rng(1), [5] * 20, dim=64)
    x[3], x[7, 2], x[9] = 0, np.nan, x[8] * 12
    quality = np.ones(100, np.float32)
    quality[11] = 0.05
    world = World(x, truth, quality)
    settings = SMALL.model_copy(update={"min_quality": 0.1})
    groups, found = cluster(world, tmp_path, settings=settings)
    assert {name: count for name, count in found.states.items() if count} == {
        "sound": 97, "zero": 1, "not_finite": 1, "too_poor": 1,
    }  # fmt: skip
    assert [groups[world.ids[i]] for i in (3, 7, 11)] == [-1, -1, -1]
    assert groups[world.ids[9]] == groups[world.ids[8]]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_faces(tmp_path: Path, count: int) -> None:
    world = World(unit(np.random.default_rng(0), max(count, 1), 16)[:count], np.arange(count))
    _, found = cluster(world, tmp_path, files=1)
    assert found.labels.tolist() == list(range(count))


def test_equal_faces_are_one_person(tmp_path: Path) -> None:
    x = np.tile(unit(np.random.default_rng(0), 1, 32), (700, 1))
    _, found = cluster(World(x, np.zeros(700, int)), tmp_path)
    assert found.labels.tolist() == [0]
    assert found.duplicates == 699


def test_one_giant_identity_among_others(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    world = World(*people(generator, [4000, *[3] * 200], dim=64, noise=0.45))
    groups, _ = cluster(world, tmp_path)
    giant = [groups[face] for face, t in zip(world.ids, world.truth, strict=True) if t == 0]
    values, counts = np.unique(giant, return_counts=True)
    assert counts.max() >= 3990
    others = {groups[face] for face, t in zip(world.ids, world.truth, strict=True) if t != 0}
    assert int(values[counts.argmax()]) not in others


def test_a_chain_of_look_alikes_does_not_become_one_person(tmp_path: Path) -> None:
    angle = np.linspace(0, np.pi * 0.9, 40)
    x = np.zeros((40, 8), np.float32)
    x[:, 0], x[:, 1] = np.cos(angle), np.sin(angle)
    groups, _ = cluster(World(x, np.arange(40)), tmp_path, settings=ClusterSection(threshold=0.7))
    assert len(set(groups.values())) > 1


def test_two_people_who_look_alike_stay_apart(tmp_path: Path) -> None:
    """Each .93 alike with himself, .55 with the other: above the cut for chance, below what one person reaches."""
    generator = np.random.default_rng(1)
    base = unit(generator, 3, 128)
    one, two = base[0], 0.55 * base[0] + np.sqrt(1 - 0.55**2) * base[1]
    x = np.concatenate([v + 0.27 * unit(generator, 4, 128) for v in (one, two)])
    world = World((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), np.repeat([0, 1], 4))
    assert agree(world, cluster(world, tmp_path, settings=ClusterSection(threshold=0.47))[0])


def test_sessions_of_one_person_in_a_small_corpus_are_one_group(tmp_path: Path) -> None:
    vectors, _, person = sessions(templates(30), shift=1.4)
    world = World(vectors, person)
    groups, clustered = cluster(world, tmp_path)
    assert agree(world, groups)
    assert clustered.manifest["rejoined"].startswith("1 joins among 31 groups")


def test_a_person_who_turns_from_one_side_to_the_other_is_one_group(tmp_path: Path) -> None:
    """Photos of the way between are few: the map equation makes two groups, whose mean similarity is low."""
    generator = np.random.default_rng(0)
    people = np.repeat(unit(generator, 250, 128), 9, 0) + 0.5 * unit(generator, 2250, 128)
    angle = np.concatenate([np.linspace(0, 0.4, 12), np.linspace(0.6, 1, 12)]) * 0.7 * np.pi
    axes = np.linalg.qr(generator.standard_normal((128, 3)))[0].T
    turning = np.cos(angle)[:, None] * axes[0] + np.sin(angle)[:, None] * axes[1] + 0.45 * axes[2]
    turning /= np.linalg.norm(turning, axis=1, keepdims=True)
    x = np.concatenate([people, turning + 0.35 * unit(generator, 24, 128)])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    world = World(x.astype(np.float32), np.concatenate([np.repeat(np.arange(250), 9), np.full(24, 250)]))
    groups, clustered = cluster(world, tmp_path)
    assert agree(world, groups)
    assert clustered.manifest["overlapping"].startswith("1 joins")


def test_hundreds_of_photos_of_a_turning_head_are_one_group(tmp_path: Path) -> None:
    """A face's list of 32 neighbours ends inside its own half, so that links between the halves are counted by sample."""
    generator = np.random.default_rng(0)
    people = np.repeat(unit(generator, 150, 128), 20, 0) + 0.6 * unit(generator, 3000, 128)
    angle = np.concatenate([generator.normal(0.25, 0.22, 240), generator.normal(1.15, 0.22, 240)])
    axes = np.linalg.qr(generator.standard_normal((128, 2)))[0].T
    turning = np.cos(angle)[:, None] * axes[0] + np.sin(angle)[:, None] * axes[1]
    x = np.concatenate([people, turning + 0.35 * unit(generator, 480, 128)])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    world = World(x.astype(np.float32), np.concatenate([np.repeat(np.arange(150), 20), np.full(480, 150)]))
    groups, clustered = cluster(world, tmp_path)
    assert agree(world, groups)
    assert clustered.manifest["overlapping"].startswith("1 joins")


def test_a_doubled_face_id_is_corrupt(crowd: World, tmp_path: Path) -> None:
    doubled = World(crowd.x, crowd.truth)
    doubled.ids[5] = doubled.ids[6]
    with pytest.raises(Corrupt, match="share a face id"):
        cluster(doubled, tmp_path)


def families(generator: np.random.Generator, count: int, members: int, faces: int) -> World:
    """Siblings with cosine .35 of each other and few faces each, of which two have .65 on average."""
    dim, many = 256, count * members
    shared = np.repeat(unit(generator, count, dim), members, axis=0)
    centres = np.sqrt(0.35) * shared + np.sqrt(0.65) * unit(generator, many, dim)
    truth = np.repeat(np.arange(many), faces)
    x = np.sqrt(0.65) * centres[truth] + np.sqrt(0.35) * unit(generator, len(truth), dim)
    return World((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), truth)


def test_siblings_with_few_faces_each_stay_apart(tmp_path: Path) -> None:
    world = families(np.random.default_rng(1), 60, 6, 8)
    groups, _ = cluster(world, tmp_path)
    labels = np.array([groups[face] for face in world.ids])
    same = labels[:, None] == labels
    of_one = world.truth[:, None] == world.truth
    precision, recall = (same & of_one).sum() / same.sum(), (same & of_one).sum() / of_one.sum()
    assert precision > 0.95
    assert recall > 0.95


def test_results_of_another_format_are_not_resumed_from(crowd: World, tmp_path: Path) -> None:
    paths = crowd.write(tmp_path / "faces")
    wanted = by_id(paths, clustering_of(paths, tmp_path / "work", 64).run())
    store = open_store(str(tmp_path / "work"))
    store.write("state", b"state")  # as an earlier version wrote it
    store.write("done/scan", b"\0\0\0\0")
    assert by_id(paths, clustering_of(paths, tmp_path / "work", 64).run()) == wanted


def test_tasks_travel_to_workers(tmp_path: Path) -> None:
    work = Work(LocalFiles(()), str(tmp_path), "{}", "state", 64)
    known = Known(np.zeros(3, np.uint8), Gate(np.zeros(0, np.float32), np.zeros((1, 1), np.float32)), CUTS)
    tasks: list[Any] = [
        ScanTasks(work, 0.1).scan,
        IndexTasks(work, Search(), 0.5).make_lists,
        JoinTasks(work, Search(), exact=False, wave=1, waves=3).unite,
        SecondPassTasks(work, CUTS, 32, 8).answer,
        GroupingTasks(work, known, 0).local,
    ]
    for task in tasks:
        back = pickle.loads(pickle.dumps(task))
        assert back.__name__ == task.__name__
        assert back.__self__.work == work
