"""What was promised to people, for the report: destruction dates that have come, exports that are owed an answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import EventKind
from facelake.lake.sampling import batches
from facelake.stages.core.context import Context
from facelake.stages.sharing.leases import leases, what_is_owed

_SOON = timedelta(days=30)


@dataclass(slots=True)
class Decisions:
    """Every decision of the last admission, counted."""

    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    overdue_photos: int = 0
    """refused, of a source or subject whose data should be destroyed by now, and still in the corpus"""
    overdue_grants: int = 0
    due_soon: int = 0

    @property
    def admitted(self) -> int:
        """Photos that may be processed."""
        return self.read - self.refused.total()


def decisions(context: Context) -> Decisions:
    """Read the admissions in batches, and the ledger."""
    sources, subjects, soon = _overdue(context)
    wanted = [
        ("source_id", pa.array(sorted(sources), pa.string())),
        ("subject_ref", pa.array(sorted(subjects), pa.string())),
    ]
    seen: set[tuple[str, str]] = set()
    found = Decisions(due_soon=soon)
    for part in batches(context.lake["admissions"], ["image_id", "source_id", "subject_ref", "reason"]):
        counts = pc.value_counts(part["reason"])
        for entry in counts.to_pylist():
            found.read += entry["counts"]
            if entry["values"] is not None:
                found.refused[entry["values"]] += entry["counts"]
        there = part.filter(pc.and_(pc.is_valid(part["image_id"]), pc.is_valid(part["reason"])))
        late = pa.array([False] * there.num_rows, pa.bool_())
        for column, keys in wanted:
            hit = pc.is_in(there[column], keys).combine_chunks()
            late = pc.or_(late, hit)
            seen.update((column, key) for key in pc.unique(there[column].filter(hit)).to_pylist())
        found.overdue_photos += pc.sum(late).as_py() or 0
    found.overdue_grants = len(seen)
    return found


def _overdue(context: Context) -> tuple[set[str], set[str], int]:
    """Sources and subjects whose newest grant is past its date of destruction, and how many soon will be."""
    columns = ["seq", "kind", "scope", "key", "destroy_by"]
    newest = {}
    for row in context.lake["ledger"].read(columns).sort_by("seq").to_pylist():
        if row["kind"] == EventKind.GRANT and row["destroy_by"] and not (row["key"] or "").startswith("erased:"):
            newest[(row["scope"], row["key"])] = row["destroy_by"]
    past = {pair for pair, day in newest.items() if day <= context.now}
    soon = sum(context.now < day <= context.now + _SOON for day in newest.values())
    named = {scope: {key for one, key in past if one == scope} for scope in ("source", "subject")}
    return named["source"], named["subject"], soon


def exports(context: Context) -> tuple[dict[str, str], int]:
    """What recipients owe, by recipient and lease, and how many leases end within 30 days."""
    owed = what_is_owed(context.lake, context.now)
    standing = leases(context.lake)
    named = {f"{one.recipient} ({one.lease_id})": owed[one.lease_id] for one in standing if one.lease_id in owed}
    until = context.now + _SOON
    ending = sum(not one.returned and context.now < one.expires_at <= until for one in standing)
    return named, ending
