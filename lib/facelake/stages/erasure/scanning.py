"""The residual scan: every byte of every object, by one process per core."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from facelake.config import S3Section
from facelake.erase import Needles, scan
from facelake.errors import Retryable
from facelake.lake.store import cached_store

_OBJECTS_PER_TASK = 16
_IN_PROCESS_BELOW = 256  # objects; starting processes takes longer than scanning so few


def scan_objects(uri: str, s3: S3Section, keys: Sequence[str], needles: Needles) -> dict[str, int]:
    """Search objects of a store for needles.

    Args:
        uri: of the store.
        s3: how to reach it.
        keys: of the objects.
        needles: what to search for.

    Returns:
        Hits by key; keys without hits are left out.

    Raises:
        Retryable: a scanning process died.
    """
    store = uri, s3.model_dump_json()
    if len(keys) < _IN_PROCESS_BELOW:
        return _scan_some(store, needles, keys)
    chunks = [keys[at : at + _OBJECTS_PER_TASK] for at in range(0, len(keys), _OBJECTS_PER_TASK)]
    hits: dict[str, int] = {}
    method = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of Arrow and Ray
    try:
        with ProcessPoolExecutor(os.cpu_count(), method, _start, (store, needles)) as pool:
            for found in pool.map(_scan_chunk, chunks):
                hits |= found
    except BrokenProcessPool as err:
        what = "a process that scans the lake died"
        raise Retryable(what, where=uri, next_step="run again; with less memory use, if it was out of memory") from err
    return hits


_task: tuple[tuple[str, str], Needles] | None = None  # of this scanning process, set once when it starts


def _start(store: tuple[str, str], needles: Needles) -> None:
    global _task
    _task = store, needles


def _scan_chunk(keys: Sequence[str]) -> dict[str, int]:
    assert _task is not None
    return _scan_some(*_task, keys)


def _scan_some(store: tuple[str, str], needles: Needles, keys: Sequence[str]) -> dict[str, int]:
    reader, counts = cached_store(*store), {}
    for key in keys:
        with contextlib.suppress(FileNotFoundError):  # deleted since the listing, as leases are
            counts[key] = scan(key, reader.read(key), needles)
    return {key: count for key, count in counts.items() if count}
