"""The record that a push leaves in its target, and what is concluded where it, or the table, is missing.

Whoever operates the database can change the record, move tables and copy folders. The record is therefore signed, and
a lease is not taken for returned because nothing is found.
"""

from __future__ import annotations

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
    if record["target"] != location.shown:
        what = f"this is a copy of {record['target']}, and an acknowledgement would count for both"
        next_step = f"push there, under that URL; or run `facelake feed return {record['lease_id']}` once that one is "
        raise Refused(
            what, where=location.shown, next_step=f"{next_step}deleted, and push here, which empties this one"
        )


def check_emptied(context: Context, location: Location, now: datetime) -> None:
    """Check that a target without a record was never filled, or was emptied by a push.

    A folder that is not mounted, or a database of the same name on another server, is empty too.

    Raises:
        Refused: rows that a push wrote are not known to be deleted.
    """
    held = {one.lease_id: one for one in leases(context.lake) if one.target == location.shown and not one.returned}
    if not held:
        return
    filled, emptied = {name for name, lease in held.items() if lease.sent_at is not None}, set[str]()
    for record in trusted_records(context.lake, accepted_keys(context.config)):
        body, name = record["body"], str(record["body"].get("lease_id"))
        if record.get("kind") == "push" and body.get("target") == location.shown and name in held:
            if "emptied" in body:
                emptied.add(name)
            elif held[name].ended(now):  # a push that was killed before its end may have written rows
                filled.add(name)
    for name in sorted(filled - emptied):
        what = f"nothing is there of what was pushed under lease {name}, and no push has emptied it"
        raise Refused(what, where=location.shown, next_step=_next_if_lost(name))


def _next_if_lost(lease_id: str) -> str:
    """What to do about a target that nobody can prove to be empty."""
    next_step = (
        "bring it back (mount the folder, correct the URL, rename the table) and push again; or, once every row "
    )
    return f"{next_step}is deleted, say so: `facelake feed return {lease_id}`"
