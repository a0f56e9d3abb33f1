"""The admission rules against a short reference that is written from docs/consent.md, over random histories."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from facelake.admit import Event, Ledger, decide
from facelake.contracts import Covers, EventKind, Scope

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PURPOSES = ["identity-grouping", "print"]
CLASSES = [None, None, None, "contributed", "archive", "cctv", "unknown", "something-else"]
REFUSED = {"cctv", "unknown", "web-scrape", "something-else"}


def in_force(events: list[Event], scope: Scope, key: str, purpose: str, now: datetime) -> tuple[str, bool]:
    """(state, covers everyone) by one source or subject: granted, withdrawn or nothing."""
    state, everyone = "nothing", False
    for event in events:
        if (event.scope, event.key) != (scope, key):
            continue
        begun = event.valid_from is None or event.valid_from <= now
        if event.kind is EventKind.GRANT:
            ended = any(end is not None and end <= now for end in (event.valid_until, event.destroy_by))
            if purpose in event.purposes and begun and not ended:
                state = "granted"
                everyone = (
                    event.covers or (Covers.EVERYONE if scope is Scope.SOURCE else Covers.NAMED)
                ) == "everyone_depicted"
            elif purpose in event.purposes and begun and state == "granted":
                state = "nothing"  # a newer grant that has ended shortens the older one
        elif begun and (not event.purposes or purpose in event.purposes):
            if event.kind is EventKind.WITHDRAW:
                state = "withdrawn"
            elif state != "withdrawn":
                state = "nothing"
    return state, everyone


def reference_admits(events: list[Event], source: str, subject: str | None, purpose: str, now: datetime) -> bool:
    if any(e.source_class in REFUSED for e in events if (e.scope, e.key) == (Scope.SOURCE, source)):
        return False
    states = [in_force(events, Scope.SOURCE, source, purpose, now)]
    states += [in_force(events, Scope.SUBJECT, subject, purpose, now)] if subject else []
    if any(state == "withdrawn" for state, _ in states):
        return False
    granted = [everyone for state, everyone in states if state == "granted"]
    return bool(granted) and (any(granted) or subject is not None)


days = st.none() | st.integers(-20, 20).map(lambda number: NOW + timedelta(days=number))
events = st.lists(
    st.builds(
        lambda kind, scope, key, purposes, start, end, destroy, covers, source_class: (
            kind, scope, key, frozenset(purposes), start, end, destroy, covers, source_class,
        ),
        st.sampled_from(EventKind), st.sampled_from(Scope), st.sampled_from(["a", "b"]),
        st.sets(st.sampled_from(PURPOSES)), days, days, days, st.none() | st.sampled_from(Covers),
        st.sampled_from(CLASSES),
    ),
    max_size=9,
).map(lambda rows: [Event(number, *row) for number, row in enumerate(rows)])  # fmt: skip


@settings(max_examples=500)
@given(
    events,
    st.sampled_from(["a", "b"]),
    st.sampled_from([None, "a", "b"]),
    st.sampled_from(PURPOSES),
    st.integers(-25, 25),
)
def test_admitted_exactly_when_the_reference_says_so(
    events: list[Event], source: str, subject: str | None, purpose: str, day: int
) -> None:
    now = NOW + timedelta(days=day)
    wanted = reference_admits(events, source, subject, purpose, now)
    assert decide(Ledger(events), source, subject, purpose, now).admitted == wanted
