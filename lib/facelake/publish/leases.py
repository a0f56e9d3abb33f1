"""Leases: what was exported, to whom, for which purpose and until when; and what the recipients owe. Pure.

The events of a lease are: issued with an export, acknowledged up to a gallery version, recalled, returned. A recipient
owes an action if the lease was recalled or has ended and was not returned, or if identities were erased after the
version that the recipient last acknowledged. A recipient that owes an action gets no further export.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

_FACTS = ("recipient", "purpose", "issued_at", "expires_at", "gallery_version", "identities")


class LeaseEvent(StrEnum):
    """What happened to a lease."""

    ISSUED = "issued"
    ACKNOWLEDGED = "acknowledged"
    RECALLED = "recalled"
    RETURNED = "returned"


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

    def owes(self, erased_version: int, now: datetime) -> str | None:
        """Return what the recipient owes; None if nothing.

        Args:
            erased_version: newest gallery version in which an identity was erased; 0 for none.
            now: the present time.
        """
        if self.returned:
            return None
        if self.recalled:
            return "was recalled and is not returned"
        if self.expires_at <= now:
            return f"ended on {self.expires_at:%Y-%m-%d} and is not returned"
        if self.acknowledged < erased_version:
            return f"has not acknowledged the erasures up to gallery {erased_version}"
        return None


def leases_from_events(events: Iterable[Mapping[str, Any]]) -> list[FeedLease]:
    """Return the present state of every lease, in the order of issue.

    Args:
        events: rows of the `leases` table.
    """
    leases: dict[str, FeedLease] = {}
    for event in sorted(events, key=lambda row: row["seq"]):
        name, kind = event["lease_id"], LeaseEvent(event["event"])
        if kind is LeaseEvent.ISSUED:
            facts = {fact: event[fact] for fact in _FACTS}
            leases[name] = FeedLease(lease_id=name, acknowledged=event["gallery_version"], **facts)
        elif kind is LeaseEvent.ACKNOWLEDGED:
            leases[name] = replace(leases[name], acknowledged=max(leases[name].acknowledged, event["gallery_version"]))
        elif kind is LeaseEvent.RECALLED:
            leases[name] = replace(leases[name], recalled=True)
        else:
            leases[name] = replace(leases[name], returned=True)
    return list(leases.values())


def duties(leases: Sequence[FeedLease], erased_version: int, now: datetime) -> dict[str, str]:
    """Return what recipients owe, by lease id; leases without a duty are left out."""
    owed = {lease.lease_id: lease.owes(erased_version, now) for lease in leases}
    return {name: duty for name, duty in owed.items() if duty}
