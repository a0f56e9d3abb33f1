"""What the processor computes natively: the instruction sets that a precision needs, from /proc/cpuinfo."""

from __future__ import annotations

import platform
from collections.abc import Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Precision = Literal["float32", "bf16", "int8"]

# Any one of these flags of a processor makes a precision native. int8: an encoder's weights have seven bits
# (int8.py), so that AVX2's sums of 16 bits are exact and give the same integers as VNNI.
_NATIVE: dict[str, frozenset[str]] = {
    "bf16": frozenset({"amx_bf16", "avx512_bf16", "bf16"}),
    "int8": frozenset({"avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}),
}
_REPORTED = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp",
    "bf16", "sve",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cpu:
    """A processor's model name and its feature flags as Linux names them."""

    model: str
    flags: frozenset[str]

    def lacking(self, precision: Precision) -> str | None:
        """Return why this processor does not compute a precision natively; None if it does."""
        wanted = _NATIVE.get(precision)
        if wanted is None or wanted & self.flags:
            return None
        return f"the processor {self.model!r} has none of {', '.join(sorted(wanted))}"

    def features(self) -> list[str]:
        """The flags that matter to inference."""
        return [flag for flag in _REPORTED if flag in self.flags]


@cache
def this_cpu(cpuinfo: str = "/proc/cpuinfo") -> Cpu:
    """The processor of this host; without flags where the kernel does not list them."""
    try:
        return parse_cpuinfo(Path(cpuinfo).read_text())
    except OSError:
        return Cpu(platform.processor() or platform.machine(), frozenset())


def parse_cpuinfo(text: str) -> Cpu:
    """The processor of the text of /proc/cpuinfo; flags that all cores have, since a worker may run on any."""
    model, common = platform.machine(), None
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "model name":
            model = value
        elif name in ("flags", "Features"):
            flags: Set[str] = set(value.split())
            common = flags if common is None else common & flags
    return Cpu(model, frozenset(common or ()))
