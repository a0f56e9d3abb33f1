"""The Ray engine: workers that die, photos that kill, chunks that landed half."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow as pa
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from facelake.config import Config, EmbedSection, RaySection
from facelake.contracts import Chunk, ChunkReceipt, DataFileName, Reject
from facelake.embed import DecodeLimits, Opened, Opener, Pack, PipelineOptions, Undecoded
from facelake.engines.chunk_worker import WORKER_FAILED, ChunkTask, ChunkWorker, WorkerSpec, tasks_of
from facelake.engines.embed_metrics import METRICS
from facelake.engines.embed_process import ProcessEmbedder, needs_ray, open_ray
from facelake.engines.ray_decoders import DecoderPool
from facelake.engines.ray_embed import RayEmbedder, _exit_on_gpu_failure, start_ray
from facelake.errors import FacelakeError
from facelake.lake.corpora.parquet import Corpus
from facelake.lake.data_files import read_file
from facelake.lake.lake import Lake
from facelake.lake.store import open_store

_ROWS = 24


@pytest.fixture(scope="module", autouse=True)
def _stop_ray() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture
def spec(demo_template: tuple[Path, dict[str, Any]], pack: Pack, tmp_path: Path) -> WorkerSpec:
    Lake.create(str(tmp_path / "lake"))
    corpus = str(demo_template[0] / "corpus")
    return WorkerSpec(pack, PipelineOptions(), "a" * 32, str(tmp_path / "lake"), corpus, Config().s3)


def chunks(size: int = 8) -> list[Chunk]:
    return [
        Chunk("demo-0.parquet", start, start + size, tuple(range(start, start + size)), size, str(start))
        for start in range(0, _ROWS, size)
    ]


def others(size: int) -> list[Chunk]:
    """Two groups, which take longest, photos without a face and damaged ones."""
    starts = range(86, 140, size)
    return [
        Chunk("demo-1.parquet", start, start + size, tuple(range(start, start + size)), size, "") for start in starts
    ]


def rows_of(spec: WorkerSpec, receipts: list[ChunkReceipt]) -> dict[str, pa.Table]:
    """What was staged, in corpus order."""
    store = open_store(spec.lake_uri)
    staged = {name: [getattr(r, name) for r in receipts if getattr(r, name)] for name in ("faces", "rejects")}
    return {name: pa.concat_tables(read_file(store, name, r.path) for r in found) for name, found in staged.items()}


def run(spec: WorkerSpec, actors: int = 2, **embed: Any) -> tuple[list[ChunkReceipt], RayEmbedder]:
    engine = RayEmbedder(spec, EmbedSection(actors=actors, **embed), RaySection(num_cpus=2))
    try:
        return sorted(engine.run(tasks_of(chunks(), 2)), key=lambda r: r.chunk.row_start), engine
    finally:
        engine.close()


def by_process(spec: WorkerSpec, stall_s: float = 300.0) -> ProcessEmbedder:
    return ProcessEmbedder(spec, lambda: open_ray(spec, EmbedSection(actors=1), RaySection(num_cpus=2)), stall_s)


def test_one_process_gives_the_same_rows(spec: WorkerSpec) -> None:
    tasks = [ChunkTask(tuple(chunks()[:2]), frozenset({3})), ChunkTask(tuple(others(54)))]
    engine = by_process(spec)
    try:
        receipts = list(engine.run(tasks))
    finally:
        engine.close()
    here = [receipt for task in tasks for receipt in ChunkWorker(spec).run(task)]
    assert [r.chunk for r in receipts] == [r.chunk for r in here]
    assert rows_of(spec, receipts) == rows_of(spec, here)
    assert sum(r.embedded for r in receipts) > 15
    assert not engine.uses_ray
    assert engine._process.returncode == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_process_leaves_is_embedded_on_ray(spec: WorkerSpec, how: signal.Signals) -> None:
    """The process ends, or stalls, after its first chunk."""
    engine = by_process(spec, stall_s=3.0)
    receipts = []
    try:
        for receipt in engine.run(tasks_of(chunks(), 2)):
            if not receipts:
                os.kill(engine._process.pid, how)
            receipts.append(receipt)
        assert engine.uses_ray
    finally:
        engine.close()
    assert sorted(r.chunk.row_start for r in receipts) == [chunk.row_start for chunk in chunks()]
    assert sum(r.embedded + r.rejected for r in receipts) == _ROWS


def test_an_error_of_a_task_is_the_error_of_the_run(spec: WorkerSpec) -> None:
    engine = by_process(replace(spec, corpus_uri=f"{spec.lake_uri}/nothing"))
    try:
        with pytest.raises(FacelakeError):
            list(engine.run(tasks_of(chunks(), 2)))
    finally:
        engine.close()
    assert not engine.uses_ray


def test_few_photos_need_no_ray_but_where_it_is_configured() -> None:
    few, auto, local = 199, EmbedSection(), RaySection()
    assert not needs_ray(auto, local, few)
    assert needs_ray(auto, local, 200)
    assert needs_ray(auto, RaySection(one_process_below=0), 1)
    assert needs_ray(auto, RaySection(address="auto"), few)
    assert needs_ray(EmbedSection(actors=1), local, few)
    assert needs_ray(EmbedSection(decoders=1), local, few)
    assert needs_ray(EmbedSection(use_gpu=True), local, few)


def test_tasks_bundle_neighbours_of_one_file() -> None:
    other = Chunk("other.parquet", 0, 8, (0,), 1, "")
    assert [[c.row_start for c in t.chunks] for t in tasks_of([*chunks(), other], 2)] == [[0, 8], [16], [0]]


def test_each_chunk_gives_one_receipt_that_adds_up(spec: WorkerSpec) -> None:
    receipts, _ = run(spec)
    assert [r.chunk for r in receipts] == chunks()
    assert all(r.embedded + r.rejected == len(r.chunk.rows) for r in receipts)
    assert sum(r.faces.rows for r in receipts if r.faces) == sum(r.face_rows for r in receipts)
    assert all(
        DataFileName.parse(r.faces.path).with_nonce("")
        == DataFileName.of_chunk(spec.model_digest, r.chunk.corpus_file, r.chunk.row_start)
        for r in receipts
        if r.faces
    )


def test_workers_killed_at_random_lose_and_double_nothing(spec: WorkerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    take, deaths = RayEmbedder._take, []

    def killing_take(self: RayEmbedder, slot: Any) -> Iterator[ChunkReceipt]:
        yield from take(self, slot)
        if len(deaths) < 4 and slot.task is not None:
            deaths.append(1)
            ray.kill(slot.actor)

    monkeypatch.setattr(RayEmbedder, "_take", killing_take)
    receipts, _ = run(spec, max_attempts=50)
    assert deaths
    assert [r.chunk for r in receipts] == chunks()


def test_a_photo_that_kills_its_worker_becomes_a_reject(spec: WorkerSpec, tmp_path: Path) -> None:
    """A real death (SIGKILL of itself) in the worker, twice alone, then failing; all others are embedded."""
    from facelake.engines import ray_embed

    class DeadlyActor(ray_embed._EmbedActor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            import os
            import signal

            worker: Any = self._worker
            pipeline = worker._pipeline.run

            def deadly(photos: Any, *more: Any) -> Any:
                photos = list(photos)
                if any(row in (5, 17) for row, _, _ in photos):
                    os.kill(os.getpid(), signal.SIGKILL)
                return pipeline(photos, *more)

            worker._pipeline.run = deadly

    original = ray_embed._Actor
    ray_embed._Actor = ray.remote(max_restarts=0, max_task_retries=0)(DeadlyActor)
    try:
        receipts, _ = run(spec)
    finally:
        ray_embed._Actor = original
    assert [r.chunk for r in receipts] == chunks()
    died = {r.chunk.row_start: r.reasons.get("worker_died", 0) for r in receipts}
    assert died == {0: 1, 8: 0, 16: 1}
    assert sum(r.embedded + r.rejected for r in receipts) == _ROWS


def test_failing_rows_are_not_touched(spec: WorkerSpec) -> None:
    (receipt,) = ChunkWorker(spec).run(ChunkTask(tuple(chunks()[:1]), frozenset({2, 3})))
    assert receipt.reasons["worker_died"] == 2


def test_decoders_of_their_own_give_the_same_rows(spec: WorkerSpec) -> None:
    """Groups, photos without a face, damaged ones; chunks larger than a batch and smaller; a row that is failing."""
    task = ChunkTask(tuple(others(18)), frozenset({95}))
    engine = RayEmbedder(spec, EmbedSection(actors=1, decoders=1), RaySection(num_cpus=2))
    try:
        receipts = list(engine.run([task]))
    finally:
        engine.close()
    here = list(ChunkWorker(spec).run(task))
    assert [r.chunk for r in receipts] == [r.chunk for r in here] == others(18)
    rows = rows_of(spec, receipts)
    assert rows == rows_of(spec, here)
    assert rows["faces"].num_rows > 0
    assert set(rows["rejects"]["reason"].to_pylist()) >= {"worker_died", "no_face", "unreadable"}


def test_a_decoder_that_dies_is_replaced_and_a_photo_that_kills_it_is_known(spec: WorkerSpec) -> None:
    class Deadly(Opener):
        def open_all(self, photos: Sequence[bytes]) -> list[Opened]:
            import os
            import signal

            if b"deadly" in photos:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().open_all(photos)

    start_ray(RaySection(num_cpus=2))
    photos = [data for _, _, data in Corpus(spec.corpus_uri).images("demo-0.parquet", 0, 6)]
    opener = Opener(DecodeLimits())
    pool = DecoderPool(Deadly(DecodeLimits()), 2)
    first, second = pool.begin([*photos[:3], b"deadly", *photos[3:]]), pool.begin(photos)  # as a worker has them
    found = pool.end(first)
    assert found.pop(3) == Opened("", Undecoded(Reject.WORKER_DIED, WORKER_FAILED))
    ray.kill(pool._decoders[0])
    for opened in (found, pool.end(second), pool.end(pool.begin(photos))):
        for mine, data in zip(opened, photos, strict=True):
            (wanted,) = opener.open_all([data])
            assert mine.sha256 == wanted.sha256
            assert (mine.photo.pixels == wanted.photo.pixels).all()  # type: ignore[union-attr]
    assert pool.end(pool.begin([])) == []


def test_the_pool_grows_while_photos_wait_and_not_beyond_the_cluster(spec: WorkerSpec) -> None:
    """Three may be, two have room; the third never starts and nobody waits for it."""
    engine = RayEmbedder(spec, EmbedSection(actors=1, max_actors=3), RaySection(num_cpus=2))
    tasks, given, sizes = list(tasks_of(chunks(2), 1)), [], set()

    def more() -> Iterator[ChunkTask]:
        """All tasks once, and again until the pool has grown: a further worker may take longer to start than many tasks."""
        deadline = time.monotonic() + 120
        for number in count():
            sizes.add(len(engine._slots))
            if number >= len(tasks) and (len(engine._slots) == 3 or time.monotonic() > deadline):
                return
            given.append(tasks[number % len(tasks)])
            yield given[-1]

    try:
        receipts = list(engine.run(more()))
        assert sorted(r.chunk.row_start for r in receipts) == sorted(t.chunks[0].row_start for t in given)
        assert max(sizes) == 3
        assert len(engine._slots) == 1
    finally:
        engine.close()


@pytest.mark.parametrize(("name", "dies"), [("OutOfMemoryError", True), ("AcceleratorError", True), ("Other", False)])
def test_a_worker_dies_with_its_gpu(name: str, dies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own hand, so that it is replaced, and its chunk tried again, as after any death."""
    exits: list[int] = []
    monkeypatch.setattr("facelake.engines.ray_embed.os._exit", exits.append)
    with contextlib.nullcontext() if dies else pytest.raises(RuntimeError), _exit_on_gpu_failure():
        raise type(name, (RuntimeError,), {})("CUDA error")
    assert exits == ([75] if dies else [])


def test_prometheus_gets_from_ray_what_the_receipts_count(spec: WorkerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a Ray of its own, so that no other test's photos are in the sums."""
    ray.shutdown()
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    engine = RayEmbedder(spec, EmbedSection(actors=2), RaySection(num_cpus=2))
    try:
        receipts = list(engine.run(tasks_of([*chunks(), *others(18)], 2)))
        reasons: Counter[str] = Counter()
        for receipt in receipts:
            reasons.update(receipt.reasons)
        assert len(reasons) >= 3
        wanted = {
            ("photos_total", ""): sum(r.embedded + r.rejected for r in receipts),
            ("faces_total", ""): sum(r.face_rows for r in receipts),
            ("chunk_seconds_count", ""): len(receipts),
            ("queue_chunks", ""): 0,
        } | {("rejects_total", reason): photos for reason, photos in reasons.items()}
        deadline = time.monotonic() + 120
        while (found := scraped()) != wanted and time.monotonic() < deadline:
            time.sleep(1)
        assert found == wanted
    finally:
        engine.close()
        ray.shutdown()


def scraped() -> dict[tuple[str, str], float]:
    """Sums over all workers, by the metric's name without its prefix and by reason."""
    (node,) = ray.nodes()
    with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as reply:
        text = reply.read().decode()
    sums: Counter[tuple[str, str]] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix("ray_")
            if name in METRICS or name == "facelake_embed_chunk_seconds_count":
                sums[name.removeprefix("facelake_embed_"), sample.labels.get("reason", "")] += sample.value
    return dict(sums)
