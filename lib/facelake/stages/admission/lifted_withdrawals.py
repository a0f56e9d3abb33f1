"""Finds grants that would lift withdrawals: whoever records one must know it, and a list of grants must not do it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import EventKind, Refusal, Scope, reference
from facelake.stages.admission.ledger import Entry, ledger_of

LIFT = "--lift-withdrawals"


def lifted(rows: pa.Table, entries: Iterable[Entry], now: datetime) -> dict[Entry, datetime]:
    """Return the grants for purposes that stand withdrawn, each with the time of the newest withdrawal of its key.

    Args:
        rows: of the ledger table, before the entries are recorded.
        entries: the new events.
        now: the time; withdrawals that begin later are left out.
    """
    grants = [entry for entry in entries if entry.kind is EventKind.GRANT]
    withdrawn = _withdrawals(rows)
    if not withdrawn or not grants:
        return {}
    ledger, found = ledger_of(rows), {}
    for entry in grants:
        verdicts = (ledger.standing(entry.scope, entry.key, purpose, now).reason for purpose in entry.purposes)
        if Refusal.WITHDRAWN in verdicts:
            found[entry] = max(withdrawn[entry.scope, entry.key])
    return found


def _withdrawals(rows: pa.Table) -> dict[tuple[Scope, str], list[datetime]]:
    """Return when withdrawals were recorded, by scope and key."""
    own = rows.filter(pc.equal(rows["kind"], str(EventKind.WITHDRAW))).select(["scope", "key", "recorded_at"])
    found: dict[tuple[Scope, str], list[datetime]] = {}
    for row in own.to_pylist():
        found.setdefault((Scope(row["scope"]), reference(row["key"])), []).append(row["recorded_at"])
    return found


def lifted_in_words(entry: Entry, at: datetime) -> str:
    """Return what a grant does to the withdrawal of its source or subject."""
    return f"this grant of the {entry.scope} {entry.key!r} lifts the withdrawal of {at:%F}"


def lifted_by_lines(rows: pa.Table, lines: Mapping[int, Entry], now: datetime) -> dict[int, str]:
    """Return, by line of a file of events, why a grant is not recorded: its source or subject has withdrawn since.

    A file that has every withdrawal of the ledger above the grant knows of them, and lifts them.

    Args:
        rows: of the ledger table.
        lines: the events of the file by line, ascending.
        now: the time.
    """
    lifting = lifted(rows, lines.values(), now)
    in_ledger = {key: len(times) for key, times in _withdrawals(rows).items()} if lifting else {}
    above: Counter[tuple[Scope, str]] = Counter()
    refused = {}
    for line, entry in lines.items():
        key = (entry.scope, entry.key)
        above[key] += entry.kind is EventKind.WITHDRAW
        if entry in lifting and above[key] < in_ledger[key]:
            refused[line] = (
                f"the {entry.scope} {entry.key!r} withdrew on {lifting[entry]:%F}, and a list does not lift this: if "
                f"a new agreement was given, record it by `facelake ledger grant`, or import the list with {LIFT}"
            )
    return refused
