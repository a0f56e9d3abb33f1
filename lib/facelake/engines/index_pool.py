"""Runs the tasks that index a corpus: in threads, or as Ray tasks where there are many or a cluster is configured."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, TypeVar

from facelake.config import RaySection
from facelake.engines.ray_isolation import isolate_local_ray
from facelake.errors import FacelakeError

_RAY_FROM_TASKS = 16  # fewer are done before a local Ray has started
T = TypeVar("T")
R = TypeVar("R")


def perform(function: Callable[[T], R], tasks: Iterable[T], ray_section: RaySection) -> Iterator[R]:
    """Yield the result of each task, in any order; only a few tasks are in memory at a time.

    Raises:
        FacelakeError: as raised by the first task that failed.
    """
    source = iter(tasks)
    first = list(islice(source, _RAY_FROM_TASKS))
    everything = chain(first, source)
    if len(first) < _RAY_FROM_TASKS and not (ray_section.address and first):
        yield from _in_threads(function, everything)
    else:
        yield from _on_ray(function, everything, ray_section)


def _in_threads(function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    workers = min(os.cpu_count() or 1, 8)
    pending: deque[Any] = deque()
    with ThreadPoolExecutor(workers, "facelake-index") as pool:
        try:
            for task in tasks:
                pending.append(pool.submit(function, task))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _on_ray(function: Callable[[T], R], tasks: Iterable[T], ray_section: RaySection) -> Iterator[R]:
    isolate_local_ray(ray_section)
    import ray
    from ray.exceptions import RayTaskError

    from facelake.engines.ray_embed import start_ray

    start_ray(ray_section)
    remote: Any = ray.remote(num_cpus=1, max_retries=3)(function)
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: list[Any] = []
    source = iter(tasks)
    while True:
        while len(running) < most and (task := next(source, None)) is not None:
            running.append(remote.remote(task))
        if not running:
            return
        ready, running = ray.wait(running, num_returns=1)
        try:
            yield ray.get(ready[0])
        except RayTaskError as err:
            raise (err.cause if isinstance(err.cause, FacelakeError) else err) from None
