"""The residual scan: tasks of the engine, each with some objects of the lake, of which every one is accounted for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from facelake.config import Config
from facelake.contracts import I64
from facelake.engines.exchange import Block, Exchange, LocalExchange, task_edges
from facelake.engines.scratch import scratch_dir
from facelake.engines.select_exchange import open_exchange
from facelake.erase import Needles, scan
from facelake.errors import Corrupt, Retryable
from facelake.lake.lake import Lake
from facelake.lake.object_store import StoredObject
from facelake.lake.store import cached_store

_TASK_BYTES = 64 << 20
_OBJECT_BYTES = 1 << 17  # of scanning take as long as reading an object, however small
_WAVE_OBJECTS = 100_000  # whose names are sent to the workers at once
_BYTES_PER_FACE = 100_000  # scanning takes as long as clustering a face
_THREADS = 8  # where this process runs the tasks: each holds an object
_NOT_AS_LISTED = -1
_NO_ANSWER = -2
_MOST_AGAIN = 16  # objects that only change while they are scanned: leases, the newest log entries


@dataclass(frozen=True)
class ScanTasks:
    """The tasks, as the engine's exchange calls them.

    Attributes:
        uri: of the store.
        s3: the config's s3 section as JSON.
        needles: what to search for; an object's hits are the most of any.
        keys: of all objects.
        sizes: (n,) of the objects, in bytes, as listed.
        edges: (tasks + 1,) positions of the objects that begin a task.
    """

    uri: str
    s3: str
    needles: tuple[Needles, ...]
    keys: tuple[str, ...]
    sizes: I64
    edges: I64

    def scan(self, task: int) -> Iterator[Block]:
        """Send, by the position of the task's first object, the hits of its objects as int64; _NOT_AS_LISTED for one
        that is not there, or has another size than listed.
        """
        begin, end = self.edges[task : task + 2].tolist()
        found = np.array([self._hits(at) for at in range(begin, end)], "<i8")
        yield begin, found.tobytes()

    def _hits(self, at: int) -> int:
        try:
            data = cached_store(self.uri, self.s3).read(self.keys[at])
        except FileNotFoundError:
            return _NOT_AS_LISTED
        if len(data) != self.sizes[at]:
            return _NOT_AS_LISTED
        return max(scan(self.keys[at], data, needles) for needles in self.needles)


def scan_objects(
    config: Config, lake: Lake, objects: Sequence[StoredObject], *needles: Needles
) -> tuple[int, dict[str, int]]:
    """Search objects of a lake for needles: on Spark if there are many gigabytes or a cluster, else on threads.

    A local Spark is started only if the bytes are many, photos under `corpus/` included, since they take as long to
    search as others, and if the lake also has as many faces as clustering starts one for. A lake of few faces with
    large photos never needs Java otherwise, and an erasure must not be the first to need it.

    Args:
        config: of the run.
        lake: that has the objects.
        objects: to search.
        needles: what to search for; an object's hits are the most of any.

    Returns:
        The number of objects searched, without those that were deleted since they were listed; and the hits by key, in
        the order of the objects, without keys that have none.

    Raises:
        Retryable: a task failed, or the workers do not see the same objects as this process.
        Corrupt: a task did not answer for each of its objects.
    """
    total = sum(item.size_bytes for item in objects)
    threads = min(os.cpu_count() or 1, _THREADS)
    scratch = str(scratch_dir(lake.uri))
    # encrypted: tasks carry the person's names and embeddings, and Spark writes those of more than 1 MiB to disk
    faces = min(total // _BYTES_PER_FACE, lake["faces"].snapshot().rows)
    exchange = open_exchange(config.spark, faces, scratch, threads=threads, encrypted=True)
    try:
        return scan_on(exchange, lake, objects, needles)
    finally:
        exchange.close()


def scan_on(
    exchange: Exchange, lake: Lake, objects: Sequence[StoredObject], needles: Sequence[Needles]
) -> tuple[int, dict[str, int]]:
    """Search objects on an engine; as `scan_objects`."""
    searched, hits = 0, dict[str, int]()
    for begin in range(0, len(objects), _WAVE_OBJECTS):
        wave = objects[begin : begin + _WAVE_OBJECTS]
        tasks = tasks_of(lake, wave, needles)
        found = _searched_again(tasks, _run(exchange, tasks), here=isinstance(exchange, LocalExchange))
        searched += int((found >= 0).sum())
        hits |= {wave[at].key: int(found[at]) for at in np.flatnonzero(found > 0).tolist()}
    return searched, hits


def tasks_of(lake: Lake, objects: Sequence[StoredObject], needles: Sequence[Needles]) -> ScanTasks:
    """Divide objects among tasks, of which each takes about as long."""
    sizes = np.array([item.size_bytes for item in objects], np.int64)
    edges = task_edges(sizes + _OBJECT_BYTES, _TASK_BYTES)
    keys = tuple(item.key for item in objects)
    return ScanTasks(lake.store.uri, lake.s3.model_dump_json(), tuple(needles), keys, sizes, edges)


def _run(exchange: Exchange, tasks: ScanTasks) -> I64:
    """Return the answers (n,) of the tasks.

    Raises:
        Corrupt: one is missing, or there are two for one object.
    """
    found = np.full(len(tasks.keys), _NO_ANSWER, np.int64)
    answers = 0
    for begin, body in exchange.run(range(len(tasks.edges) - 1), tasks.scan):
        part = np.frombuffer(body, "<i8")
        found[begin : begin + len(part)] = part
        answers += len(part)
    missing = int((found < _NOT_AS_LISTED).sum())
    if missing or answers != len(found):
        what = f"{missing} of {len(found)} objects were not scanned, and {answers} answers came back"
        raise Corrupt(what, where=tasks.uri, next_step="run again; nothing was certified")
    return found


def _searched_again(tasks: ScanTasks, found: I64, *, here: bool) -> I64:
    """Return the answers, with objects that were not as listed searched by this process; _NOT_AS_LISTED is left where
    an object was deleted.

    Args:
        tasks: that gave the answers.
        found: (n,) the answers.
        here: whether this process ran the tasks.

    Raises:
        Retryable: there are many of these: another program writes them, or workers see another store than this process.
    """
    store, again, present = cached_store(tasks.uri, tasks.s3), found.copy(), 0
    for at in np.flatnonzero(found == _NOT_AS_LISTED).tolist():
        try:
            data = store.read(tasks.keys[at])
        except FileNotFoundError:
            continue
        present += 1
        if present > _MOST_AGAIN:
            raise _much_differs(tasks, tasks.keys[at], here=here)
        again[at] = max(scan(tasks.keys[at], data, needles) for needles in tasks.needles)
    return again


def _much_differs(tasks: ScanTasks, key: str, *, here: bool) -> Retryable:
    if here:
        what = f"{key} and more than {_MOST_AGAIN - 1} other objects changed while the lake was searched"
        next_step = "find the other program that writes to the lake's folder or bucket, stop it and run again"
    else:
        what = f"the tasks of the scan did not find {key} and others as this process does"
        next_step = "a lake on a cluster must be in a folder that all hosts share, or on s3://; if it is, another "
        next_step += "program writes to it: stop that one; run again"
    return Retryable(what, where=tasks.uri, next_step=next_step)
