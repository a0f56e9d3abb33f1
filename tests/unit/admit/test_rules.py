"""The admission rules: fail closed, withdrawals take precedence, later events override earlier ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.admit import Decision, Event, Ledger, decide, decide_rows
from facelake.contracts import Covers, EventKind, Refusal, Scope

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
    (
        "an expiry does not lift a withdrawal by the subject",
        [grant(1), withdraw(2, Scope.SUBJECT, "p"), Event(3, EventKind.EXPIRE, Scope.SUBJECT, "p")],
        Refusal.WITHDRAWN,
    ),
    (
        "nor does an expiry of one purpose",
        [grant(1), withdraw(2, Scope.SUBJECT, "p"), Event(3, EventKind.EXPIRE, Scope.SUBJECT, "p", frozenset({P}))],
        Refusal.WITHDRAWN,
    ),
    ("a withdrawal under another spelling", [grant(1), withdraw(2, Scope.SUBJECT, " p\ufeff")], Refusal.WITHDRAWN),
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
            "source_class": pa.nulls(7, pa.string()),
        }
    )
    duplicate = np.array([False, False, False, True, False, False, False])
    erased = {"image:e", "subject:gone"}
    found = decide_rows(rows, Ledger([grant(1)]), P, NOW, duplicate=duplicate, erased=erased.__contains__)
    assert found.reasons.to_pylist() == [None, "no_id", "no_id", "duplicate_id", "erased", "no_basis", "erased"]
    assert found.covers.to_pylist() == ["everyone_depicted", *[None] * 6]


SUBJECT, SOURCE = Scope.SUBJECT, Scope.SOURCE
COVERED = [
    ("a source's grant speaks of everyone", [grant(1)], Covers.EVERYONE),
    ("a subject's grant speaks of the subject", [grant(1, SUBJECT, "p")], Covers.NAMED),
    ("a source may speak of the named only", [grant(1, covers=Covers.NAMED)], Covers.NAMED),
    ("a subject alone on a photo", [grant(1, SUBJECT, "p", covers=Covers.EVERYONE)], Covers.EVERYONE),
    ("who covers more decides", [grant(1), grant(2, SUBJECT, "p")], Covers.EVERYONE),
    ("the newest grant decides", [grant(1), grant(2, covers=Covers.NAMED)], Covers.NAMED),
    ("one that lies ahead does not", [grant(1), grant(2, covers=Covers.NAMED, valid_from=NOW + DAY)], Covers.EVERYONE),
    ("one for something else does not", [grant(1), grant(2, purposes=(OTHER,), covers=Covers.NAMED)], Covers.EVERYONE),
]


@pytest.mark.parametrize(("events", "covers"), [c[1:] for c in COVERED], ids=[c[0] for c in COVERED])
def test_whose_faces_a_grant_covers(events: list[Event], covers: Covers) -> None:
    assert decide(Ledger(events), "s", "p", P, NOW) == Decision(None, covers)


def test_a_grant_for_the_named_subject_needs_a_subject_ref() -> None:
    assert decide(Ledger([grant(1, covers=Covers.NAMED)]), "s", None, P, NOW).reason == Refusal.NO_BASIS


@pytest.mark.parametrize("name", ["web-scrape", "cctv", "unknown", "found on a disk", "CCTV"])
def test_no_grant_admits_a_scraped_or_unknown_source(name: str) -> None:
    granted = [grant(1), grant(2, SUBJECT, "p")]
    assert decide(Ledger(granted), "s", "p", P, NOW, name).reason == Refusal.SOURCE_CLASS
    said = Ledger([*granted, grant(3, source_class=name), grant(4)])
    assert decide(said, "s", "p", P, NOW).reason == Refusal.SOURCE_CLASS
    # a class that is stated later does not launder the source: neither a default nor another statement
    restated = Ledger([*granted, grant(3, source_class=name), grant(4, source_class="commissioned")])
    assert decide(restated, "s", "p", P, NOW).reason == Refusal.SOURCE_CLASS
    assert decide(restated, " s\u200b", "p", P, NOW).reason == Refusal.SOURCE_CLASS
