"""Hosts whose clocks differ: debts are paid by what the lake knows, and changes are not older than what they follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from facelake.config import Config
from facelake.contracts import EventKind, Scope
from facelake.lake.lake import Lake
from facelake.matcher import Gallery
from facelake.nightly import writing
from facelake.stages.admission.accepted_clock import accept_clock
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.context import Context
from facelake.stages.sharing.export import export_gallery, send_changes
from facelake.stages.sharing.held_copy import HeldCopy, refuse_stale_copy
from facelake.stages.sharing.leases import acknowledge, leases, what_is_owed
from facelake.stages.sharing.push import PushTerms, push

P = "identity-grouping"
REAL = datetime
MINUTES = [-10, 10]


@pytest.fixture
def context(demo_config: Config) -> Iterator[Context]:
    with writing(demo_config, "test") as opened:
        yield opened


@contextmanager
def clock(ahead: timedelta) -> Iterator[None]:
    """A host whose clock differs: in every module of the stages."""

    def now(cls: Any, zone: Any = None) -> datetime:
        return REAL.now(zone) + ahead

    other = type("Clock", (datetime,), {"now": classmethod(now)})
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("facelake.stages.") and getattr(module, "datetime", None) is REAL:
                patch.setattr(module, "datetime", other)
        yield


def owed(lake: Lake) -> dict[str, str]:
    return what_is_owed(lake, datetime.now(UTC))


def withdraw(lake: Lake, subject: str, **more: Any) -> None:
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, subject, **more)])


@pytest.mark.parametrize("minutes", MINUTES)
def test_a_push_pays_a_debt_whatever_the_clock_of_its_host(context: Context, tmp_path: Path, minutes: int) -> None:
    url = f"lancedb://{tmp_path}/gate?table=gate"
    with clock(timedelta(minutes=minutes)):
        before = push(context, PushTerms(url, "gate-7", P))
    withdraw(context.lake, "person-3")
    assert set(owed(context.lake)) == {before["lease_id"]}
    with clock(timedelta(minutes=minutes)):
        assert push(context, PushTerms(url))["after"] < before["after"]
    assert owed(context.lake) == {}
    with clock(timedelta(minutes=-minutes)):
        withdraw(context.lake, "person-1")
    assert set(owed(context.lake)) == {before["lease_id"]}
    push(context, PushTerms(url))
    assert owed(context.lake) == {}


@pytest.mark.parametrize("minutes", MINUTES)
def test_changes_of_a_host_that_is_behind_fit_an_export_of_another(
    context: Context, tmp_path: Path, minutes: int
) -> None:
    with clock(timedelta(minutes=minutes)):
        lease = export_gallery(context, str(tmp_path / "a"), P, "gate-7")["lease_id"]
    copy, people = Gallery.open(str(tmp_path / "a")), len(Gallery.open(str(tmp_path / "a")))
    with clock(timedelta(minutes=minutes)):
        withdraw(context.lake, "person-3")
    with clock(timedelta(minutes=-minutes)):
        send_changes(context, lease, str(tmp_path / "changes"))
        copy.apply(str(tmp_path / "changes"))
        acknowledge(context.lake, lease)
    assert len(copy) < people
    assert owed(context.lake) == {}
    refuse_stale_copy(context.config, HeldCopy(copy.lease_id, copy.lake, copy.version, copy.computed_at))


def test_a_withdrawal_that_begins_later_is_owed_from_its_date_on(context: Context, tmp_path: Path) -> None:
    url = f"lancedb://{tmp_path}/gate?table=gate"
    begins = datetime.now(UTC) + timedelta(minutes=5)
    withdraw(context.lake, "person-3", valid_from=begins)
    lease = push(context, PushTerms(url, "gate-7", P))
    assert owed(context.lake) == {}
    with clock(timedelta(minutes=10)):
        later = datetime.now(UTC) + timedelta(minutes=10)
        assert set(what_is_owed(context.lake, later)) == {lease["lease_id"]}
        assert push(context, PushTerms(url))["after"] < lease["after"]
        assert what_is_owed(context.lake, later) == {}
    assert owed(context.lake) == {}


def test_a_withdrawal_by_a_clock_that_was_declared_wrong_can_be_paid(context: Context, tmp_path: Path) -> None:
    """It holds at once; and grants that end before its date have not ended."""
    url = f"lancedb://{tmp_path}/gate?table=gate"
    ends = datetime.now(UTC) + timedelta(days=100)
    record(context.lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "person-9", (P,), "b", valid_until=ends)])
    before = push(context, PushTerms(url, "gate-7", P))
    with clock(timedelta(days=200)):
        withdraw(context.lake, "person-3")
    accept_clock(context, datetime.now(UTC))
    assert set(owed(context.lake)) == {before["lease_id"]}
    assert push(context, PushTerms(url))["after"] < before["after"]
    assert owed(context.lake) == {}


def test_a_lease_does_not_last_longer_by_a_clock_that_is_ahead(context: Context, tmp_path: Path) -> None:
    with clock(timedelta(days=20)):
        withdraw(context.lake, "person-3")
    export_gallery(context, str(tmp_path / "a"), P, "gate-7", days=30)
    (lease,) = leases(context.lake)
    assert lease.expires_at <= datetime.now(UTC) + timedelta(days=30)
