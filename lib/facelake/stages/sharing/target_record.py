"""The record that a push leaves in its target, and what is concluded where it, or the table, is missing.

Whoever operates the database can change the record, move tables and copy folders. The record is therefore signed, and
a lease is not taken for returned because nothing is found.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Any

from facelake.erase import verify
from facelake.errors import Refused
from facelake.publish.leases import FeedLease
from facelake.stages.core.audit import trusted_records
from facelake.stages.core.context import Context, accepted_keys
from facelake.stages.sharing.leases import leases
from facelake.targets import Location, Target


def signed(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the signature of this host in place of any other."""
    unsigned = _unsigned(body)
    return unsigned | {"signature": context.sign(unsigned)}


def _unsigned(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "signature"}


def check_signature(context: Context, record: dict[str, Any], location: Location) -> None:
    """Check that a record is as a push wrote it: by another purpose or lease in it, whoever operates the database would
    get what they have no right to.

    Raises:
        Refused: it is not.
    """
    body = _unsigned(record)
    keys = accepted_keys(context.config) or [context.signer().fingerprint]
    if not any(verify(body, record.get("signature"), key) for key in keys):
        what = f"the record of the target ({location.table}_record) is not signed by an accepted key: it was changed"
        next_step = "restore it; if it is signed by another host's key or a former one, list that key in "
        raise Refused(what, where=location.shown, next_step=f"{next_step}governance.trusted_keys")


def check_in_place(target: Target, location: Location, record: dict[str, Any], lease: FeedLease | None) -> None:
    """Check that the table is there which a complete push has left.

    Raises:
        Refused: it is not, and nobody has said that the copy is deleted.
    """
    if record["state"] == "complete" and not target.exists() and not (lease and lease.returned):
        what = f"the table {location.table!r}, which had {record['identities']} identities, is gone: it may have "
        what += "another name now"
        raise Refused(what, where=location.shown, next_step=_next_if_lost(record["lease_id"]))


def check_no_copy(location: Location, record: dict[str, Any]) -> None:
    """Check that the target is the one that its record was written for.

    Raises:
        Refused: it was copied or moved.
    """
    if not location.is_named(record["target"]):
        what = f"this is a copy of {record['target']}, and an acknowledgement would count for both"
        next_step = f"push there, under that URL; or run `facelake feed return {record['lease_id']}` once that one is "
        raise Refused(
            what, where=location.shown, next_step=f"{next_step}deleted, and push here, which empties this one"
        )


def check_same_place(context: Context, location: Location, record: dict[str, Any], lease: FeedLease) -> None:
    """Check that a target which no push has completed is the place whose filling was recorded under its lease.

    Two servers may answer to one URL: a list of hosts, a name that is bound anew, another endpoint in the environment.

    Raises:
        Refused: another one was filled meanwhile.
    """
    if record["state"] == "complete":
        return
    known = _filled(context, location, {lease.lease_id: lease}, lease.issued_at)[0][lease.lease_id] - {None}
    if known and record.get("place") not in known:
        what = f"this is another place of that name than the one that was filled under lease {lease.lease_id}"
        next_step = f"{_next_if_lost(lease.lease_id)}; the next push then empties this one"
        raise Refused(what, where=location.shown, next_step=next_step)


def check_emptied(context: Context, location: Location, now: datetime) -> None:
    """Check that a target without a record was never filled, or was emptied by a push.

    A folder that is not mounted, or a database of the same name on another server, is empty too.

    Raises:
        Refused: rows that a push wrote are not known to be deleted.
    """
    for name in sorted(still_filled(context, location, now)):
        what = f"nothing is there of what was pushed under lease {name}, and no push has emptied it"
        raise Refused(what, where=location.shown, next_step=_next_if_lost(name))


def still_filled(context: Context, location: Location, now: datetime) -> set[str]:
    """Return the ids of the leases of a target under which a push may have written rows that none has deleted."""
    held = {one.lease_id: one for one in leases(context.lake) if location.is_named(one.target) and not one.returned}
    if not held:
        return set()
    filled, emptied = _filled(context, location, held, now)
    return {name for name in held if filled[name] - emptied[name]}


_Places = defaultdict[str, set[str | None]]


def _filled(context: Context, location: Location, held: dict[str, FeedLease], now: datetime) -> tuple[_Places, _Places]:
    """Return the places that were filled under leases, and those that were emptied, by the audit trail.

    A push records the place before it writes the first row. Without a place, as of an earlier version, a push has
    filled the target if it was completed, or if its lease has ended, so that none completes it.
    """
    filled, emptied = _Places(set), _Places(set)
    for record in trusted_records(context.lake, accepted_keys(context.config)):
        body = record["body"]
        name, place = str(body.get("lease_id")), body.get("place")
        if record.get("kind") != "push" or name not in held or not location.is_named(body.get("target")):
            continue
        if "emptied" in body:
            emptied[name].add(place)
        elif place is not None or held[name].ended(now):
            filled[name].add(place)
    for name, lease in held.items():
        if lease.sent_at is not None and not filled[name]:
            filled[name].add(None)
        if filled[name] != {None}:
            filled[name].discard(None)  # the same place, before pushes recorded it
    return filled, emptied


def _next_if_lost(lease_id: str) -> str:
    """What to do about a target that nobody can prove to be empty."""
    next_step = (
        "bring it back (mount the folder, correct the URL, rename the table) and push again; or, once every row "
    )
    return f"{next_step}is deleted, say so: `facelake feed return {lease_id}`"
