"""Finds grants that would lift withdrawals: whoever records one must know it, and a list of grants must not do it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import EventKind, Refusal, Scope, reference
from facelake.stages.admission.ledger import Entry, ledger_of

LIFT = "--lift-withdrawals"


def lifted(rows: pa.Table, entries: Iterable[Entry], now: datetime) -> dict[Entry, datetime]:
    """Return the grants for purposes that stand withdrawn, each with the time of the newest withdrawal of its key; not
    those that have ended already, which lift nothing.

    A withdrawal that begins later is lifted too, since the order of recording decides; not by a grant that ends before.

    Args:
        rows: of the ledger table, before the entries are recorded.
        entries: the new events.
        now: the time.
    """
    grants = [entry for entry in entries if entry.kind is EventKind.GRANT and not has_ended(entry, now)]
    withdrawn = _withdrawals(rows)
    if not withdrawn or not grants:
        return {}
    ledger, found = ledger_of(rows), {}
    for entry in grants:
        moments = [at for at in ledger.moments(entry.scope, entry.key, now) if not has_ended(entry, at)]
        standing = (ledger.standing(entry.scope, entry.key, name, at) for name in entry.purposes for at in moments)
        if any(verdict.reason is Refusal.WITHDRAWN for verdict in standing):
            found[entry] = withdrawn[entry.scope, entry.key]
    return found


def has_ended(entry: Entry, now: datetime) -> bool:
    """Return whether an event ended before now or ends now."""
    return entry.valid_until is not None and entry.valid_until <= now


def _withdrawals(rows: pa.Table) -> dict[tuple[Scope, str], datetime]:
    """Return when the newest withdrawal was recorded, by scope and key."""
    own = rows.filter(pc.equal(rows["kind"], str(EventKind.WITHDRAW))).select(["scope", "key", "recorded_at"])
    found: dict[tuple[Scope, str], datetime] = {}
    for row in own.to_pylist():
        key, at = (Scope(row["scope"]), reference(row["key"])), row["recorded_at"]
        found[key] = max(found.get(key, at), at)
    return found


def lifted_in_words(entry: Entry, at: datetime) -> str:
    """Return what a grant does to the withdrawal of its source or subject."""
    return f"this grant of the {entry.scope} {entry.key!r} lifts the withdrawal of {at:%F}"


def lifted_by_lines(rows: pa.Table, lines: Mapping[int, Entry], now: datetime) -> dict[int, str]:
    """Return, by line of a file of events, why a grant is not recorded: its source or subject has withdrawn before.

    Whether the file has the withdrawal too says nothing: a list whose newest event comes first has it above the grant
    that it ended.

    Args:
        rows: of the ledger table.
        lines: the events of the file by line.
        now: the time.
    """
    lifting = lifted(rows, lines.values(), now)
    return {
        line: f"the {entry.scope} {entry.key!r} withdrew on {lifting[entry]:%F}, and a list does not lift this: if "
        f"a new agreement was given, record it by `facelake ledger grant`, or import the list with {LIFT}"
        for line, entry in lines.items()
        if entry in lifting
    }


def lifted_in_file(lines: Mapping[int, Entry], now: datetime) -> Iterator[tuple[int, str]]:
    """Yield the lines of grants above which the same file has a withdrawal that they lift, with a sentence on it.

    Args:
        lines: the events of the file that are recorded, by line, ascending.
        now: the time.
    """
    withdrawn: dict[tuple[Scope, str], tuple[int, Entry]] = {}
    for line, entry in lines.items():
        key = (entry.scope, entry.key)
        if entry.kind is EventKind.WITHDRAW:
            withdrawn[key] = line, entry
        elif entry.kind is EventKind.GRANT and key in withdrawn:
            above, earlier = withdrawn[key]
            if has_ended(entry, max(now, earlier.valid_from or now)):
                continue
            if not earlier.purposes or set(earlier.purposes) & set(entry.purposes):
                yield line, f"this grant of the {entry.scope} {entry.key!r} lifts the withdrawal of line {above}"
