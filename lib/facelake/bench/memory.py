"""Peak memory, CPU time and bytes moved of this process and all its descendants, sampled on Linux.

psutil reads most figures; memory comes from /proc, which tells mapped files, whose pages the system may drop at any
time, from memory that a process has to keep.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil


class PeakMemory:
    """Samples the sum of proportional set sizes of the process family; shared pages count once.

    Attributes:
        peak_bytes: the largest sum seen.
        peak_unmapped_bytes: the same without pages of mapped files.
    """

    def __init__(self, every_s: float = 0.5) -> None:
        self.peak_bytes = self.peak_unmapped_bytes = self._lap = 0
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
        sizes = [proportional_bytes(process) for process in family]
        now, unmapped = sum(all_bytes for all_bytes, _ in sizes), sum(unmapped for _, unmapped in sizes)
        self.peak_bytes, self._lap = max(self.peak_bytes, now), max(self._lap, now)
        self.peak_unmapped_bytes = max(self.peak_unmapped_bytes, unmapped)
        self._moved |= {process.pid: moved for process in family if (moved := _moved_bytes(process)) is not None}

    def lap(self) -> int:
        """Return the peak since the last call."""
        peak, self._lap = self._lap, 0
        return peak

    def moved_bytes(self) -> tuple[int, int]:
        """Return bytes read and written by system calls of all processes seen so far, files and sockets alike."""
        self._sample()
        return sum(read for read, _ in self._moved.values()), sum(written for _, written in self._moved.values())


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
    seconds = 0.0
    for process in process_family(os.getpid()):
        with suppress(psutil.Error):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def process_family(root: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    process = psutil.Process(root)
    return [process, *process.children(recursive=True)]


def proportional_bytes(process: psutil.Process) -> tuple[int, int]:
    """Return the proportional set size of a process, and that without pages of mapped files.

    Both are 0 if it has ended or belongs to another account.
    """
    sizes = {"Pss": 0, "Pss_File": 0}
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sizes:
                sizes[name] = int(value.split()[0]) * 1024
    return sizes["Pss"], sizes["Pss"] - sizes["Pss_File"]


def _moved_bytes(process: psutil.Process) -> tuple[int, int] | None:
    with suppress(psutil.Error):
        counters = process.io_counters()
        return counters.read_chars, counters.write_chars
    return None
