"""The residual scan as tasks: the same hits whatever the tasks, and an answer for every object or an error."""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.engines.exchange import Block, Emit, LocalExchange, Reduce
from facelake.erase import Bounds, Needles, scan
from facelake.errors import Corrupt, Retryable
from facelake.lake.lake import Lake
from facelake.lake.object_store import StoredObject
from facelake.lake.store import every_object
from facelake.stages.erasure import scanning
from facelake.stages.erasure.scanning import ScanTasks, scan_on, tasks_of

NAME = "album/ann.jpg"
VECTOR = np.random.default_rng(7).standard_normal(64).astype("<f2").tobytes()
OBJECTS = 64


def parquet(names: list[str], vector: bytes) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"image_id": names, "embedding": pa.array([vector] * len(names), pa.binary())}), sink)
    return sink.getvalue()


def content(number: int, generator: np.random.Generator) -> bytes:
    """One of four kinds of objects; every third of a kind has the name, every fifth the vector."""
    name = NAME if number % 3 == 0 else f"album/{number}.jpg"
    vector = VECTOR if number % 5 == 0 else generator.bytes(128)
    noise = generator.bytes(int(generator.integers(0, 20_000)))
    kinds = (
        lambda: parquet([name, "album/bob.jpg"], vector),
        lambda: gzip.compress(noise + f' "{name}" '.encode() + vector),
        lambda: base64.b64encode(noise) + b" " + name.encode() + b" " + base64.b64encode(vector),
        lambda: noise,
    )
    return kinds[number % 4]()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return filled(Lake.create(str(tmp_path / "lake")))


def filled(lake: Lake) -> Lake:
    """Write objects into a lake, some with the name or the vector."""
    generator = np.random.default_rng(3)
    for number in range(OBJECTS):
        kind = ".parquet" if number % 4 == 0 else ""
        lake.store.write(f"things/{number:03d}{kind}", content(number, generator))
    return lake


def listed(lake: Lake) -> list[StoredObject]:
    return list(every_object(lake.store))


def needles_of() -> tuple[Needles, Needles]:
    return Needles.of([NAME], [VECTOR]), Needles.of(["ann.jpg"], bounds=Bounds.WORD)


def one_by_one(lake: Lake, needles: Sequence[Needles]) -> list[tuple[str, int]]:
    counts = [
        (item.key, max(scan(item.key, lake.store.read(item.key), each) for each in needles)) for item in listed(lake)
    ]
    return [(key, count) for key, count in counts if count]


def in_tasks(lake: Lake, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scan have this number of tasks."""
    objects = listed(lake)
    whole = sum(item.size_bytes for item in objects) + len(objects) * scanning._OBJECT_BYTES
    monkeypatch.setattr(scanning, "_TASK_BYTES", -(-whole // count))
    assert len(tasks_of(lake, objects, ()).edges) - 1 == count


@pytest.mark.parametrize("tasks", [1, 2, 8])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_tasks_find_what_a_loop_finds(
    lake: Lake, tasks: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = one_by_one(lake, needles_of())
    assert 20 < len(wanted) < OBJECTS - 10
    in_tasks(lake, tasks, monkeypatch)
    searched, hits = scan_on(LocalExchange(threads), lake, listed(lake), needles_of())
    assert (searched, list(hits.items())) == (len(listed(lake)), wanted)


def test_objects_in_several_waves_are_those_in_one(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = one_by_one(lake, needles_of())
    monkeypatch.setattr(scanning, "_WAVE_OBJECTS", 7)
    searched, hits = scan_on(LocalExchange(), lake, listed(lake), needles_of())
    assert (searched, list(hits.items())) == (len(listed(lake)), wanted)


def test_a_lake_without_objects_has_no_hits(lake: Lake) -> None:
    assert scan_on(LocalExchange(), lake, [], needles_of()) == (0, {})


def test_a_task_has_about_as_many_bytes_as_the_others_or_one_object(lake: Lake) -> None:
    sizes = [5, 0, 3, 300, 7, 90, 10, 120, 1, 64] * 3
    objects = [StoredObject(f"o/{at}", size << 20) for at, size in enumerate(sizes)]
    edges = tasks_of(lake, objects, ()).edges.tolist()
    assert (edges[0], edges[-1]) == (0, len(objects))
    for begin, end in pairwise(edges):
        own = sizes[begin:end]
        assert begin < end
        assert sum(own) - max(own) <= 64


def test_an_object_deleted_since_the_listing_is_not_counted(lake: Lake) -> None:
    objects, before = listed(lake), dict(one_by_one(lake, needles_of()))
    lake.store.delete("things/000.parquet")
    searched, hits = scan_on(LocalExchange(), lake, objects, needles_of())
    assert searched == len(objects) - 1
    assert hits == {key: count for key, count in before.items() if key != "things/000.parquet"}


def test_an_object_replaced_since_the_listing_is_searched_as_it_is_now(lake: Lake) -> None:
    objects = listed(lake)
    lake.store.write("things/003", f"now it says {NAME}".encode())
    searched, hits = scan_on(LocalExchange(), lake, objects, needles_of())
    assert (searched, hits["things/003"]) == (len(objects), 1)


class Elsewhere:
    """Its tasks see another folder, as workers on hosts that do not share the lake's."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        tasks: ScanTasks = first.__self__  # type: ignore[attr-defined]
        return LocalExchange().run(items, replace(tasks, uri=self.uri).scan, *then, keys=keys)

    def close(self) -> None:
        """Do nothing."""


def test_many_objects_that_change_in_this_process_have_another_writer(lake: Lake) -> None:
    """No host that does not share the folder is to blame."""
    objects = listed(lake)
    changed = [item.key for item in objects if item.key.startswith("things/")][: scanning._MOST_AGAIN + 1]
    for key in changed[:-1]:
        lake.store.write(key, lake.store.read(key) + b"more")
    assert scan_on(LocalExchange(), lake, objects, needles_of())[0] == len(objects)
    lake.store.write(changed[-1], b"too many")
    with pytest.raises(Retryable, match="changed while the lake was searched") as failed:
        scan_on(LocalExchange(), lake, objects, needles_of())
    assert "other program that writes" in failed.value.next_step
    assert "hosts" not in str(failed.value)


def test_workers_that_do_not_see_the_lake_find_something_missing_and_not_nothing(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Retryable, match=r"did not find things/.*hosts share"):
        scan_on(Elsewhere(str(tmp_path / "empty")), lake, listed(lake), needles_of())


class Losing(LocalExchange):
    """Changes what the tasks answer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        blocks = super().run(items, first, *then, keys=keys)
        key, body = blocks[3]
        changed = {"lost": [], "short": [(key, body[:-8])], "twice": [(key, body)] * 2}[self.how]
        return [*blocks[:3], *changed, *blocks[4:]]


@pytest.mark.parametrize("how", ["lost", "short", "twice"])
def test_an_answer_that_is_missing_ends_the_scan(lake: Lake, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_tasks(lake, 8, monkeypatch)
    with pytest.raises(Corrupt, match="not scanned"):
        scan_on(Losing(how), lake, listed(lake), needles_of())


def test_a_store_that_fails_ends_the_scan(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(task: ScanTasks, at: int) -> Iterator[int]:
        raise Retryable("the store does not answer")

    monkeypatch.setattr(ScanTasks, "_hits", fail)
    with pytest.raises(Retryable, match="does not answer"):
        scan_on(LocalExchange(2), lake, listed(lake), needles_of())
