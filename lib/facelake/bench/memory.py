"""Peak memory, CPU time and bytes moved of this process and all its descendants, sampled from /proc (Linux)."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType


class PeakMemory:
    """Samples the sum of proportional set sizes of the process family; shared pages count once.

    Attributes:
        peak_bytes: the largest sum seen.
    """

    def __init__(self, every_s: float = 0.5) -> None:
        self.peak_bytes = self._lap = 0
        self._every_s, self._stop = every_s, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._moved: dict[int, tuple[int, int]] = {}

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
            self._sample()

    def _sample(self) -> None:
        family = process_family(os.getpid())
        now = sum(proportional_bytes(pid) for pid in family)
        self.peak_bytes, self._lap = max(self.peak_bytes, now), max(self._lap, now)
        self._moved |= {pid: moved for pid in family if (moved := _moved_bytes(pid)) is not None}

    def lap(self) -> int:
        """Return the peak since the last call."""
        peak, self._lap = self._lap, 0
        return peak

    def moved_bytes(self) -> tuple[int, int]:
        """Return bytes read and written by system calls of all processes seen so far, files and sockets alike."""
        self._sample()
        return sum(read for read, _ in self._moved.values()), sum(written for _, written in self._moved.values())


def own_bytes() -> int:
    """Return the memory of this process that is not of mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def own_peak_bytes() -> int:
    """Return the largest resident set of this process since the last `reset_own_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def reset_own_peak() -> None:
    """Start a new measurement for `own_peak_bytes`."""
    Path("/proc/self/clear_refs").write_text("5")


def family_cpu_s() -> float:
    """Return CPU seconds of this process and its descendants; of ended ones, those that were waited for."""
    ticks = 0
    for pid in process_family(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(value) for value in fields[11:15])  # user, system, and those of waited-for children
    return ticks / os.sysconf("SC_CLK_TCK")


def process_family(root: int) -> list[int]:
    """Return the process ids of a process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    family, waiting = [root], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        family += below
        waiting += below
    return family


def proportional_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _moved_bytes(pid: int) -> tuple[int, int] | None:
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return None
    counts = dict(line.split(": ") for line in lines)
    return int(counts["rchar"]), int(counts["wchar"])
