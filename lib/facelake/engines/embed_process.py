"""Embedding in one worker process of this host: few photos are embedded before a local Ray has started.

A photo that ends its worker must not end the run: when the process ends or stalls, its unfinished chunks go to
Ray, which finds the failing photo (ray_embed.py).
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Protocol

from facelake.config import EmbedSection, RaySection
from facelake.contracts import ChunkReceipt
from facelake.engines.chunk_worker import ChunkTask, ChunkWorker, WorkerSpec
from facelake.engines.ray_isolation import isolate_local_ray
from facelake.errors import FacelakeError

_LOG = logging.getLogger(__name__)
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # as Ray starts a worker
_PARENT_CHECK_S, _STOP_S = 0.5, 10.0


class Embedder(Protocol):
    """Runs chunk tasks in worker processes."""

    @property
    def size(self) -> int:
        """The number of workers that it may grow to."""
        ...

    @property
    def running(self) -> int:
        """The number of workers that are ready now."""
        ...

    def run(self, tasks: Iterable[ChunkTask]) -> Iterator[ChunkReceipt]:
        """Yield the receipts of all tasks in order of completion."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


def needs_ray(embed: EmbedSection, ray_section: RaySection, photos: int) -> bool:
    """Whether photos are embedded on Ray: a cluster, workers or GPUs are configured, or there are many photos."""
    configured = ray_section.address is not None or embed.actors != "auto" or embed.decoders or embed.use_gpu
    return bool(configured) or photos >= ray_section.one_process_below


def open_ray(spec: WorkerSpec, embed: EmbedSection, ray_section: RaySection) -> Embedder:
    """Start the pool on Ray, isolated from other hosts if it is local.

    Raises:
        ConfigError: Ray was imported before it could be isolated.
        Retryable: the cluster does not respond.
    """
    isolate_local_ray(ray_section)
    from facelake.engines.ray_embed import RayEmbedder  # takes seconds to import

    return RayEmbedder(spec, embed, ray_section)


class ProcessEmbedder:
    """One worker process, and Ray for what it leaves."""

    def __init__(self, spec: WorkerSpec, on_ray: Callable[[], Embedder], stall_s: float = 300.0) -> None:
        """Start the process.

        Args:
            spec: what the worker needs.
            on_ray: starts the engine for the chunks that the process leaves unfinished.
            stall_s: seconds without a result after which the process is stopped.
        """
        self._on_ray, self._stall_s = on_ray, stall_s
        self._ray: Embedder | None = None
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno())]  # -P: not from the working directory
            path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(
                command,
                env=os.environ | _ONE_THREAD | path,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what fails here is tried on Ray, which reports it
            )
        self._connection = Connection(ours.detach())
        self._connection.send(spec)

    @property
    def size(self) -> int:
        """The number of workers."""
        return self._ray.size if self._ray else 1

    @property
    def running(self) -> int:
        """The number of workers that are ready."""
        return self._ray.running if self._ray else 1

    @property
    def uses_ray(self) -> bool:
        """Whether the process left work to Ray."""
        return self._ray is not None

    def run(self, tasks: Iterable[ChunkTask]) -> Iterator[ChunkReceipt]:
        """Yield the receipts of all tasks in order of completion.

        Raises:
            FacelakeError: a task failed as it would fail in every process.
        """
        waiting = deque(tasks)
        try:
            while waiting:
                self._connection.send(waiting[0])
                while (receipt := self._receive()) is not None:
                    chunks = tuple(chunk for chunk in waiting[0].chunks if chunk != receipt.chunk)
                    waiting[0] = replace(waiting[0], chunks=chunks)
                    yield receipt
                waiting.popleft()
        except (EOFError, OSError) as err:
            _LOG.warning("the worker process ended (%s); its photos are embedded on Ray", err or "no reason given")
            self._process.kill()
            self._ray = self._on_ray()
            yield from self._ray.run([task for task in waiting if task.chunks])

    def _receive(self) -> ChunkReceipt | None:
        """Return the next receipt of the current task, None at its end.

        Raises:
            TimeoutError: the worker did not respond in time.
            EOFError: it ended.
            FacelakeError: the task failed.
        """
        if not self._connection.poll(self._stall_s):
            raise TimeoutError(f"no result within {self._stall_s:.0f} s")
        answer = self._connection.recv()
        if isinstance(answer, FacelakeError):
            raise answer
        return answer if isinstance(answer, ChunkReceipt) else None

    def close(self) -> None:
        """Stop the process, and Ray if it was needed."""
        self._connection.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._ray:
            self._ray.close()


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, so that nothing is staged for a run that is over."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


def _work(descriptor: int) -> None:
    """Embed the tasks that arrive until the connection is closed."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with Connection(descriptor) as driver:
        worker = ChunkWorker(driver.recv())
        while True:
            try:
                task = driver.recv()
            except EOFError:
                return
            try:
                for receipt in worker.run(task):
                    driver.send(receipt)
                driver.send(None)
            except FacelakeError as err:
                driver.send(err)


if __name__ == "__main__":
    _work(int(sys.argv[1]))
