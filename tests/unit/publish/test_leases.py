"""What recipients owe, by pure rules over the events of their leases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from facelake.publish.leases import Ending, duties, leases_from_events, recipient_key

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def events(issued_at: datetime, ledger_seq: int | None) -> list[dict[str, Any]]:
    issued = {"event": "issued", "recipient": "gate", "purpose": "p", "issued_at": issued_at, "identities": 1}
    issued |= {"expires_at": NOW + timedelta(days=90), "gallery_version": 1, "target": None, "ledger_seq": ledger_seq}
    return [issued | {"seq": 1, "lease_id": "a"}]


def owed(rows: list[dict[str, Any]], ending: Ending) -> dict[str, str]:
    return duties(leases_from_events(rows), 0, NOW + timedelta(days=1), lambda _: ending)


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(hours=5)])
def test_a_host_whose_clock_was_ahead_does_not_hide_a_withdrawal(ahead: timedelta) -> None:
    """The export was made at a clock that is ahead; the withdrawal came after it, with an earlier time."""
    rows = events(NOW + ahead, ledger_seq=7)
    assert "withdrawal" in owed(rows, Ending(NOW + timedelta(minutes=1), 8))["a"]
    assert owed(rows, Ending(NOW - timedelta(minutes=1), 7)) == {}
    sent = {"seq": 2, "lease_id": "a", "event": "sent", "gallery_version": 1, "issued_at": NOW + ahead, "ledger_seq": 8}
    acknowledged = {"seq": 3, "lease_id": "a", "event": "acknowledged", "gallery_version": 1}
    assert owed([*rows, sent], Ending(NOW, 8))
    assert owed([*rows, sent, acknowledged], Ending(NOW, 8)) == {}


def test_a_withdrawal_that_begins_later_is_owed_from_then_on() -> None:
    begins = NOW + timedelta(hours=1)
    assert "withdrawal" in owed(events(NOW, ledger_seq=9), Ending(begins, 8, begins))["a"]


def test_a_withdrawal_that_was_known_is_not_owed_whatever_the_clocks_say() -> None:
    """The host that pushed was behind, or the one that recorded the withdrawal ahead."""
    later = Ending(NOW + timedelta(minutes=10), 8)
    assert owed(events(NOW, ledger_seq=8), later) == {}
    assert owed(events(NOW, ledger_seq=7), later)
    assert owed(events(NOW, ledger_seq=None), later)  # as earlier versions recorded it


def test_both_a_withdrawal_and_an_erasure_are_named() -> None:
    lease = leases_from_events(events(NOW, ledger_seq=7))
    both = duties(lease, 3, NOW + timedelta(days=1), lambda _: Ending(NOW + timedelta(hours=1), 8))["a"]
    assert (
        both == "has not acknowledged the withdrawal (or end of a grant) of 2026-01-01 and the erasures up to gallery 3"
    )


def test_invisible_characters_do_not_make_another_recipient() -> None:
    assert recipient_key("gate\u200b-7") == recipient_key("Gate-7\u200e")
