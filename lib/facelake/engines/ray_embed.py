"""Embedding on Ray: a pool of actors that process chunk tasks and stream receipts to the driver.

A worker that ends is replaced and its unfinished chunks run again. A chunk whose worker ended too often is tried row by
row; a row that ends a worker twice on its own is marked as failing and becomes a reject row.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import shutil
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from facelake.config import EmbedSection, RaySection
from facelake.contracts import ChunkReceipt
from facelake.embed import open_opener
from facelake.engines.chunk_worker import ChunkTask, ChunkWorker, WorkerSpec
from facelake.engines.embed_metrics import EmbedMetrics
from facelake.engines.ray_decoders import DecoderPool
from facelake.engines.ray_isolation import must_be_isolated, must_be_on_loopback
from facelake.engines.scratch import clear_ray_sessions, new_ray_session
from facelake.errors import ConfigError, FacelakeError, Retryable

_LOG = logging.getLogger(__name__)
_DIED = (RayActorError, WorkerCrashedError, OutOfMemoryError, NodeDiedError)
_MAX_START_FAILURES = 3
_GPU_ERRORS, _GPU_EXIT = ("OutOfMemoryError", "AcceleratorError"), 75  # torch's errors by name: torch is optional
_HEAD_CHECK_INTERVAL_S, _HEAD_TIMEOUT_S = 5.0, 3.0
_UNREAD_RECEIPTS = 2  # a worker this far ahead of the driver waits, which bounds the work lost if the driver ends


class _EmbedActor:
    """The remote side: a ChunkWorker with metrics."""

    def __init__(self, spec: WorkerSpec, decoders: int = 0) -> None:
        opener = open_opener(spec.options, spec.retracted)
        self._worker = ChunkWorker(spec, DecoderPool(opener, decoders) if decoders else opener)
        self._metrics = EmbedMetrics()
        gc.collect()
        gc.freeze()  # modules and models are permanent, so the garbage collector need not visit them

    def run(self, task: ChunkTask) -> Iterator[ChunkReceipt]:
        remaining = len(task.chunks)
        self._metrics.set_queue(remaining)
        with _exit_on_gpu_failure():
            for receipt in self._worker.run(task):
                remaining -= 1
                self._metrics.count(receipt)
                self._metrics.set_queue(remaining)
                yield receipt

    def try_row(self, corpus_file: str, row: int) -> bool:
        with _exit_on_gpu_failure():
            self._worker.try_row(corpus_file, row)
        return True


@contextmanager
def _exit_on_gpu_failure() -> Iterator[None]:
    """End the process on a GPU error: a failed GPU stays unusable for its process, and the pool replaces the worker."""
    try:
        yield
    except RuntimeError as err:
        if type(err).__name__ not in _GPU_ERRORS:
            raise
        _LOG.error("the GPU failed: %s", " ".join(str(err).split())[:300])
        os._exit(_GPU_EXIT)


# the pool replaces actors itself, because it knows their unfinished chunks; Ray must not restart them
_Actor: Any = ray.remote(max_restarts=0, max_task_retries=0)(_EmbedActor)


@dataclass(slots=True)
class _Slot:
    """An actor and its task. It gets tasks only once it is ready: after the loss of a host it may never start."""

    actor: Any
    starting: Any = None
    ready: bool = False
    task: ChunkTask | None = None
    stream: Any = None
    last_result_s: float = 0.0
    failures: int = 0


def start_ray(section: RaySection) -> None:
    """Connect to the configured Ray, or start a local one.

    Raises:
        ConfigError: a Ray Client address, which does not support streaming results (Ray issue 43357, closed as not
            planned), or Ray was imported before a local one could be isolated.
        Retryable: the cluster does not respond.
    """
    if (section.address or "").startswith("ray://"):
        next_step = (
            "submit with `ray job submit`, or run `ray start --address=HEAD:6379 --num-cpus=0` here and set auto"
        )
        raise ConfigError(
            "Ray Client cannot stream results", where=f"ray.address {section.address}", next_step=next_step
        )
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if ray.is_initialized():
        return
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    if section.address is None:
        must_be_isolated()
        memory = section.object_store_mb << 20
        options |= {"num_cpus": section.num_cpus, "include_dashboard": False, "object_store_memory": memory}
        options |= _private_session()
    try:
        ray.init(address=section.address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as err:
        what = f"Ray cannot be reached: {' '.join(str(err).split())[:300]}"
        raise Retryable(what, where=section.address or "local", next_step="check ray.address and the cluster") from err
    if section.address is None:
        must_be_on_loopback(str(ray.get_runtime_context().gcs_address), stop=ray.shutdown)
    _silence_daemons()


def _private_session() -> dict[str, Any]:
    """Return options that put a local Ray's session (sockets, spilled objects) into a folder that others cannot enter;
    it is deleted at the end.
    """
    clear_ray_sessions()
    folder = new_ray_session()
    atexit.register(_stop_local, folder)
    return {"_temp_dir": str(folder / "r"), "_node_ip_address": "127.0.0.1"}


def _stop_local(folder: Path) -> None:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)  # what a daemon still writes is deleted by the next run


def _silence_daemons() -> None:
    """Stop Ray's daemons from printing messages about ended workers to stdout, where `--json` writes its result.

    Ray 2.60 does so regardless of log_to_driver and has no public option; the pool logs ended workers itself. This is
    the only use of Ray's private interface.
    """
    ray._private.worker._worker_logs_enabled = False


def _workers_that_fit(embed: EmbedSection) -> int:
    """The number of workers that the cluster's cores and, if used, GPUs allow; at least 1."""
    resources = ray.cluster_resources()
    by_cores = int(resources.get("CPU", 1)) // (1 + embed.decoders)
    by_gpus = int(resources.get("GPU", 0) * embed.workers_per_gpu)
    return max(1, min(by_cores, by_gpus) if embed.use_gpu else by_cores)


def _all_ready(watched: list[Any]) -> list[Any]:
    """Wait up to a second for the first, then return all that are ready, so that a worker whose receipts are always
    there does not keep the driver from the others.
    """
    ready, _ = ray.wait(watched, num_returns=1, timeout=1.0)
    if ready:
        ready, _ = ray.wait(watched, num_returns=len(watched), timeout=0)
    return list(ready)


class _Head:
    """Monitors Ray's head: without a head, Ray ends this process after a minute, without an error of facelake."""

    def __init__(self) -> None:
        self.address = str(ray.get_runtime_context().gcs_address)
        host, _, port = self.address.rpartition(":")
        self._place = (host.strip("[]"), int(port))
        self._responded_s = self._checked_s = time.monotonic()

    def responds(self) -> bool:
        """Whether the head accepts a connection now."""
        try:
            socket.create_connection(self._place, timeout=_HEAD_TIMEOUT_S).close()
        except OSError:
            return False
        return True

    def check(self, patience_s: float = 30.0) -> None:
        """Test the connection, at most every few seconds.

        Raises:
            Retryable: the head has not responded for `patience_s` seconds.
        """
        now = time.monotonic()
        if patience_s and now - self._checked_s < _HEAD_CHECK_INTERVAL_S:
            return
        self._checked_s = now
        if self.responds():
            self._responded_s = now
        elif now - self._responded_s >= patience_s:
            next_step = "restart the head and run again; committed work is kept"
            raise Retryable("Ray's head does not respond", where=self.address, next_step=next_step)


class RayEmbedder:
    """A pool of embed actors that grows and shrinks with the number of waiting tasks."""

    def __init__(self, spec: WorkerSpec, embed: EmbedSection, ray_section: RaySection, stall_s: float = 300.0) -> None:
        """Start the pool; `stall_s`: seconds without a result after which a worker is replaced."""
        start_ray(ray_section)
        self._embed, self._stall_s, self._head = embed, stall_s, _Head()
        self._least = _workers_that_fit(embed) if embed.actors == "auto" else embed.actors
        self._most = max(embed.max_actors or self._least, self._least)
        self._spec = ray.put(spec)
        self._slots: list[_Slot] = []
        self._add(self._least)
        self._last_start_s = time.monotonic()
        self._waiting: deque[ChunkTask] = deque()

    @property
    def size(self) -> int:
        """The number of actors that the pool may grow to."""
        return self._most

    @property
    def running(self) -> int:
        """The number of actors that are ready now."""
        return sum(slot.ready for slot in self._slots)

    def _add(self, count: int) -> None:
        for _ in range(count):
            slot = _Slot(None)
            self._start(slot)
            self._slots.append(slot)

    def _start(self, slot: _Slot) -> None:
        cores, gpus = 1 + self._embed.decoders, 1 / self._embed.workers_per_gpu if self._embed.use_gpu else 0
        slot.actor = _Actor.options(num_cpus=cores, num_gpus=gpus).remote(self._spec, self._embed.decoders)
        slot.starting, slot.ready = slot.actor.__ray_ready__.remote(), False

    def _grow(self, source: Iterator[ChunkTask]) -> None:
        """Double the pool while all actors are busy and tasks wait. A pending actor makes an autoscaling cluster
        grow.
        """
        busy = all(slot.ready and slot.task is not None for slot in self._slots)
        if busy and len(self._slots) < self._most and self._more(source):
            self._add(min(len(self._slots), self._most - len(self._slots)))

    def _shrink(self, source: Iterator[ChunkTask]) -> None:
        """Remove idle actors, down to the least number, when no task waits, so that their hosts can be released."""
        spare = [slot for slot in self._slots if slot.task is None]
        surplus = min(len(self._slots) - self._least, len(spare))
        if surplus > 0 and not self._more(source):
            for slot in sorted(spare, key=lambda slot: slot.ready)[:surplus]:
                ray.kill(slot.actor)
                self._slots.remove(slot)

    def run(self, tasks: Iterable[ChunkTask]) -> Iterator[ChunkReceipt]:
        """Yield the receipts of all tasks in order of completion; tasks are consumed only as workers become free."""
        source = iter(tasks)
        while True:
            for slot in self._slots:
                if slot.ready and slot.task is None and (task := self._next(source)) is not None:
                    self._assign(slot, task)
            self._grow(source)
            self._shrink(source)
            busy = [slot for slot in self._slots if slot.task is not None]
            if not busy and not self._more(source):
                self._head.check(patience_s=0.0)  # without a head, Ray would end this process during the next stage
                return
            self._head.check()
            starting = [slot for slot in self._slots if not slot.ready]
            watched = [slot.stream for slot in busy] + [slot.starting for slot in starting]
            ready = _all_ready(watched)
            self._finish_start([slot for slot in starting if slot.starting in ready])
            if not busy and time.monotonic() - self._last_start_s > self._stall_s:
                next_step = "check with `ray status` that a node with a free core is left"
                raise Retryable("no worker could be started", where="embed", next_step=next_step)
            for slot in busy:
                if any(slot.stream is stream for stream in ready):
                    yield from self._take(slot)
                elif time.monotonic() - slot.last_result_s > self._stall_s:
                    _LOG.warning("the worker returned no result within %.0f s and is replaced", self._stall_s)
                    ray.kill(slot.actor)
                    self._replace(slot)

    def _finish_start(self, started: list[_Slot]) -> None:
        """Mark actors as ready, or restart them if their start failed."""
        for slot in started:
            try:
                ray.get(slot.starting)
                slot.ready, self._last_start_s = True, time.monotonic()
            except _DIED as err:
                self._record_failure(slot, err)
                self._start(slot)

    def _more(self, source: Iterator[ChunkTask]) -> bool:
        if not self._waiting and (task := next(source, None)) is not None:
            self._waiting.append(task)
        return bool(self._waiting)

    def _next(self, source: Iterator[ChunkTask]) -> ChunkTask | None:
        return self._waiting.popleft() if self._waiting else next(source, None)

    def _assign(self, slot: _Slot, task: ChunkTask) -> None:
        slot.task, slot.last_result_s = task, time.monotonic()
        streaming = {"num_returns": "streaming", "_generator_backpressure_num_objects": _UNREAD_RECEIPTS}
        slot.stream = slot.actor.run.options(**streaming).remote(task)

    def _take(self, slot: _Slot) -> Iterator[ChunkReceipt]:
        assert slot.task is not None
        try:
            receipt: ChunkReceipt = ray.get(next(slot.stream))
        except StopIteration:
            slot.task = slot.stream = None
            return
        except _DIED as err:
            self._record_failure(slot, err)
            self._replace(slot)
            return
        except RayTaskError as err:
            cause = err.cause
            raise (cause if isinstance(cause, FacelakeError) else err) from None
        slot.failures, slot.last_result_s = 0, time.monotonic()
        slot.task = replace(slot.task, chunks=tuple(c for c in slot.task.chunks if c != receipt.chunk))
        yield receipt

    def _record_failure(self, slot: _Slot, err: Exception) -> None:
        slot.failures += 1
        _LOG.warning("worker ended: %s", str(err).splitlines()[0])
        cause = getattr(err, "cause", None)
        if slot.failures > _MAX_START_FAILURES * max(self._embed.max_attempts, 1):
            next_step = "check Ray's worker logs; usual causes are memory or a model that cannot be loaded"
            raise Retryable(f"workers end repeatedly: {cause or err}", where="embed", next_step=next_step)

    def _replace(self, slot: _Slot) -> None:
        """Replace a worker; its first unfinished chunk is retried or searched for failing rows, the others wait
        again.
        """
        task = slot.task
        slot.task = slot.stream = None
        self._start(slot)
        self._last_start_s = time.monotonic()
        if task is None or not task.chunks:
            return
        first, rest = task.chunks[:1], task.chunks[1:]
        retry = replace(task, chunks=first, attempt=task.attempt + 1)
        if retry.attempt >= self._embed.max_attempts:
            retry = replace(retry, failing=task.failing | self._failing_rows(slot, retry), attempt=0)
        self._waiting.append(retry)
        if rest:
            self._waiting.append(replace(task, chunks=rest, attempt=0))

    def _failing_rows(self, slot: _Slot, task: ChunkTask) -> frozenset[int]:
        """Rows of the task's only chunk that end a worker twice, each tried on its own."""
        chunk = task.chunks[0]
        untested = [row for row in chunk.rows if row not in task.failing]
        return frozenset(row for row in untested if self._fails(slot, chunk.corpus_file, row))

    def _fails(self, slot: _Slot, corpus_file: str, row: int) -> bool:
        """Whether a row ends or stalls its worker twice."""
        for _ in range(2):
            self._wait_until_ready(slot)
            try:
                ready, _ = ray.wait([ref := slot.actor.try_row.remote(corpus_file, row)], timeout=self._stall_s)
                if ready:
                    ray.get(ref)
                    return False
                ray.kill(slot.actor)
            except _DIED:
                pass
            self._start(slot)
        return True

    def _wait_until_ready(self, slot: _Slot) -> None:
        """Wait until the actor is ready, since a worker that cannot start proves nothing about a row."""
        while not slot.ready:
            ready, _ = ray.wait([slot.starting], timeout=self._stall_s)
            if not ready:
                raise Retryable(
                    "no worker could be started", where="embed", next_step="check the nodes with `ray status`"
                )
            self._finish_start([slot])

    def close(self) -> None:
        """Stop the actors; without a head this is not possible."""
        for slot in self._slots if self._head.responds() else ():
            ray.kill(slot.actor)
