"""The ledger's rules: fail closed, withdrawals win, later events override."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.admit import Event, Ledger, decide, decide_rows
from facelake.contracts import EventKind, Refusal, Scope

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DAY = timedelta(days=1)
P, OTHER = "identity-grouping", "print"


def grant(
    seq: int, scope: Scope = Scope.SOURCE, key: str = "s", purposes: tuple[str, ...] = (P,), **more: object
) -> Event:
    return Event(seq, EventKind.GRANT, scope, key, frozenset(purposes), **more)  # type: ignore[arg-type]


def withdraw(
    seq: int, scope: Scope = Scope.SOURCE, key: str = "s", purposes: tuple[str, ...] = (), **more: object
) -> Event:
    return Event(seq, EventKind.WITHDRAW, scope, key, frozenset(purposes), **more)  # type: ignore[arg-type]


CASES = [
    ("nothing recorded", [], Refusal.NO_BASIS),
    ("granted to the source", [grant(1)], None),
    ("granted to the subject", [grant(1, Scope.SUBJECT, "p")], None),
    ("granted to somebody else", [grant(1, Scope.SUBJECT, "q")], Refusal.NO_BASIS),
    ("for another purpose", [grant(1, purposes=(OTHER,))], Refusal.OTHER_PURPOSE),
    ("expired", [grant(1, valid_until=NOW - DAY)], Refusal.EXPIRED),
    ("ends this instant", [grant(1, valid_until=NOW)], Refusal.EXPIRED),
    ("must be destroyed", [grant(1, destroy_by=NOW - DAY)], Refusal.EXPIRED),
    ("begins tomorrow", [grant(1, valid_from=NOW + DAY)], Refusal.NOT_YET_VALID),
    ("withdrawn", [grant(1), withdraw(2)], Refusal.WITHDRAWN),
    ("withdrawn by the subject", [grant(1), withdraw(2, Scope.SUBJECT, "p")], Refusal.WITHDRAWN),
    ("withdrawn by another subject", [grant(1), withdraw(2, Scope.SUBJECT, "q")], None),
    ("withdrawn for another purpose", [grant(1), withdraw(2, purposes=(OTHER,))], None),
    ("withdrawn for this purpose", [grant(1), withdraw(2, purposes=(P,))], Refusal.WITHDRAWN),
    ("withdrawn, then granted again", [grant(1), withdraw(2), grant(3)], None),
    ("source granted again, subject still withdrawn", [withdraw(1, Scope.SUBJECT, "p"), grant(2)], Refusal.WITHDRAWN),
    (
        "withdrawn, then granted for another purpose",
        [grant(1), withdraw(2), grant(3, purposes=(OTHER,))],
        Refusal.WITHDRAWN,
    ),
    ("withdrawal of tomorrow", [grant(1), withdraw(2, valid_from=NOW + DAY)], None),
    ("expire event", [grant(1), Event(2, EventKind.EXPIRE, Scope.SOURCE, "s")], Refusal.EXPIRED),
    ("a newer grant shortens an older one", [grant(1), grant(2, valid_until=NOW - DAY)], Refusal.EXPIRED),
    (
        "a renewal that lies ahead leaves the grant in force",
        [grant(1, valid_until=NOW + DAY), grant(2, valid_from=NOW + DAY)],
        None,
    ),
    ("a grant for something else leaves it in force", [grant(1), grant(2, purposes=(OTHER,))], None),
    ("a renewal after the end", [grant(1, valid_until=NOW - DAY), grant(2)], None),
    ("an expired grant does not lift a withdrawal", [withdraw(1), grant(2, valid_until=NOW - DAY)], Refusal.WITHDRAWN),
    ("order is by seq, not by arrival", [withdraw(2), grant(1)], Refusal.WITHDRAWN),
]


@pytest.mark.parametrize(("events", "reason"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_cases(events: list[Event], reason: Refusal | None) -> None:
    assert decide(Ledger(events), "s", "p", P, NOW).reason == reason


def test_no_source_and_no_subject_is_refused() -> None:
    assert decide(Ledger([grant(1)]), None, None, P, NOW).reason == Refusal.NO_BASIS
    assert decide(Ledger([grant(1, key="")]), "", "", P, NOW).reason == Refusal.NO_BASIS


moments = st.none() | st.integers(-3, 3).map(lambda days: NOW + days * DAY)
events_of = st.lists(
    st.builds(
        lambda kind, scope, key, purposes, start, end: (kind, scope, key, frozenset(purposes), start, end),
        st.sampled_from(EventKind),
        st.sampled_from(Scope),
        st.sampled_from(["s", "p", "x"]),
        st.sets(st.sampled_from([P, OTHER])),
        moments,
        moments,
    ),
    max_size=8,
).map(lambda rows: [Event(i, *row) for i, row in enumerate(rows)])


@given(events_of)
def test_nothing_is_admitted_without_a_grant_for_the_purpose(events: list[Event]) -> None:
    admitted = decide(Ledger(events), "s", "p", P, NOW).admitted
    fitting = [
        e
        for e in events
        if e.kind is EventKind.GRANT
        and P in e.purposes
        and (e.scope, e.key) in {(Scope.SOURCE, "s"), (Scope.SUBJECT, "p")}
    ]
    assert not admitted or fitting


@given(events_of, st.sampled_from([(Scope.SOURCE, "s"), (Scope.SUBJECT, "p")]))
def test_a_last_withdrawal_always_refuses(events: list[Event], target: tuple[Scope, str]) -> None:
    last = Event(99, EventKind.WITHDRAW, *target)
    assert decide(Ledger([*events, last]), "s", "p", P, NOW).reason == Refusal.WITHDRAWN


def test_rows_have_one_reason_each() -> None:
    rows = pa.table(
        {
            "image_id": ["a", None, "", "a", "e", "f", "g"],
            "source_id": ["s", "s", "s", "s", "s", "none", "s"],
            "subject_ref": ["p", "p", None, None, None, None, "gone"],
        }
    )
    duplicate = np.array([False, False, False, True, False, False, False])
    erased = {"image:e", "subject:gone"}
    reasons = decide_rows(rows, Ledger([grant(1)]), P, NOW, duplicate, erased.__contains__, False)
    assert reasons.to_pylist() == [None, "no_id", "no_id", "duplicate_id", "erased", "no_basis", "erased"]
