"""The context of a run, the record of each stage in table `runs`, and the check that counters add up."""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from facelake.config import Config
from facelake.erase import Signer
from facelake.errors import ConfigError, Corrupt, LedgerMoved
from facelake.events import Listener, Notice, StageFinished, StageStarted, ignore_events
from facelake.lake.lake import Lake
from facelake.lake.lease import Lease
from facelake.stages.core.audit import last_signer

if TYPE_CHECKING:  # commands that only read need no decoder or encoder
    from facelake.embed import Pack


@dataclass(slots=True)
class Context:
    """The configuration and state of one run over one lake."""

    config: Config
    lake: Lake
    run_id: str
    emit: Listener = ignore_events
    lease: Lease | None = None
    pack: Pack | None = None
    model_digest: str = ""
    lineage: tuple[str, ...] = ()
    """withdrawn data sets in the model's reported training lineage, as accepted by the config"""
    ledger_version: int | None = None
    """Delta version of the ledger that this run's admission read; None before admission"""
    rebase: bool = False
    """run a full clustering even if an incremental one would do"""
    accept_loss: bool = False
    """go on although most of the admitted photos lost their basis since the last run"""
    report_anyway: bool = False
    """write the report even if nothing changed since the last one"""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def signer(self) -> Signer:
        """Return the key that signs audit records; made at the first use, which is reported.

        Raises:
            ConfigError: it cannot be read or made, or it is not one of the pinned keys.
        """
        governance = self.config.governance
        new = not Path(governance.signing_key).expanduser().exists()
        pinned = governance.trusted_keys
        if new and pinned:  # a new key would be none of them
            what = "this host has no signing key, and governance.trusted_keys names those that are accepted"
            next_step = "copy one of these keys to this path, or set governance.signing_key to where it is"
            raise ConfigError(what, where=governance.signing_key, next_step=next_step)
        signer = Signer.load_or_create(governance.signing_key)
        if pinned and signer.fingerprint not in pinned:
            what = f"the signing key {signer.fingerprint} is not one of governance.trusted_keys"
            next_step = "put the right key in its place, or add this fingerprint to the config"
            raise ConfigError(what, where=governance.signing_key, next_step=next_step)
        if new:
            text = (
                f"a new signing key was made in {governance.signing_key}: {signer.fingerprint}. Keep a copy; publish "
            )
            self.emit(Notice("sign", text + "the fingerprint, and list it in governance.trusted_keys on every host"))
            if (before := last_signer(self.lake)) not in (None, signer.fingerprint):
                text = (
                    f"the last record of this lake's audit trail is signed by another key, {before}: if that key was "
                )
                text += "lost, restore it from your copy and run again; if it is another host's, list both in "
                self.emit(Notice("sign", text + "governance.trusted_keys"))
        return signer

    def sign(self, body: dict[str, Any]) -> dict[str, str]:
        """Return the signature of a JSON object by the key of this host."""
        return self.signer().sign(body)

    def check_ledger(self) -> None:
        """Raise LedgerMoved if the ledger changed since admission; call before results of the decisions are written."""
        if self.ledger_version is not None and self.lake["ledger"].version() != self.ledger_version:
            what = "the ledger changed while this ran"
            raise LedgerMoved(what, where=f"{self.lake.uri}/ledger", next_step="run again; nothing was published")

    def check_lease(self) -> None:
        """Raise Refused if another process took over the write lease; call before a commit."""
        if self.lease:
            self.lease.check()


def accepted_keys(config: Config) -> list[str]:
    """Return the fingerprints that signatures are checked against: the config's, or that of this host's key, if any."""
    path = Path(config.governance.signing_key).expanduser()
    if config.governance.trusted_keys or not path.exists():
        return config.governance.trusted_keys
    return [Signer.load_or_create(path).fingerprint]


Details = Mapping[str, object]
"""JSON values by name"""


@dataclass(frozen=True, slots=True)
class StageResult:
    """The outcome of a stage."""

    stage: str
    counts: Mapping[str, int]
    """what was counted: rows, photos, faces, bytes"""
    seconds: float
    skipped: bool = False
    details: Details = field(default_factory=dict)
    """what else is recorded of it: mode, thresholds, names"""

    def as_json(self) -> dict[str, object]:
        """Counts and details as one object."""
        return {**self.counts, **self.details}


class StageRun:
    """Times a stage, reports its events and writes its row in `runs`; a skipped stage gets no row."""

    def __init__(self, context: Context, stage: str, total: int = 0, unit: str = "") -> None:
        self._context, self._stage = context, stage
        self._start, self._started_at = time.monotonic(), datetime.now(UTC)
        context.emit(StageStarted(stage, total, unit))

    def skip(self, counts: Mapping[str, int], details: Details | None = None) -> StageResult:
        """Report that the input was unchanged; nothing is written."""
        seconds = time.monotonic() - self._start
        self._context.emit(StageFinished(self._stage, seconds, counts, skipped=True))
        return StageResult(self._stage, counts, seconds, skipped=True, details=details or {})

    def finish(self, counts: Mapping[str, int], input_digest: str, details: Details | None = None) -> StageResult:
        """Write the row in `runs` and report the end of the stage."""
        details = details or {}
        seconds = time.monotonic() - self._start
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
            "details": json.dumps(dict(details), sort_keys=True),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        context.check_lease()
        context.lake["runs"].append([row])
        context.emit(StageFinished(self._stage, seconds, counts))
        return StageResult(self._stage, counts, seconds, details=details)


def last_details(lake: Lake, stage: str) -> Details:
    """The details that the newest execution of a stage recorded; empty if there is none."""
    row = last_run(lake, stage)
    return dict(json.loads(row["details"] or "{}")) if row else {}


def last_run(lake: Lake, stage: str) -> dict[str, Any] | None:
    """Return the newest row in `runs` of a stage; None if there is none."""
    runs = lake["runs"].read()
    runs = runs.filter(pc.equal(runs["stage"], stage)).sort_by([("started_at", "descending")])
    return dict(runs.slice(0, 1).to_pylist()[0]) if runs.num_rows else None


def digest_of(*parts: object) -> str:
    """Return 24 hex digits of the SHA-256 of the values' JSON form."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def must_add_up(stage: str, total: tuple[str, int], *parts: tuple[str, int]) -> None:
    """Check that counters add up: the total must be the sum of the parts.

    Raises:
        Corrupt: it is not.
    """
    if total[1] != sum(count for _, count in parts):
        terms = " + ".join(f"{name} {count}" for name, count in parts)
        what = f"counters do not add up: {total[0]} {total[1]} is not {terms}"
        raise Corrupt(
            what,
            where=stage,
            next_step="run `facelake verify`; if it repeats, report it with the lake's runs table",
        )
