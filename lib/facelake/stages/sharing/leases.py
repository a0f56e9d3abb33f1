"""Leases of what left the lake: issue, renewal, acknowledgement, recall and return; what recipients owe."""

from __future__ import annotations

import getpass
import hmac
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import LEASES, Change, parse_json, reference
from facelake.errors import ConfigError, Refused
from facelake.lake.lake import Lake
from facelake.publish.leases import FeedLease, LeaseEvent, duties, leases_from_events, recipient_key
from facelake.stages.admission.accepted_clock import AcceptedClock, newest
from facelake.stages.admission.ledger import present_time
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.withdrawals import last_withdrawal
from facelake.stages.core.audit import records, trusted_records
from facelake.stages.gallery.versions import Gallery, current_gallery
from facelake.targets import KEEPS

HANDED_OUT = ("export", "push")
"""kinds of audit records of what first left under a lease"""


def leases(lake: Lake) -> list[FeedLease]:
    """Return the present state of every lease, in the order of issue."""
    return leases_from_events(_events(lake))


def erased_version(lake: Lake) -> int:
    """Return the newest gallery version in which an identity was erased; 0 for none."""
    newest_erased = 0
    for _, rows in lake["changes"].parts(["gallery_version", "kind"]):
        versions = rows["gallery_version"].filter(pc.equal(rows["kind"], str(Change.ERASED)))
        newest_erased = max(newest_erased, pc.max(versions).as_py() or 0)
    return newest_erased


def lease_time(lake: Lake, now: datetime, ledger: pa.Table | None = None) -> datetime:
    """Return the time at which leases are checked: now, but never before a run or an event of ledger or leases.

    Otherwise a lease that has ended could be used and renewed after the clock was set back. What leaves is dated by it
    too: of two hosts whose clocks differ, the later one in the lake then has the later time.

    Args:
        lake: the lake.
        now: by the clock of this host.
        ledger: rows of the ledger table; None: they are read.
    """
    rows = lake["leases"].read(["seq", "recorded_at"])
    recorded = newest(rows, "recorded_at", "seq", AcceptedClock.of(lake).leases)
    return max(present_time(lake, ledger_rows(lake)[0] if ledger is None else ledger, now), recorded or now)


def what_is_owed(lake: Lake, now: datetime) -> dict[str, str]:
    """Return what recipients owe, by lease id."""
    return _owed(lake, leases(lake), lease_time(lake, now))


def recipients_that_owe(lake: Lake, now: datetime) -> list[str]:
    """Return the recipients with a lease that was recalled, has ended or is behind an erasure or a withdrawal, and
    those with one that was lost; sorted, distinct.
    """
    held = leases(lake)
    owed = _owed(lake, held, lease_time(lake, now))
    return sorted({lease.recipient for lease in held if lease.lease_id in owed} | set(_lost(lake, held).values()))


def databases_that_owe(lake: Lake, now: datetime) -> list[dict[str, str]]:
    """Return the databases that a push has to bring up to date, and where their engine may keep deleted rows then."""
    held = leases(lake)
    owed = _owed(lake, held, lease_time(lake, now))
    places = {lease.target for lease in held if lease.target and lease.lease_id in owed}
    return [{"target": place, "keeps": KEEPS.get(place.partition(":")[0], "")} for place in sorted(places)]


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """The terms under which data is handed out.

    Attributes:
        recipient: who receives it.
        purpose: what they will use it for.
        days: how long.
        target: the database that a push fills, without credentials; None: files.
    """

    recipient: str
    purpose: str
    days: int
    target: str | None = None

    def __post_init__(self) -> None:
        """Check that a lease says who and what for: an empty name, such as an unset variable, would be nobody's debt.

        Raises:
            ConfigError: one of both is empty.
        """
        for name, option in ((recipient_key(self.recipient), "--recipient"), (reference(self.purpose), "--purpose")):
            if not name:
                raise ConfigError(f"{option} is empty", where=option, next_step="say who receives it, and what for")


def issue(
    lake: Lake, gallery: Gallery, terms: LeaseTerms, identities: int, now: datetime, ledger_seq: int
) -> FeedLease:
    """Record a lease. Call before data leaves, so that no export exists without a lease.

    Args:
        lake: the lake.
        gallery: the version that is handed out.
        terms: of the lease.
        identities: how many are handed out.
        now: as of when they were chosen; the lease ends so many days after the time by this host's clock, if earlier.
        ledger_seq: newest event of the ledger by which they were chosen.

    Raises:
        Refused: the recipient owes an action on an earlier lease, or has one that table `leases` lost.
    """
    refuse_debtor(lake, terms.recipient, now)
    for name, recipient in _lost(lake, leases(lake)).items():
        if recipient_key(recipient) == recipient_key(terms.recipient):
            what = (
                f"{terms.recipient!r} gets no further export: table leases has lost lease {name}, so that nobody knows"
            )
            next_step = "restore the table from a backup; `facelake verify` compares it with the audit trail"
            raise Refused(f"{what} what is owed", where=f"{lake.uri}/leases", next_step=next_step)
    facts = {
        "lease_id": "lease-" + secrets.token_hex(6),
        "recipient": terms.recipient,
        "purpose": terms.purpose,
        "issued_at": now,
        "expires_at": min(now, datetime.now(UTC)) + timedelta(days=terms.days),
        "gallery_version": gallery.version,
        "identities": identities,
        "target": terms.target,
        "ledger_seq": ledger_seq,
    }
    return _append(lake, LeaseEvent.ISSUED, facts)


def refuse_debtor(lake: Lake, recipient: str, now: datetime) -> None:
    """Check that a recipient owes no action on an earlier lease.

    Raises:
        Refused: it does.
    """
    held = leases(lake)
    owed = _owed(lake, held, lease_time(lake, now)) if held else {}
    for lease in held:
        if recipient_key(lease.recipient) == recipient_key(recipient) and lease.lease_id in owed:
            what = f"{lease.recipient!r} gets no further export: lease {lease.lease_id} {owed[lease.lease_id]}"
            next_step = f"have the copy deleted and run `facelake feed return {lease.lease_id}`"
            if not lease.ended(lease_time(lake, now)):
                applied = f"have the changes applied and run `facelake feed ack {lease.lease_id}` with their version"
                next_step = f"{applied}; or {next_step}"
            raise Refused(what, where=lake.uri, next_step=next_step)


def lease_in_force(lake: Lake, lease_id: str, now: datetime) -> FeedLease:
    """Return a lease under which data may still be handed out.

    Raises:
        ConfigError: there is no such lease.
        Refused: it was recalled, has ended or was returned.
    """
    lease = _find(lake, leases(lake), lease_id)
    if reason := lease.ended(lease_time(lake, now)):
        next_step = "have the copy deleted, run `facelake feed return`, and export again under a new lease"
        raise Refused(f"lease {lease_id} {reason}", where=lake.uri, next_step=next_step)
    return lease


def extend(lake: Lake, lease: FeedLease, end: datetime, now: datetime) -> FeedLease:
    """Record that a lease ends later. Call before the recipient learns it."""
    facts = {"lease_id": lease.lease_id, "recipient": lease.recipient, "purpose": lease.purpose}
    return _append(lake, LeaseEvent.RENEWED, facts | {"issued_at": now, "expires_at": end, "target": lease.target})


def mark_sent(lake: Lake, lease_id: str, version: int, as_of: datetime, ledger_seq: int) -> FeedLease:
    """Record that changes up to a gallery version were handed out under a lease; call after they have left.

    Args:
        lake: the lake.
        lease_id: the lease.
        version: of the gallery.
        as_of: when they were computed.
        ledger_seq: newest event of the ledger by which they were computed.
    """
    lease = _find(lake, leases(lake), lease_id)
    facts = {"gallery_version": version, "issued_at": as_of, "ledger_seq": ledger_seq}
    return _record_event(lake, lease, LeaseEvent.SENT, **facts)


def acknowledge(lake: Lake, lease_id: str, version: int | None = None, *, by_push: bool = False) -> FeedLease:
    """Record that the recipient has applied the changes that it was given, up to a gallery version (default: all).

    Args:
        lake: the lake.
        lease_id: the lease.
        version: of the gallery.
        by_push: whether a push has proven it, which alone acknowledges for a database.

    Raises:
        ConfigError: there is no such lease or version; the lease is of a database; changes up to the version were never
            handed out under the lease, or none since the last acknowledgement although the recipient owes one; or it
            owes one that the version does not have.
    """
    held = leases(lake)
    lease = _find(lake, held, lease_id)
    if not by_push:
        refuse_database(lease)
    next_step = f"run `facelake feed changes {lease_id} --out DIR`, have them applied, and acknowledge then"
    if version is not None:
        current_gallery(lake, version)
    wanted = lease.sent if version is None else version
    if wanted > lease.sent:
        what = f"under {lease_id} data were handed out up to gallery {lease.sent}, not {wanted}"
        raise ConfigError(what, where=lake.uri, next_step=next_step)
    now = lease_time(lake, datetime.now(UTC))
    nothing_new = wanted <= lease.acknowledged and lease.sent_at in (None, lease.acknowledged_at)
    duty = _owed(lake, held, now).get(lease_id) if nothing_new or wanted < lease.sent else None
    if duty and not lease.ended(now):
        what = f"the recipient {duty}, and was given no changes since its last acknowledgement"
        if not nothing_new:
            what = f"the recipient {duty}, which gallery {wanted} does not have: changes up to {lease.sent} do"
        raise ConfigError(what, where=lease_id, next_step=next_step)
    return _record_event(lake, lease, LeaseEvent.ACKNOWLEDGED, gallery_version=wanted)


def exports_of(lake: Lake, lease_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the keys and contents of the audit records of exports under a lease, the newest first; neither chain nor
    signatures are checked.
    """
    for key, data in records(lake):
        if lease_id.encode() in data:
            record = parse_json(data)
            if record.get("kind") == "export" and record["body"].get("lease_id") == lease_id:
                yield key, record["body"]


def refuse_database(lease: FeedLease) -> None:
    """Check that a lease is of files: of a database only a push knows what it holds.

    Raises:
        ConfigError: it is of a database.
    """
    if lease.target is not None:
        what = f"lease {lease.lease_id} is of the database {lease.target}, which takes no changes as files"
        next_step = "run `facelake feed push --to` with its URL, which applies them and acknowledges"
        raise ConfigError(what, where=lease.lease_id, next_step=next_step)


def mark_returned(lake: Lake, lease_id: str) -> FeedLease:
    """Record that the recipient has deleted the exported data.

    Raises:
        ConfigError: there is no such lease.
    """
    return _record_event(lake, _find(lake, leases(lake), lease_id), LeaseEvent.RETURNED)


def recall(lake: Lake, lease_id: str | None = None, recipient: str | None = None) -> list[FeedLease]:
    """Recall one lease, or all leases of a recipient that were not returned.

    Raises:
        ConfigError: there is no such active lease.
    """
    wanted = recipient_key(recipient) if recipient else None

    def same_recipient(lease: FeedLease) -> bool:
        return wanted is not None and recipient_key(lease.recipient) == wanted

    active = [
        lease for lease in leases(lake) if not lease.returned and (lease.lease_id == lease_id or same_recipient(lease))
    ]
    if not active:
        what = f"no active lease {lease_id!r}" if lease_id else f"no active lease for recipient {recipient!r}"
        raise ConfigError(what, where=lake.uri, next_step="see `facelake feed leases`")
    return [_record_event(lake, lease, LeaseEvent.RECALLED) for lease in active]


def recall_all(lake: Lake) -> list[FeedLease]:
    """Recall every lease that was not returned; returns those that were not recalled before."""
    open_ones = [lease for lease in leases(lake) if not lease.returned and not lease.recalled]
    return [_record_event(lake, lease, LeaseEvent.RECALLED) for lease in open_ones]


def _events(lake: Lake) -> list[dict[str, Any]]:
    """Return the events that count: of those that were written without the lake's key, nothing is believed."""
    rows = lake["leases"].read().to_pylist()
    return [row for row in rows if not lake.can_hash or _is_ours(lake, row)]


def forged_events(lake: Lake) -> list[str]:
    """Return the ids of the leases of events that were written or changed without the lake's key; it must be there."""
    return [row["lease_id"] for row in lake["leases"].read().to_pylist() if not _is_ours(lake, row)]


def _is_ours(lake: Lake, row: dict[str, Any]) -> bool:
    return hmac.compare_digest(str(row["mac"]).encode(), _mac(lake, row).encode())


def with_mac(lake: Lake, row: dict[str, Any]) -> dict[str, Any]:
    """Return an event of a lease with the MAC without which it does not count; the lake's key must be there."""
    return row | {"mac": _mac(lake, row)}


def _mac(lake: Lake, row: dict[str, Any]) -> str:
    facts = {name: value for name, value in row.items() if name != "mac" and value is not None}
    return lake.keyed_hash("lease event " + json.dumps(facts, sort_keys=True, default=_instant))


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _owed(lake: Lake, held: list[FeedLease], now: datetime) -> dict[str, str]:
    """Return what the recipients of leases owe at a time of `lease_time`, by lease id."""
    events = ledger_rows(lake)[0]
    withdrawn = {name: last_withdrawal(events, name, now) for name in {lease.purpose for lease in held}}
    return duties(held, erased_version(lake), now, withdrawn.get)


def owed_by(lake: Lake, lease: FeedLease, now: datetime) -> str | None:
    """Return what the recipient of a lease owes at a time of `lease_time`; None for nothing."""
    return _owed(lake, [lease], now).get(lease.lease_id)


def _lost(lake: Lake, held: list[FeedLease]) -> dict[str, str]:
    """Return leases that table `leases` lacks, although the audit trail says what left under them: recipients by lease
    id. Reads the whole trail.
    """
    known, lost = {lease.lease_id for lease in held}, dict[str, str]()
    for record in trusted_records(lake):
        name, recipient = record["body"].get("lease_id"), record["body"].get("recipient")
        if record.get("kind") in HANDED_OUT and isinstance(recipient, str) and name not in known:
            lost[str(name)] = recipient
    return lost


def _find(lake: Lake, held: list[FeedLease], lease_id: str) -> FeedLease:
    found = next((lease for lease in held if lease.lease_id == lease_id), None)
    if found is None:
        raise ConfigError(f"no lease {lease_id!r}", where=lake.uri, next_step="see `facelake feed leases`")
    return found


def _record_event(lake: Lake, lease: FeedLease, event: LeaseEvent, **facts: Any) -> FeedLease:
    common = {"lease_id": lease.lease_id, "recipient": lease.recipient, "gallery_version": 0}
    return _append(lake, event, common | facts)


def _later_than_all(lake: Lake, as_of: datetime | None) -> datetime:
    """Return when an event is recorded: now, but after every earlier one and what it says, so that what is handed out
    next has a later time.
    """
    now, tick = datetime.now(UTC), timedelta(microseconds=1)
    rows = lake["leases"].read(["seq", "recorded_at"])
    recorded = newest(rows, "recorded_at", "seq", AcceptedClock.of(lake).leases)
    return max(now, *(moment.astimezone(UTC) + tick for moment in (recorded, as_of) if moment))


def _append(lake: Lake, event: LeaseEvent, facts: dict[str, Any]) -> FeedLease:
    """Record an event; returns the lease as it is then."""
    events = _events(lake)
    row = dict.fromkeys(LEASES.names) | facts
    row |= {"seq": 1 + max((earlier["seq"] for earlier in events), default=0), "event": str(event)}
    row |= {"recorded_at": _later_than_all(lake, row["issued_at"]), "recorded_by": getpass.getuser()}
    row = with_mac(lake, row)
    lake["leases"].append([row])
    return _find(lake, leases_from_events([*events, row]), facts["lease_id"])
