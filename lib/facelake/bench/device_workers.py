"""Photos per second of several processes that share one device, each as a worker of `embed.workers_per_gpu` runs."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

from facelake.bench.memory import family_cpu_s
from facelake.embed import Pack, Pipeline, PipelineOptions

_START_S = 600.0  # a process that has not started by then fails the measurement
_OWN: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class SharedRate:
    """What several processes on one device gave together."""

    per_s: float
    """photos per second of all processes, from the first start to the last end"""
    cpu_ms: float
    """CPU milliseconds per photo, of all processes"""


def shared_rate(pack: Pack, options: PipelineOptions, data: list[bytes], workers: int) -> SharedRate:
    """Run the whole pipeline in `workers` processes at once, each over all photos.

    Every process embeds the photos once before any is measured, so that kernels are chosen and compiled.

    Args:
        data: the encoded photos.
    """
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used in a forked process
    barrier = context.Barrier(workers)
    with ProcessPoolExecutor(workers, context, initializer=_keep, initargs=(barrier,)) as pool:
        spans = list(pool.map(_embed, [(pack, options, data)] * workers))
    seconds = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    photos = workers * len(data)
    return SharedRate(photos / seconds, 1000 * sum(cpu_s for _, _, cpu_s in spans) / photos)


def _keep(barrier: Barrier) -> None:
    _OWN["barrier"] = barrier


def _embed(work: tuple[Pack, PipelineOptions, list[bytes]]) -> tuple[float, float, float]:
    """When the measured run began and ended, seconds of the machine's clock, and its CPU seconds."""
    pack, options, data = work
    rows = [(i, str(i), body) for i, body in enumerate(data)]
    list(Pipeline(pack, options).run(rows))
    pipeline = Pipeline(pack, options)  # a pipeline does not encode a face again that it has encoded
    list(pipeline.run(rows[:1]))  # captures its graphs
    _OWN["barrier"].wait(_START_S)
    cpu_s, began = family_cpu_s(), time.monotonic()
    list(pipeline.run(rows))
    return began, time.monotonic(), family_cpu_s() - cpu_s
