"""Leases: what was exported, to whom, for which purpose and until when; and what the recipients owe. Pure.

The events of a lease are: issued with an export, renewed, changes sent, acknowledged up to a gallery version,
recalled, returned. An acknowledgement covers the withdrawals that were known when the last changes were sent: by their
number in the ledger, since the clocks of hosts differ, and by time only what took effect on a date. A recipient owes an
action if the lease was recalled or has ended and was not returned, if identities were erased after the version that the
recipient last acknowledged, or if a withdrawal took effect after that acknowledgement. A recipient that owes an action
gets no further export.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from facelake.contracts import reference

_FACTS = ("recipient", "purpose", "issued_at", "expires_at", "gallery_version", "identities")


class Ending(NamedTuple):
    """The newest withdrawals or ends of grants for a purpose that took effect."""

    at: datetime
    """when the newest took effect"""
    seq: int
    """the highest sequence number in the ledger"""
    dated: datetime | None = None
    """when the newest of those took effect that did so on a date, and not by being recorded"""


class LeaseEvent(StrEnum):
    """What happened to a lease."""

    ISSUED = "issued"
    RENEWED = "renewed"
    ACKNOWLEDGED = "acknowledged"
    RECALLED = "recalled"
    RETURNED = "returned"
    SENT = "sent"


@dataclass(frozen=True, slots=True)
class FeedLease:
    """The present state of a lease."""

    lease_id: str
    recipient: str
    purpose: str
    issued_at: datetime
    expires_at: datetime
    gallery_version: int
    """gallery version of the export"""
    identities: int
    acknowledged: int
    """gallery version up to which the recipient has applied all changes; initially that of the export"""
    recalled: bool = False
    returned: bool = False
    acknowledged_at: datetime | None = None
    """as of when the recipient's copy is known to be right: the issue, or the changes that it last acknowledged"""
    sent: int = 0
    """gallery version up to which the recipient was given data; initially that of the export"""
    sent_at: datetime | None = None
    """as of when the changes were computed that the recipient was last given"""
    target: str | None = None
    """the database that `feed push` fills under this lease, without credentials; None: files"""
    sent_seq: int | None = None
    """newest event of the ledger that was known when the recipient was last given data"""
    acknowledged_seq: int | None = None
    """newest event of the ledger that was known at `acknowledged_at`"""
    issued_seq: int | None = None
    """newest event of the ledger that was known at the export"""
    given: tuple[tuple[datetime, int | None], ...] = ()
    """as of when the recipient was given data, and the newest event of the ledger that was known then"""

    def ended(self, now: datetime) -> str | None:
        """Return why the lease no longer gives a right of use; None while it does."""
        if self.returned:
            return "was returned"
        if self.recalled:
            return "was recalled and is not returned"
        return f"ended on {self.expires_at:%Y-%m-%d} and is not returned" if self.expires_at <= now else None

    def owes(self, erased_version: int, now: datetime, withdrawn: Ending | None = None) -> str | None:
        """Return what the recipient owes; None if nothing.

        Args:
            erased_version: newest gallery version in which an identity was erased; 0 for none.
            now: the present time.
            withdrawn: the newest withdrawal for the purpose of the lease that took effect.
        """
        if self.returned:
            return None
        if reason := self.ended(now):
            return reason
        owed: list[str] = []
        if withdrawn and self._unaware_of(withdrawn):
            owed.append(f"the withdrawal (or end of a grant) of {withdrawn.at:%Y-%m-%d}")
        if self.acknowledged < erased_version:
            owed.append(f"the erasures up to gallery {erased_version}")
        return f"has not acknowledged {' and '.join(owed)}" if owed else None

    def _unaware_of(self, withdrawn: Ending) -> bool:
        if self.acknowledged_seq is None:  # of a version that did not record it
            return self.acknowledged_at is not None and self.acknowledged_at < withdrawn.at
        late = withdrawn.dated and self.acknowledged_at and self.acknowledged_at < withdrawn.dated
        return bool(late) or self.acknowledged_seq < withdrawn.seq


def leases_from_events(events: Iterable[Mapping[str, Any]]) -> list[FeedLease]:
    """Return the present state of every lease, in the order of issue.

    Args:
        events: rows of the `leases` table.
    """
    leases: dict[str, FeedLease] = {}
    for event in sorted(events, key=lambda row: row["seq"]):
        name, kind = event["lease_id"], LeaseEvent(event["event"])
        if kind is LeaseEvent.ISSUED:
            facts = {fact: event[fact] for fact in _FACTS} | {"target": event.get("target")}
            facts |= {"acknowledged": event["gallery_version"], "acknowledged_at": event["issued_at"]}
            facts |= {"sent": event["gallery_version"], "acknowledged_seq": event.get("ledger_seq")}
            facts |= {"issued_seq": event.get("ledger_seq"), "given": ((event["issued_at"], event.get("ledger_seq")),)}
            leases[name] = FeedLease(lease_id=name, **facts)
        elif kind is LeaseEvent.RENEWED:
            leases[name] = replace(leases[name], expires_at=event["expires_at"])
        elif kind is LeaseEvent.SENT:
            sent = max(leases[name].sent, event["gallery_version"])
            known = event.get("ledger_seq")
            given = (*leases[name].given, (event["issued_at"], known))
            leases[name] = replace(leases[name], sent=sent, sent_at=event["issued_at"], sent_seq=known, given=given)
        elif kind is LeaseEvent.ACKNOWLEDGED:
            applied = max(leases[name].acknowledged, event["gallery_version"])
            was = leases[name]
            as_of, known = (was.sent_at, was.sent_seq) if was.sent_at else (was.acknowledged_at, was.acknowledged_seq)
            leases[name] = replace(was, acknowledged=applied, acknowledged_at=as_of, acknowledged_seq=known)
        elif kind is LeaseEvent.RECALLED:
            leases[name] = replace(leases[name], recalled=True)
        else:
            leases[name] = replace(leases[name], returned=True)
    return list(leases.values())


def recipient_key(name: str) -> str:
    """Return the form in which recipients are compared: NFKC letters and digits, without case and punctuation.

    Otherwise a recipient that owes an action would get a further export under another spelling.
    """
    plain = unicodedata.normalize("NFKC", reference(name)).casefold()
    return "".join(filter(str.isalnum, plain)) or plain


def duties(
    leases: Sequence[FeedLease],
    erased_version: int,
    now: datetime,
    withdrawn: Callable[[str], Ending | None] = lambda _: None,
) -> dict[str, str]:
    """Return what recipients owe, by lease id; leases without a duty are left out.

    Args:
        leases: their present state.
        erased_version: newest gallery version in which an identity was erased; 0 for none.
        now: the present time.
        withdrawn: returns the newest withdrawal for a purpose that took effect.
    """
    owed = {lease.lease_id: lease.owes(erased_version, now, withdrawn(lease.purpose)) for lease in leases}
    return {name: duty for name, duty in owed.items() if duty}
