"""Obligations for the report: destruction dates that have passed, and leases whose recipients owe an action."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import EventKind, Refusal, Scope, reference, references
from facelake.lake.sampling import batches
from facelake.stages.core.context import Context
from facelake.stages.sharing.leases import lease_time, leases, what_is_owed

_SOON = timedelta(days=30)


@dataclass(slots=True)
class AdmissionCounts:
    """The decisions of the last admission, and the grants past or near their date of destruction."""

    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    overdue_photos: int = 0
    """refused photos, still in the corpus, of a source or subject whose date of destruction has passed"""
    overdue_grants: int = 0
    due_soon: int = 0
    without_basis: Counter[str] = field(default_factory=Counter)
    """photos refused for want of a legal basis, by source"""
    granted_without_photo: list[str] = field(default_factory=list)
    """sources that a grant names and no photo does, sorted"""

    @property
    def admitted(self) -> int:
        """Number of photos that may be processed."""
        return self.read - self.refused.total()


def count_admissions(context: Context, *, erased_since: bool = False) -> AdmissionCounts:
    """Count the admission decisions (read in batches) and the overdue grants of the ledger.

    Args:
        context: of the run.
        erased_since: whether an erasure emptied rows of the lake's own corpus since the decisions: they are no photos
            any more, as the next admission will find.
    """
    sources, subjects, due_soon = _overdue(context)
    overdue_keys = [
        ("source_id", pa.array(sorted(sources), pa.string())),
        ("subject_ref", pa.array(sorted(subjects), pa.string())),
    ]
    grants: set[tuple[str, str]] = set()
    unmatched = _granted_sources(context)
    result = AdmissionCounts(due_soon=due_soon)
    for part in batches(context.lake["admissions"], ["image_id", "source_id", "subject_ref", "reason"]):
        if erased_since:
            blank = pc.fill_null(pc.equal(part["reason"], str(Refusal.ERASED)), False)
            part = part.filter(pc.invert(pc.and_(blank, pc.is_null(part["image_id"]))))
        for entry in pc.value_counts(part["reason"]).to_pylist():
            if entry["values"] == Refusal.EMPTIED:  # a row that an erasure or a replacement left behind
                continue
            result.read += entry["counts"]
            if entry["values"] is not None:
                result.refused[entry["values"]] += entry["counts"]
        if unmatched:
            unmatched -= set(pc.unique(references(part["source_id"])).to_pylist())
        without = part.filter(pc.fill_null(pc.equal(part["reason"], str(Refusal.NO_BASIS)), False))
        for entry in pc.value_counts(without["source_id"].drop_null()).to_pylist():
            result.without_basis[entry["values"]] += entry["counts"]
        refused = part.filter(pc.and_(pc.is_valid(part["image_id"]), pc.is_valid(part["reason"])))
        overdue = pa.array([False] * refused.num_rows, pa.bool_())
        for column, keys in overdue_keys:
            hit = pc.is_in(refused[column], keys).combine_chunks()
            overdue = pc.or_(overdue, hit)
            grants.update((column, key) for key in pc.unique(refused[column].filter(hit)).to_pylist())
        result.overdue_photos += pc.sum(overdue).as_py() or 0
    result.overdue_grants = len(grants)
    result.granted_without_photo = sorted(unmatched)
    return result


def _granted_sources(context: Context) -> set[str]:
    """Return the sources that grants name, as `contracts.reference` spells them."""
    rows = context.lake["ledger"].read(["kind", "scope", "key"]).to_pylist()
    named = {row["key"] for row in rows if row["kind"] == EventKind.GRANT and row["scope"] == Scope.SOURCE}
    return {reference(key) for key in named if key and not key.startswith("erased:")}


def _overdue(context: Context) -> tuple[set[str], set[str], int]:
    """Return the sources and subjects whose newest grant is past its date of destruction or was ended by an expiry, and
    how many are due soon.
    """
    columns = ["seq", "kind", "scope", "key", "destroy_by", "purposes", "valid_from", "recorded_at"]
    newest = {}
    for row in context.lake["ledger"].read(columns).sort_by("seq").to_pylist():
        if (row["key"] or "").startswith("erased:"):
            continue
        if row["kind"] == EventKind.GRANT and row["destroy_by"]:
            newest[(row["scope"], row["key"])] = row["destroy_by"]
        elif row["kind"] == EventKind.EXPIRE and context.config.purpose in (
            row["purposes"] or [context.config.purpose]
        ):
            newest[(row["scope"], row["key"])] = row["valid_from"] or row["recorded_at"]
    past = {scope_key for scope_key, day in newest.items() if day <= context.now}
    due_soon = sum(context.now < day <= context.now + _SOON for day in newest.values())
    sources = {key for scope, key in past if scope == "source"}
    subjects = {key for scope, key in past if scope == "subject"}
    return sources, subjects, due_soon


def standing(context: Context) -> str:
    """Return a text that changes when the alerts about promises may change: a lease is issued, renewed, acknowledged,
    recalled or returned, or a lease or a grant ends or comes within 30 days of its end.

    The events of the ledger that take effect are not part of it.
    """
    lake = context.lake
    moment = lease_time(lake, context.now)
    until, table = moment + _SOON, lake["leases"].snapshot()
    ends = lake["leases"].read(["expires_at"], table)["expires_at"]
    due = lake["ledger"].read(["destroy_by"])["destroy_by"]
    passed = (pc.less_equal(ends, moment), pc.less_equal(ends, until), pc.less_equal(due, until))
    return "-".join(map(str, (table.version, *(pc.sum(past).as_py() or 0 for past in passed))))


def lease_duties(context: Context) -> tuple[dict[str, str], int]:
    """Return what recipients owe, by recipient and lease, and how many leases end within 30 days."""
    owed = what_is_owed(context.lake, context.now)
    all_leases = leases(context.lake)
    by_name = {
        f"{lease.recipient} ({lease.lease_id})": owed[lease.lease_id] for lease in all_leases if lease.lease_id in owed
    }
    until = context.now + _SOON
    ending = sum(not lease.returned and context.now < lease.expires_at <= until for lease in all_leases)
    return by_name, ending
