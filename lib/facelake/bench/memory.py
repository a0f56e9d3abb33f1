"""Sampled peak memory and CPU time of this process and its descendants."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType


class PeakMemory:
    """Context manager that samples the sum of proportional set sizes (shared pages count once) of all processes."""

    def __init__(self, every_s: float = 0.5) -> None:
        self.peak_bytes = self._lap = 0
        self._every_s, self._stop = every_s, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            now = sum(_pss(pid) for pid in _family(os.getpid()))
            self.peak_bytes, self._lap = max(self.peak_bytes, now), max(self._lap, now)

    def lap(self) -> int:
        """The peak in bytes since the previous call."""
        peak, self._lap = self._lap, 0
        return peak


def family_cpu_s() -> float:
    """CPU seconds of this process and its descendants; ended ones count if their parent has waited for them."""
    ticks = 0
    for pid in _family(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(value) for value in fields[11:15])  # user, system, and those of waited-for children
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    family, waiting = [root], [root]
    while waiting:
        children = parents.get(waiting.pop(), [])
        family += children
        waiting += children
    return family


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
