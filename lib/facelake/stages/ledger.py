"""The ledger's table: append events, read them as the admission room wants them."""

from __future__ import annotations

import getpass
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc

from facelake.admit import Event, Ledger
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.lake.tables import Snapshot


def record(
    lake: Lake,
    kind: EventKind,
    scope: Scope,
    keys: Sequence[str],
    *,
    purposes: Sequence[str] = (),
    basis: str = "",
    evidence: str = "",
    valid_from: datetime | None = None,
    valid_until: datetime | None = None,
    destroy_by: datetime | None = None,
) -> int:
    """Append one event per key; returns the ledger's new version.

    Raises:
        ConfigError: a grant without basis, purpose or key, or one that ends before it begins.
    """
    if kind is EventKind.GRANT and (not basis or not purposes):
        raise ConfigError(
            "a grant needs a basis and at least one purpose",
            where="ledger",
            next_step="give --basis, --purpose",
        )
    if not keys or not all(keys):
        raise ConfigError(
            f"a {kind} needs a source or a subject", where="ledger", next_step="give --source or --subject"
        )
    if valid_from and valid_until and valid_until <= valid_from:
        raise ConfigError("the grant ends before it begins", where="ledger", next_step="correct --from and --until")
    seq = next_seq(lake)
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = [
        {
            "seq": seq + i,
            "kind": str(kind),
            "scope": str(scope),
            "key": key,
            "purposes": sorted(purposes),
            "basis": basis,
            "evidence_sha256": hashlib.sha256(evidence.encode()).hexdigest() if evidence else None,
            "valid_from": valid_from,
            "valid_until": valid_until,
            "destroy_by": destroy_by,
            "recorded_at": now,
            "recorded_by": getpass.getuser(),
        }
        for i, key in enumerate(keys)
    ]
    return lake["ledger"].append(rows)


def next_seq(lake: Lake) -> int:
    """The sequence number of the next event."""
    seqs = lake["ledger"].read(["seq"])["seq"]
    return 1 + (pc.max(seqs).as_py() or 0)


def read_ledger(lake: Lake, snapshot: Snapshot | None = None) -> Ledger:
    """All events, in order."""
    rows = lake["ledger"].read(snapshot=snapshot).to_pylist()
    return Ledger(
        Event(
            row["seq"],
            EventKind(row["kind"]),
            Scope(row["scope"]),
            row["key"],
            frozenset(row["purposes"] or ()),
            row["valid_from"],
            row["valid_until"],
            row["destroy_by"],
        )
        for row in rows
    )
