"""Embed on Ray: a pool of actors that pull chunk tasks; the driver gets receipts as they come.

A worker that dies is replaced and its unfinished chunks run again. A chunk that killed its worker too often is
tried row by row; a row that kills a worker twice on its own is condemned and becomes a reject row.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from facelake.config import EmbedSection, RaySection
from facelake.contracts import ChunkReceipt
from facelake.embed import open_opener
from facelake.engines.chunk_worker import ChunkTask, ChunkWorker, WorkerSpec
from facelake.engines.embed_metrics import EmbedMetrics
from facelake.engines.ray_decoders import DecoderPool
from facelake.errors import ConfigError, FacelakeError, Retryable

_LOG = logging.getLogger(__name__)
_DIED = (RayActorError, WorkerCrashedError, OutOfMemoryError, NodeDiedError)
_MAX_START_FAILURES = 3
_OF_A_GPU, _GPU_EXIT = ("OutOfMemoryError", "AcceleratorError"), 75  # torch's; no room needs torch to run
_HEAD_EVERY_S, _HEAD_ANSWERS_S = 5.0, 3.0
_UNREAD_RECEIPTS = 2  # a worker that is this far ahead of the driver waits: what a dead driver loses stays bounded


class _EmbedActor:
    def __init__(self, spec: WorkerSpec, decoders: int = 0) -> None:
        opener = open_opener(spec.options, spec.retracted)
        self._worker = ChunkWorker(spec, DecoderPool(opener, decoders) if decoders else opener)
        self._metrics = EmbedMetrics()
        gc.collect()
        gc.freeze()  # modules and models stay, and need not be looked through for garbage again and again

    def run(self, task: ChunkTask) -> Iterator[ChunkReceipt]:
        left = len(task.chunks)
        self._metrics.wait(left)
        with _dying_with_its_gpu():
            for receipt in self._worker.run(task):
                left -= 1
                self._metrics.count(receipt)
                self._metrics.wait(left)
                yield receipt

    def try_row(self, corpus_file: str, row: int) -> bool:
        with _dying_with_its_gpu():
            self._worker.try_row(corpus_file, row)
        return True


@contextmanager
def _dying_with_its_gpu() -> Iterator[None]:
    """A GPU that failed stays failed for its process, and one that is full may be so for one photo: as any death."""
    try:
        yield
    except RuntimeError as err:
        if type(err).__name__ not in _OF_A_GPU:
            raise
        _LOG.error("the GPU failed: %s", " ".join(str(err).split())[:300])
        os._exit(_GPU_EXIT)


# dead actors are replaced here, where it is known what they were doing; Ray must not restart them by itself
_Actor: Any = ray.remote(max_restarts=0, max_task_retries=0)(_EmbedActor)


@dataclass(slots=True)
class _Slot:
    """An actor and what it is doing. It gets work only once it runs: after the loss of a host it may wait for ever."""

    actor: Any
    born: Any = None
    up: bool = False
    task: ChunkTask | None = None
    stream: Any = None
    last_sign_s: float = 0.0
    failures: int = 0


def start_ray(section: RaySection) -> None:
    """Connect to the configured Ray, or start a local one.

    Raises:
        ConfigError: a Ray Client address; streamed receipts do not pass through it (Ray issue 43357, not to be fixed).
        Retryable: the cluster does not answer.
    """
    if (section.address or "").startswith("ray://"):
        next_step = (
            "submit with `ray job submit`, or run `ray start --address=HEAD:6379 --num-cpus=0` here and set auto"
        )
        raise ConfigError(
            "Ray Client cannot stream results", where=f"ray.address {section.address}", next_step=next_step
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if ray.is_initialized():
        return
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    if section.address is None:
        memory = section.object_store_mb << 20
        options |= {"num_cpus": section.num_cpus, "include_dashboard": False, "object_store_memory": memory}
    try:
        ray.init(address=section.address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as err:
        what = f"Ray cannot be reached: {' '.join(str(err).split())[:300]}"
        raise Retryable(what, where=section.address or "local", next_step="check ray.address and the cluster") from err
    # Whatever log_to_driver is, Ray 2.60 prints what its daemons say of dead workers to our stdout, where `--json` has
    # its JSON object on the last line; we log deaths ourselves. There is no public switch.
    ray._private.worker._worker_logs_enabled = False


def _fitting(embed: EmbedSection) -> int:
    """Workers that the cluster has room for: as many as share its GPUs, or as its cores allow."""
    has = ray.cluster_resources()
    fitting = int(has.get("CPU", 1)) // (1 + embed.decoders)
    return max(1, min(fitting, int(has.get("GPU", 0) * embed.workers_per_gpu)) if embed.use_gpu else fitting)


class _Head:
    """Watches whether Ray's head answers: without it Ray ends this process after a minute, and not in our words."""

    def __init__(self) -> None:
        self.address = str(ray.get_runtime_context().gcs_address)
        host, _, port = self.address.rpartition(":")
        self._place = (host.strip("[]"), int(port))
        self._seen_s = self._asked_s = time.monotonic()

    def answers(self) -> bool:
        """Now."""
        try:
            socket.create_connection(self._place, timeout=_HEAD_ANSWERS_S).close()
        except OSError:
            return False
        return True

    def check(self, patience_s: float = 30.0) -> None:
        """Looks every few seconds; raises Retryable when it has not answered for so long."""
        now = time.monotonic()
        if patience_s and now - self._asked_s < _HEAD_EVERY_S:
            return
        self._asked_s = now
        if self.answers():
            self._seen_s = now
        elif now - self._seen_s >= patience_s:
            next_step = "bring it back and run again; what was committed stays"
            raise Retryable("Ray's head does not answer", where=self.address, next_step=next_step)


class RayEmbedder:
    """A pool of embed actors."""

    def __init__(self, spec: WorkerSpec, embed: EmbedSection, ray_section: RaySection, stall_s: float = 300.0) -> None:
        start_ray(ray_section)
        self._embed, self._stall_s, self._head = embed, stall_s, _Head()
        self._least = _fitting(embed) if embed.actors == "auto" else embed.actors
        self._most = max(embed.max_actors or self._least, self._least)
        self._spec = ray.put(spec)
        self._slots: list[_Slot] = []
        self._add(self._least)
        self._up_s = time.monotonic()
        self._waiting: deque[ChunkTask] = deque()

    @property
    def size(self) -> int:
        """Actors that the pool may grow to."""
        return self._most

    @property
    def up(self) -> int:
        """Actors that run now."""
        return sum(slot.up for slot in self._slots)

    def _add(self, count: int) -> None:
        for _ in range(count):
            slot = _Slot(None)
            self._start(slot)
            self._slots.append(slot)

    def _start(self, slot: _Slot) -> None:
        cores, gpus = 1 + self._embed.decoders, 1 / self._embed.workers_per_gpu if self._embed.use_gpu else 0
        slot.actor = _Actor.options(num_cpus=cores, num_gpus=gpus).remote(self._spec, self._embed.decoders)
        slot.born, slot.up = slot.actor.__ray_ready__.remote(), False

    def _grow(self, source: Iterator[ChunkTask]) -> None:
        """Twice as many while all are busy and more waits. An actor without a place is what makes a cluster grow."""
        busy = all(slot.up and slot.task is not None for slot in self._slots)
        if busy and len(self._slots) < self._most and self._more(source):
            self._add(min(len(self._slots), self._most - len(self._slots)))

    def _shrink(self, source: Iterator[ChunkTask]) -> None:
        """Nothing waits: actors without work go, down to the least, so that their hosts may be given back."""
        spare = [slot for slot in self._slots if slot.task is None]
        surplus = min(len(self._slots) - self._least, len(spare))
        if surplus > 0 and not self._more(source):
            for slot in sorted(spare, key=lambda slot: slot.up)[:surplus]:
                ray.kill(slot.actor)
                self._slots.remove(slot)

    def run(self, tasks: Iterable[ChunkTask]) -> Iterator[ChunkReceipt]:
        """Receipts of all tasks, in the order in which they are done. Takes tasks only as fast as they finish."""
        source = iter(tasks)
        while True:
            for slot in self._slots:
                if slot.up and slot.task is None and (task := self._next(source)) is not None:
                    self._assign(slot, task)
            self._grow(source)
            self._shrink(source)
            busy = [slot for slot in self._slots if slot.task is not None]
            if not busy and not self._more(source):
                self._head.check(patience_s=0.0)  # else Ray would end this process in the middle of the next stage
                return
            self._head.check()
            unborn = [slot for slot in self._slots if not slot.up]
            watched = [slot.stream for slot in busy] + [slot.born for slot in unborn]
            ready, _ = ray.wait(watched, num_returns=1, timeout=1.0)
            self._welcome([slot for slot in unborn if slot.born in ready])
            if not busy and time.monotonic() - self._up_s > self._stall_s:
                next_step = "look at `ray status`: is a worker left, with a free core?"
                raise Retryable("no worker could be started", where="embed", next_step=next_step)
            for slot in busy:
                if any(slot.stream is stream for stream in ready):
                    yield from self._take(slot)
                elif time.monotonic() - slot.last_sign_s > self._stall_s:
                    _LOG.warning("worker gave no sign for %.0f s: replaced", self._stall_s)
                    ray.kill(slot.actor)
                    self._lost(slot)

    def _welcome(self, born: list[_Slot]) -> None:
        """Actors that have started, or failed to."""
        for slot in born:
            try:
                ray.get(slot.born)
                slot.up, self._up_s = True, time.monotonic()
            except _DIED as err:
                self._note_death(slot, err)
                self._start(slot)

    def _more(self, source: Iterator[ChunkTask]) -> bool:
        if not self._waiting and (task := next(source, None)) is not None:
            self._waiting.append(task)
        return bool(self._waiting)

    def _next(self, source: Iterator[ChunkTask]) -> ChunkTask | None:
        return self._waiting.popleft() if self._waiting else next(source, None)

    def _assign(self, slot: _Slot, task: ChunkTask) -> None:
        slot.task, slot.last_sign_s = task, time.monotonic()
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
            self._note_death(slot, err)
            self._lost(slot)
            return
        except RayTaskError as err:
            cause = err.cause
            raise (cause if isinstance(cause, FacelakeError) else err) from None
        slot.failures, slot.last_sign_s = 0, time.monotonic()
        slot.task = replace(slot.task, chunks=tuple(c for c in slot.task.chunks if c != receipt.chunk))
        yield receipt

    def _note_death(self, slot: _Slot, err: Exception) -> None:
        slot.failures += 1
        _LOG.warning("worker died: %s", str(err).splitlines()[0])
        cause = getattr(err, "cause", None)
        if slot.failures > _MAX_START_FAILURES * max(self._embed.max_attempts, 1):
            next_step = "look at Ray's worker logs; often memory or a model that cannot be loaded"
            raise Retryable(f"workers keep dying: {cause or err}", where="embed", next_step=next_step)

    def _lost(self, slot: _Slot) -> None:
        """Replace a dead worker; its unfinished chunks wait again, or are searched for the row that kills."""
        task = slot.task
        slot.task = slot.stream = None
        self._start(slot)
        self._up_s = time.monotonic()
        if task is None or not task.chunks:
            return
        first, rest = task.chunks[:1], task.chunks[1:]
        again = replace(task, chunks=first, attempt=task.attempt + 1)
        if again.attempt >= self._embed.max_attempts:
            again = replace(again, condemned=task.condemned | self._killers(slot, again), attempt=0)
        self._waiting.append(again)
        if rest:
            self._waiting.append(replace(task, chunks=rest, attempt=0))

    def _killers(self, slot: _Slot, task: ChunkTask) -> frozenset[int]:
        """Rows of the task's one chunk that kill a worker twice, each tried alone."""
        chunk = task.chunks[0]
        killers = {row for row in chunk.rows if row not in task.condemned and self._kills(slot, chunk.corpus_file, row)}
        return frozenset(killers)

    def _kills(self, slot: _Slot, corpus_file: str, row: int) -> bool:
        for _ in range(2):
            self._await(slot)
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

    def _await(self, slot: _Slot) -> None:
        """Until the actor runs: a worker that cannot start says nothing about a row."""
        while not slot.up:
            ready, _ = ray.wait([slot.born], timeout=self._stall_s)
            if not ready:
                raise Retryable("no worker could be started", where="embed", next_step="look at `ray status`")
            self._welcome([slot])

    def close(self) -> None:
        """Stop the actors; without a head there is nobody to ask."""
        for slot in self._slots if self._head.answers() else ():
            ray.kill(slot.actor)
