"""The scaling limits of each stage: which resource is exhausted at how many photos, and which change raises the
limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from facelake.stages.capacity.cost_model import Estimate, Workload, appends, estimate

DRIVER_BYTES = 64 << 30
"""memory of a driver that is commonly available"""
NIGHT_S = 10 * 3600.0
"""seconds that one sequential process may take in a nightly run"""
_OFFSETS = float((1 << 31) - 1)  # bytes of text in one Arrow array, and numbers of faces (int32)
_ID_CHARS = 32
_FEWEST, _MOST = 10**3, 10**12


@dataclass(frozen=True, slots=True)
class ScalingLimit:
    """A limit of one stage, evaluated for a workload."""

    stage: str
    what: str
    limit: float
    here: float
    """value for the given workload"""
    at_images: int
    """number of photos at which the limit is reached, with the same settings and faces per photo"""
    moved_by: str

    @property
    def exceeded(self) -> bool:
        """Whether the given workload reaches the limit."""
        return self.here >= self.limit


@dataclass(frozen=True, slots=True)
class _Limit:
    stage: str
    what: str
    limit: float
    of: Callable[[Estimate], float]
    moved_by: str


def _log_s(costs: Estimate) -> float:
    """Driver seconds for reading the logs of embed's tables."""
    work = costs.work
    return 2 * appends(work.commits, work.commit_every_chunks, work.chunks).driver_cpu_s


_LIMITS = (
    _Limit("admit", "driver memory", DRIVER_BYTES, lambda e: e.stages["admit"].driver_bytes,
           "in code: what vanished and what was lost compared by ranges of hashes too"),
    _Limit("admit", "driver alone for a night, s", NIGHT_S, lambda e: e.stages["admit"].driver_cpu_s,
           "corpus files of more photos; in code: footers and former decisions read by tasks"),
    _Limit("embed", "driver memory", DRIVER_BYTES, lambda e: e.stages["embed"].driver_bytes,
           "embed.chunk_rows, to a part"),
    _Limit("embed", "reading its own log for a night, s", NIGHT_S, _log_s,
           "embed.chunk_rows (by its square) and embed.commit_every_chunks"),
    _Limit("cluster", "driver memory", DRIVER_BYTES, lambda e: e.stages["cluster"].driver_bytes,
           "in code: the map equation on modules of each part instead of faces (clustering.md)"),
    _Limit("cluster", "driver alone for a night, s", NIGHT_S, lambda e: e.stages["cluster"].driver_cpu_s,
           "the same"),
    _Limit("cluster", "faces numbered by 32 bits", _OFFSETS, lambda e: float(e.work.faces), "in code: 64 bits"),
    _Limit("review", "bytes of face ids in one Arrow array", _OFFSETS, lambda e: float(_ID_CHARS * e.work.faces),
           "in code: faces looked up file by file, in review sessions and where a correction is recorded"),
    _Limit("publish", "driver memory", DRIVER_BYTES, lambda e: e.stages["publish"].driver_bytes,
           "in code: numbers of faces by ranges too"),
    _Limit("publish", "driver alone for a night, s", NIGHT_S, lambda e: e.stages["publish"].driver_cpu_s, "the same"),
    _Limit("scan", "driver memory", DRIVER_BYTES, lambda e: e.stages["scan"].driver_bytes,
           "in code: objects listed in parts"),
    _Limit("scan", "driver alone for a night, s", NIGHT_S, lambda e: e.stages["scan"].driver_cpu_s, "the same"),
)  # fmt: skip


def scaling_limits(work: Workload) -> tuple[ScalingLimit, ...]:
    """Every limit, evaluated for the workload, in ascending order of the number of photos at which it is reached."""
    now = estimate(work)
    limits = [
        ScalingLimit(limit.stage, limit.what, limit.limit, limit.of(now), _reached(limit, work), limit.moved_by)
        for limit in _LIMITS
    ]
    return tuple(sorted(limits, key=lambda limit: limit.at_images))


def _reached(limit: _Limit, work: Workload) -> int:
    """The fewest photos that reach a limit, by bisection, since every figure grows with the photos."""
    low, high = _FEWEST, _MOST
    while high > low + low // 1000:
        middle = (low + high) // 2
        if limit.of(estimate(replace(work, images=middle))) >= limit.limit:
            high = middle
        else:
            low = middle
    return high
