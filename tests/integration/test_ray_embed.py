"""The Ray engine: workers that die, photos that kill, chunks that landed half."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from facelake.config import Config, EmbedSection, RaySection
from facelake.contracts import Chunk, ChunkReceipt
from facelake.embed import Pack, PipelineOptions
from facelake.engines.chunk_worker import ChunkTask, WorkerSpec, chunk_stem, tasks_of
from facelake.engines.ray_embed import RayEmbedder
from facelake.lake.lake import Lake

_ROWS = 24


@pytest.fixture(scope="module", autouse=True)
def _stop_ray() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture
def spec(demo_template: tuple[Path, dict[str, Any]], pack: Pack, tmp_path: Path) -> WorkerSpec:
    Lake.create(str(tmp_path / "lake"))
    corpus = str(demo_template[0] / "corpus")
    return WorkerSpec(pack, PipelineOptions(), "m" * 32, str(tmp_path / "lake"), corpus, Config().s3)


def chunks(size: int = 8) -> list[Chunk]:
    return [
        Chunk("demo-0.parquet", start, start + size, tuple(range(start, start + size)), size, str(start))
        for start in range(0, _ROWS, size)
    ]


def run(spec: WorkerSpec, actors: int = 2, **embed: Any) -> tuple[list[ChunkReceipt], RayEmbedder]:
    engine = RayEmbedder(spec, EmbedSection(actors=actors, **embed), RaySection(num_cpus=2))
    try:
        return sorted(engine.run(tasks_of(chunks(), 2)), key=lambda r: r.chunk.row_start), engine
    finally:
        engine.close()


def test_tasks_bundle_neighbours_of_one_file() -> None:
    other = Chunk("other.parquet", 0, 8, (0,), 1, "")
    assert [[c.row_start for c in t.chunks] for t in tasks_of([*chunks(), other], 2)] == [[0, 8], [16], [0]]


def test_each_chunk_gives_one_receipt_that_adds_up(spec: WorkerSpec) -> None:
    receipts, _ = run(spec)
    assert [r.chunk for r in receipts] == chunks()
    assert all(r.embedded + r.rejected == len(r.chunk.rows) for r in receipts)
    assert sum(r.faces.rows for r in receipts if r.faces) == sum(r.face_rows for r in receipts)
    assert all(r.faces.path.startswith(chunk_stem(spec.model_digest, r.chunk)) for r in receipts if r.faces)


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
    """A real death (SIGKILL of itself) in the worker, twice alone, then condemned; all others are embedded."""
    from facelake.engines import ray_embed

    class DeadlyActor(ray_embed._EmbedActor):
        def __init__(self, spec: WorkerSpec) -> None:
            super().__init__(spec)
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


def test_condemned_rows_are_not_touched(spec: WorkerSpec) -> None:
    from facelake.engines.chunk_worker import ChunkWorker

    (receipt,) = ChunkWorker(spec).run(ChunkTask(tuple(chunks()[:1]), frozenset({2, 3})))
    assert receipt.reasons["worker_died"] == 2
