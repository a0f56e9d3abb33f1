"""A process that serves requests on its standard input, for work that can end a process or never end."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading


class ChildProcess:
    """The process, as its caller sees it; started with the first request, and again after it ended.

    It gets no environment, so no credentials. A subclass asks it with `_lock` held.
    """

    def __init__(self, module: str, *, bufsize: int = -1) -> None:
        """Name the module whose function `serve` the process runs, and the buffers of its pipes, as `Popen` does."""
        self._module, self._bufsize = module, bufsize
        self._lock, self._owner = threading.Lock(), 0
        self._child: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

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
