"""A process that serves requests on its standard input, for work that can end a process or never end.

By default a request is its length in 8 bytes and the body, and an answer is a line.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable

_LENGTH = 8


class ChildProcess:
    """The process, as its caller sees it; started with the first request, and again after it ended.

    It gets no environment, so no credentials. A subclass with requests of its own asks it with `_lock` held.
    """

    def __init__(self, module: str, *, bufsize: int = -1) -> None:
        """Name the module whose function `serve` the process runs, and the buffers of its pipes, as `Popen` does."""
        self._module, self._bufsize = module, bufsize
        self._lock, self._owner = threading.Lock(), 0
        self._child: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def ask(self, body: bytes) -> bytes | None:
        """Return the answer of a process that runs `serve_lines`, without line feed; None if the request ends it."""
        with self._lock:
            child = self._running()
            assert child.stdin
            assert child.stdout
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(len(body).to_bytes(_LENGTH, "little") + body)
                child.stdin.flush()
                if (answer := child.stdout.readline()).endswith(b"\n"):
                    return answer[:-1]
            self._end()
            return None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child and self._owner == os.getpid() and self._child.poll() is None:
            return self._child
        self._end()
        self._child = subprocess.Popen(
            [sys.executable, "-c", f"from {self._module} import serve; serve()"],
            bufsize=self._bufsize,
            env={"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._owner = os.getpid()
        try:
            self._wait_until_ready(self._child)
        except BaseException:
            self._end()
            raise
        return self._child

    def _wait_until_ready(self, child: subprocess.Popen[bytes]) -> None:
        """Wait until the process takes requests; by default the first request waits."""

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():  # a forked copy of the caller does not own it
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        child.wait()


def serve_lines(answer: Callable[[bytes], bytes]) -> None:
    """Answer the requests of `ask` until standard input ends; `answer` returns no line feed."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while len(length := sys.stdin.buffer.read(_LENGTH)) == _LENGTH:
        answers.write(answer(sys.stdin.buffer.read(int.from_bytes(length, "little"))) + b"\n")
        answers.flush()
