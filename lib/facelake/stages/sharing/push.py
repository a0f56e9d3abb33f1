"""Fills a database of a matcher, and keeps it as the lake is: a first copy, then the changes, at last nothing.

The target records which gallery version it holds, under which lease. A push that was killed leaves this record at the
version before, and the next push applies the same changes again. Deletes are proven by a search and a count before the
lease is acknowledged. A lease that was recalled or has ended empties the target; one that was renewed gives all rows
its new end.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import F32, reference
from facelake.errors import ConfigError, Corrupt, Refused
from facelake.events import StageStarted
from facelake.lake.lake import Lake
from facelake.publish.leases import FeedLease, recipient_key
from facelake.publish.transform import key_name
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context, must_add_up
from facelake.stages.core.outside import must_be_outside
from facelake.stages.sharing.changes import Outgoing
from facelake.stages.sharing.leases import (
    LeaseTerms,
    acknowledge,
    issue,
    lease_in_force,
    lease_time,
    leases,
    mark_returned,
    mark_sent,
)
from facelake.stages.sharing.target_record import (
    check_emptied,
    check_in_place,
    check_no_copy,
    check_same_place,
    check_signature,
    signed,
    still_filled,
)
from facelake.stages.sharing.target_writer import SEARCHED, TargetWriter
from facelake.targets import Location, Target, open_target

_FORMAT = 1
_SEARCH_K = 10
_AUDITED = ("lease_id", "recipient", "purpose", "target", "place", "gallery_version")


@dataclass(frozen=True, slots=True)
class PushTerms:
    """What the operator wants.

    Attributes:
        url: of the target.
        recipient: who operates it; needed for the first push.
        purpose: for which; needed for the first push.
        days: how long the lease lasts.
        key: by which templates are rotated.
        exemplars: whether each identity comes with its exemplars; None: as the target was made, a new one without.
        new_lease: whether a target whose lease was recalled or has ended, and which is empty, is filled again.
    """

    url: str
    recipient: str | None = None
    purpose: str | None = None
    days: int = 90
    key: bytes | None = None
    exemplars: bool | None = None
    new_lease: bool = False


def push(context: Context, terms: PushTerms) -> dict[str, Any]:
    """Bring a target to the newest gallery version, or empty it if its lease was recalled or has ended.

    Returns:
        `state` (copied, updated, unchanged or emptied), `lease_id`, `gallery_version`, `since`, and the counts
        `before`, `inserted`, `replaced`, `deleted` and `after`, which add up; `renewed` counts rows that got the end of
        a renewed lease; `kept` says what the engine keeps of deleted rows, null for nothing.

    Raises:
        ConfigError: no such target, recipient and purpose are missing, or a new target would be inside the lake.
        Refused: the table is not this lake's, holds other rows, another model, dimension or purpose, its record was
            changed, it or its table is not where earlier pushes left it, the recipient owes an action, or the target's
            last lease is over and no new one was asked for.
        LedgerMoved: an event was recorded meanwhile; the next push applies it.
        Corrupt: deleted rows are still in the target, or the counts do not add up.
    """
    location = Location.parse(terms.url)
    now = lease_time(context.lake, datetime.now(UTC))
    place = location.stored_at
    if place and not place.startswith("s3://") and not Path(place).exists():
        must_be_outside(place, context.config, "--to")  # opening it would make it
    with open_target(location) as target:
        record = target.read_record()
        if record is None:
            if target.exists():
                what = f"there is a table {location.table!r} already that no push has made"
                raise Refused(what, where=location.shown, next_step="name another one: ?table=NAME")
            if place:
                must_be_outside(place, context.config, "--to")
            check_emptied(context, location, now)
            _return_emptied(context, location, now)
            return _fill(context, target, location, terms, None)
        _check_record(context, record, location, terms)
        lease = next((item for item in leases(context.lake) if item.lease_id == record["lease_id"]), None)
        check_in_place(target, location, record, lease)
        if lease is None or lease.ended(now):
            if lease and not lease.ended(datetime.now(UTC)):
                what = f"lease {lease.lease_id} has ended by {now:%F %R} UTC, at which something was recorded, not by "
                what += "the clock of this host; the target was left as it is"
                next_step = "correct this clock; or, if that one was wrong, `facelake ledger accept --clock`"
                raise Refused(what, where=location.shown, next_step=next_step)
            return _empty(context, target, location, record)
        check_no_copy(location, record)
        check_same_place(context, location, record, lease)
        return _fill(context, target, location, terms, record)


def _check_record(context: Context, record: dict[str, Any], location: Location, terms: PushTerms) -> None:
    """Check that a target is the one that the operator means, and that its record was not changed."""
    what = None
    if record.get("lake") != context.lake.name or record.get("format") != _FORMAT:
        what = f"the table {location.table!r} is filled from another lake"
    elif terms.recipient is not None and recipient_key(terms.recipient) != recipient_key(record["recipient"]):
        what = f"the target belongs to {record['recipient']!r}"
    elif terms.purpose is not None and reference(terms.purpose) != record["purpose"]:
        what = f"the target is for the purpose {record['purpose']!r}"
    elif (key_name(terms.key) if terms.key else None) != record["template_key"]:
        what = "the target's templates are under another template key"
    elif terms.exemplars is not None and terms.exemplars != bool(record.get("exemplars")):
        what = "the target was made without exemplars" if terms.exemplars else "the target was made with exemplars"
    if what:
        raise Refused(what, where=location.shown, next_step="name another table: ?table=NAME")
    check_signature(context, record, location)


def _fill(
    context: Context, target: Target, location: Location, terms: PushTerms, record: dict[str, Any] | None
) -> dict[str, Any]:
    """Copy the gallery, or apply the changes since the version that the target records."""
    now = datetime.now(UTC)
    purpose = record["purpose"] if record else reference(terms.purpose or "")
    outgoing = Outgoing.of(context.lake, purpose, now, terms.key)
    expected = outgoing.in_force()
    sample = next(outgoing.parts(["prototype"]), None) if expected else None
    if record is None and sample is None:
        what = f"no identity is in force for the purpose {purpose!r}"
        raise Refused(what, where=context.lake.uri, next_step="record grants and publish a gallery for that purpose")
    digest, dim = outgoing.gallery.row["model_digest"], len(sample["prototype"][0]) if sample else None
    lease = _lease(context, location, terms, record, (outgoing, expected, now))
    _check_model(target, location, record, (digest, dim))
    before = _check_rows(target, location, lease)
    since = int(record["gallery_version"]) if record else 0
    known = _published(context.lake, since)
    exemplars = bool(record.get("exemplars") if record else terms.exemplars)
    body = _record(context, lease, outgoing, (since, expected)) | {"dim": dim or (record or {}).get("dim")}
    body |= {"exemplars": exemplars, "place": (record or {}).get("place") or secrets.token_hex(8)}
    if record is None or record["state"] != "pushing" or "place" not in record:
        began = {"gallery_version": since, "published": known, "state": "pushing"}
        target.write_record(signed(context, body | began))
    # after the record, by which a repeated push knows the place again, and before the first row: it is owed from here
    audited = {name: body[name] for name in _AUDITED} | {"since": since, "identities": expected, "exemplars": exemplars}
    append_audit(context.lake, "push", audited, context.sign)
    target.create(int(body["dim"]), exemplars=exemplars)
    work = TargetWriter(context, target, outgoing, lease, exemplars)
    context.emit(StageStarted("push", expected, "identities"))
    if before and (record or {}).get("published") != known:
        _reconcile(work, rewrite=True)  # the lake was restored from a backup: its versions are others since
    else:
        _apply(work, since, fresh=before == 0)
    renewed = _set_end(work) if before else 0
    after = _proven(work, expected)
    resumed = record is not None and record["state"] == "pushing"  # what a killed push deleted is still in the files
    rewritten = resumed or renewed or work.deleted or work.upserted > after - before
    kept = target.compact() if rewritten else None
    outgoing.ledger.check_unchanged()
    target.write_record(signed(context, body | {"state": "complete"}))
    # at the end: an acknowledgement of a push that failed would clear what the target still owes
    mark_sent(context.lake, lease.lease_id, outgoing.gallery.version, outgoing.as_of, outgoing.ledger.newest_seq)
    acknowledge(context.lake, lease.lease_id, outgoing.gallery.version, by_push=True)
    inserted = after - before + work.deleted
    must_add_up("push", ("rows after", after), ("before", before), ("inserted", inserted), ("deleted", -work.deleted))
    changed = renewed or work.upserted or work.deleted
    state = "copied" if since == 0 else "updated" if changed else "unchanged"
    return {
        "state": state,
        "lease_id": lease.lease_id,
        "gallery_version": outgoing.gallery.version,
        "since": since,
        "before": before,
        "inserted": inserted,
        "replaced": work.upserted - inserted,
        "deleted": work.deleted,
        "after": after,
        "renewed": renewed,
        "kept": kept,
    }


def _lease(
    context: Context,
    location: Location,
    terms: PushTerms,
    record: dict[str, Any] | None,
    chosen: tuple[Outgoing, int, datetime],
) -> FeedLease:
    """Return the lease of the target: the recorded one, that of a first push that was killed, or a new one."""
    outgoing, expected, now = chosen
    if record is not None:
        return lease_in_force(context.lake, record["lease_id"], now)
    recipient = terms.recipient or ""
    if not recipient_key(recipient) or not reference(terms.purpose or ""):
        what = "the first push to a target needs a recipient and a purpose"
        raise ConfigError(what, where="feed push", next_step="give --recipient and --purpose")
    own = [lease for lease in leases(context.lake) if location.is_named(lease.target)]
    for lease in own:
        same = recipient_key(lease.recipient) == recipient_key(recipient) and lease.purpose == outgoing.purpose
        if same and not lease.ended(now):
            return lease
    if own and not terms.new_lease:  # a push that runs every night would undo a recall
        how = "was recalled" if own[-1].recalled else "has ended"
        what = f"the target is empty: its lease {own[-1].lease_id} {how}"
        next_step = "take it out of your schedule; or, if its recipient may have the data again, give --new-lease"
        raise Refused(what, where=location.shown, next_step=next_step)
    wanted = LeaseTerms(recipient, outgoing.purpose, terms.days, location.shown)
    return issue(context.lake, outgoing.gallery, wanted, expected, outgoing.as_of, outgoing.ledger.newest_seq)


def _check_model(
    target: Target, location: Location, record: dict[str, Any] | None, model: tuple[str, int | None]
) -> None:
    digest, dim = model
    what = None
    if record is not None and record["model_digest"] != digest:
        what = f"the target holds templates of model {record['model_digest'][:12]}, the gallery is of {digest[:12]}"
    elif target.exists() and dim is not None and target.dim() != dim:
        what = f"the target's templates have {target.dim()} dimensions, the gallery's {dim}"
    if what:
        next_step = "recall the lease and push, which empties the target; then push again"
        raise Refused(what, where=location.shown, next_step=next_step)


def _check_rows(target: Target, location: Location, lease: FeedLease) -> int:
    """Refuse a table with rows that were not written under the lease; returns how many rows it has."""
    rows = target.count() if target.exists() else 0
    if rows and (foreign := rows - target.count(lease.lease_id)):
        what = f"{foreign} rows of the target were not written under lease {lease.lease_id}"
        raise Refused(what, where=location.shown, next_step="remove them, or name another table: ?table=NAME")
    return rows


def _apply(work: TargetWriter, since: int, *, fresh: bool) -> None:
    """Write the gallery to an empty target, or its changes to one that holds a version."""
    if fresh:
        work.upsert(work.outgoing.parts(work.columns), fresh=True)
        return
    for rows in work.outgoing.changes(since):
        active = pc.equal(rows["status"], "active")
        work.delete(rows.filter(pc.invert(active))["identity_id"].to_pylist())
        work.upsert(iter([rows.filter(active)]), fresh=False)


def _set_end(work: TargetWriter) -> int:
    """Give rows that were written before a renewal the lease's present end; returns how many there were."""
    end = work.lease.expires_at.isoformat()
    count = work.target.count_other_ends(end)
    if count:
        work.target.set_end(end)
        if left := work.target.count_other_ends(end):
            what = f"{left} rows of the target still have another end than the lease"
            raise Corrupt(what, where=work.lease.target or "", next_step="check the database, then push again")
    return count


def _proven(work: TargetWriter, expected: int) -> int:
    """Check the number of rows, and that no deleted identity is found by its former template; returns the number."""
    after = work.target.count()
    if after != expected:  # an identity that was withheld came back without a change
        _reconcile(work)
        after = work.target.count()
    own = work.target.count(work.lease.lease_id)
    if not after == own == expected:
        what = f"the target has {after} rows, {own} of them under the lease, the gallery {expected}"
        raise Corrupt(what, where=work.lease.target or "", next_step="check who else writes to it, then push again")
    for name, template in work.former.items():
        if after and name in dict(work.target.search(template, min(_SEARCH_K, after))):
            what = "a deleted identity is still found by a search"
            raise Corrupt(what, where=work.lease.target or "", next_step="check the database, then push again")
    return after


def _reconcile(work: TargetWriter, *, rewrite: bool = False) -> None:
    """Compare all rows of the target with the gallery, and write or delete those that differ; `rewrite`: write all."""
    present: dict[str, int] = {}
    for batch in work.target.versions():
        present |= batch
    wanted: set[str] = set()
    for rows in work.outgoing.parts(work.columns):
        names, versions = rows["identity_id"].to_pylist(), rows["last_version"].to_pylist()
        wanted |= set(names)
        differs = [rewrite or present.get(name) != version for name, version in zip(names, versions, strict=True)]
        work.upsert(iter([rows.filter(pa.array(differs, pa.bool_()))]), fresh=False)
    work.delete(sorted(set(present) - wanted))


def _record(context: Context, lease: FeedLease, outgoing: Outgoing, counts: tuple[int, int]) -> dict[str, Any]:
    """Return the target's record of a complete push, without dimension, state and signature."""
    since, expected = counts
    return {
        "format": _FORMAT,
        "lake": context.lake.name,
        "lease_id": lease.lease_id,
        "recipient": lease.recipient,
        "purpose": lease.purpose,
        "target": lease.target,
        "expires_at": lease.expires_at.isoformat(),
        "gallery_version": outgoing.gallery.version,
        "published": _published(context.lake, outgoing.gallery.version),
        "since": since,
        "identities": expected,
        "model_digest": outgoing.gallery.row["model_digest"],
        "template_key": key_name(outgoing.key) if outgoing.key else None,
    }


def _published(lake: Lake, version: int) -> str | None:
    """Return when a gallery version was first published: a lake from a backup makes another one of the same number."""
    rows = lake["galleries"].read(["gallery_version", "created_at"])
    moments = rows.filter(pc.equal(rows["gallery_version"], version))["created_at"]
    return pc.min(moments).as_py().isoformat() if len(moments) else None


def _empty(context: Context, target: Target, location: Location, record: dict[str, Any]) -> dict[str, Any]:
    """Delete everything, check it, and record the return of the lease."""
    before, kept = 0, None
    former: dict[str, F32] = {}
    if target.exists():
        before = target.count()
        if foreign := before - target.count(record["lease_id"]):
            what = f"{foreign} rows of the target were not written under lease {record['lease_id']}"
            raise Refused(what, where=location.shown, next_step="remove them, then push again to have the rest deleted")
        if record["state"] != "emptying":  # once the table is dropped, the record says that a push did that
            target.write_record(signed(context, record | {"state": "emptying"}))
        names = list(next(target.versions(), {}))[:SEARCHED]
        former = target.templates(names)
        ids = [list(batch) for batch in target.versions() if batch]
        for batch in ids:
            target.delete(batch)
        if target.count() or any(target.search(template, 1) for template in former.values()):
            what = "rows are still in the target after all were deleted"
            raise Corrupt(what, where=location.shown, next_step="check the database, then push again")
        target.drop()
    kept = target.compact()  # also of a table that a killed push has dropped: a bucket keeps its versions
    audited = {"lease_id": record["lease_id"], "target": location.shown, "place": record.get("place")}
    append_audit(context.lake, "push", audited | {"emptied": before}, context.sign)
    target.drop_record()
    _return_emptied(context, location, datetime.now(UTC))
    return {
        "state": "emptied",
        "lease_id": record["lease_id"],
        "gallery_version": 0,
        "since": record["gallery_version"],
        "before": before,
        "inserted": 0,
        "replaced": 0,
        "deleted": before,
        "after": 0,
        "renewed": 0,
        "kept": kept,
    }


def _return_emptied(context: Context, location: Location, now: datetime) -> None:
    """Record the return of leases of a target that is empty and whose right of use has ended."""
    elsewhere = still_filled(context, location, now)  # another server of that name was
    for lease in leases(context.lake):
        over = location.is_named(lease.target) and not lease.returned and lease.ended(now)
        if over and lease.lease_id not in elsewhere:
            mark_returned(context.lake, lease.lease_id)
