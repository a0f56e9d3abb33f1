"""What every stage is given, and how a stage proves its counters and records its run."""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from facelake.config import Config
from facelake.errors import Corrupt, LedgerMoved
from facelake.events import Listener, StageFinished, StageStarted, ignore_events
from facelake.lake.lake import Lake
from facelake.lake.lease import Lease

if TYPE_CHECKING:  # (what decodes and encodes is not needed by who only reads)
    from facelake.embed import Pack


@dataclass(slots=True)
class Context:
    """One run over one lake."""

    config: Config
    lake: Lake
    run_id: str
    emit: Listener = ignore_events
    lease: Lease | None = None
    pack: Pack | None = None
    model_digest: str = ""
    lineage: tuple[str, ...] = ()
    """withdrawn data sets that the model is said to descend from, as the config accepts them"""
    ledger_version: int | None = None
    """Delta version of the ledger under which images were decided in this run; None before admission"""
    rebase: bool = False
    """all faces are to be grouped anew, whatever was done before"""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def check_ledger(self) -> None:
        """Call before something is made of the decisions; raises LedgerMoved when they are out of date."""
        if self.ledger_version is not None and self.lake["ledger"].version() != self.ledger_version:
            what = "the ledger changed while this ran"
            raise LedgerMoved(what, where=f"{self.lake.uri}/ledger", next_step="run again; nothing was published")

    def check_lease(self) -> None:
        """Call before a commit; raises Refused when another process writes the lake."""
        if self.lease:
            self.lease.check()


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage did."""

    stage: str
    counts: Mapping[str, Any]
    seconds: float
    skipped: bool = False


class StageRun:
    """Times a stage and writes its row in `runs`, but only if it did something."""

    def __init__(self, context: Context, stage: str, total: int = 0, unit: str = "") -> None:
        self._context, self._stage = context, stage
        self._began, self._started_at = time.monotonic(), datetime.now(UTC)
        context.emit(StageStarted(stage, total, unit))

    def skip(self, counts: Mapping[str, int | float]) -> StageResult:
        """The input was unchanged: nothing is written."""
        seconds = time.monotonic() - self._began
        self._context.emit(StageFinished(self._stage, seconds, counts, skipped=True))
        return StageResult(self._stage, counts, seconds, skipped=True)

    def finish(self, counts: Mapping[str, int | float], input_digest: str) -> StageResult:
        """Record the run."""
        seconds = time.monotonic() - self._began
        context = self._context
        row: dict[str, Any] = {
            "run_id": context.run_id,
            "stage": self._stage,
            "started_at": self._started_at,
            "seconds": seconds,
            "input_digest": input_digest,
            "config_digest": context.config.digest("embed", "cluster", "model"),
            "model_digest": context.model_digest,
            "purpose": context.config.purpose,
            "counts": json.dumps(dict(counts), sort_keys=True),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        context.check_lease()
        context.lake["runs"].append([row])
        context.emit(StageFinished(self._stage, seconds, counts))
        return StageResult(self._stage, counts, seconds)


def last_run(lake: Lake, stage: str) -> dict[str, Any] | None:
    """The newest recorded run of a stage."""
    runs = lake["runs"].read()
    runs = runs.filter(pc.equal(runs["stage"], stage)).sort_by([("started_at", "descending")])
    return dict(runs.slice(0, 1).to_pylist()[0]) if runs.num_rows else None


def digest_of(*parts: object) -> str:
    """Short digest of anything with a faithful JSON form."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def must_add_up(stage: str, whole: tuple[str, int], *parts: tuple[str, int]) -> None:
    """Counters prove themselves or the run fails.

    Raises:
        Corrupt: the parts do not sum to the whole.
    """
    if whole[1] != sum(count for _, count in parts):
        said = " + ".join(f"{name} {count}" for name, count in parts)
        what = f"counters do not add up: {whole[0]} {whole[1]} is not {said}"
        raise Corrupt(
            what,
            where=stage,
            next_step="run `facelake verify`; if it repeats, report it with the lake's runs table",
        )
