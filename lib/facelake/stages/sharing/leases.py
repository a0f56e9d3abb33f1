"""feed: what was handed to whom, what they still owe, and the changes that they replay."""

from __future__ import annotations

import getpass
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import F64, LEASES, Change
from facelake.errors import ConfigError, Refused
from facelake.lake.lake import Lake
from facelake.publish.leases import FeedLease, LeaseEvent, debts, standing
from facelake.publish.transform import rotated, rotation
from facelake.stages.gallery.range_tasks import matrix_of
from facelake.stages.gallery.versions import Gallery, current_gallery
from facelake.vectors import decode_embeddings, encode_embeddings


def leases(lake: Lake) -> list[FeedLease]:
    """Every lease as it stands, in the order of issue."""
    return standing(lake["leases"].read().to_pylist())


def erased_version(lake: Lake) -> int:
    """The newest gallery version in which an identity was erased; 0 for none."""
    rows = lake["changes"].read(["gallery_version", "kind"])
    return pc.max(rows["gallery_version"].filter(pc.equal(rows["kind"], str(Change.ERASED)))).as_py() or 0


def what_is_owed(lake: Lake, now: datetime) -> dict[str, str]:
    """What recipients owe, by lease."""
    return debts(leases(lake), erased_version(lake), now)


def recipients_that_owe(lake: Lake, now: datetime) -> list[str]:
    """Recipients with a lease that is recalled, ended or behind an erasure, each once."""
    owed = what_is_owed(lake, now)
    return sorted({lease.recipient for lease in leases(lake) if lease.lease_id in owed})


def issue(lake: Lake, gallery: Gallery, recipient: str, purpose: str, days: int, identities: int) -> FeedLease:
    """Record a lease; before the data leaves, so that nothing can be out without one.

    Raises:
        Refused: the recipient still owes an answer.
    """
    now = datetime.now(UTC)
    owed = what_is_owed(lake, now)
    for lease in leases(lake):
        if lease.recipient == recipient and lease.lease_id in owed:
            what = f"{recipient!r} gets no further export: lease {lease.lease_id} {owed[lease.lease_id]}"
            next_step = "have the changes applied and run `facelake feed ack`, or the copy deleted and `feed return`"
            raise Refused(what, where=lake.uri, next_step=next_step)
    facts = {
        "lease_id": "lease-" + secrets.token_hex(6),
        "recipient": recipient,
        "purpose": purpose,
        "issued_at": now,
        "expires_at": now + timedelta(days=days),
        "gallery_version": gallery.version,
        "identities": identities,
    }
    _append(lake, LeaseEvent.ISSUED, facts)
    return leases(lake)[-1]


def acknowledge(lake: Lake, lease_id: str, version: int | None = None) -> FeedLease:
    """The recipient has applied every change up to a gallery version (default: the newest).

    Raises:
        ConfigError: no such lease or version.
    """
    gallery = current_gallery(lake, version)
    return _speak(lake, lease_id, LeaseEvent.ACKNOWLEDGED, gallery.version if gallery else 0)


def hand_back(lake: Lake, lease_id: str) -> FeedLease:
    """The recipient has deleted what he held."""
    return _speak(lake, lease_id, LeaseEvent.RETURNED)


def recall(lake: Lake, lease_id: str | None = None, recipient: str | None = None) -> list[FeedLease]:
    """Call leases back: one, or all of a recipient that are not returned.

    Raises:
        ConfigError: there is none.
    """
    found = [
        lease
        for lease in leases(lake)
        if not lease.returned and (lease.lease_id == lease_id or lease.recipient == recipient)
    ]
    if not found:
        what = f"no lease {lease_id or ''} is out" if lease_id else f"nothing is out to {recipient!r}"
        raise ConfigError(what, where=lake.uri, next_step="see `facelake feed leases`")
    return [_speak(lake, lease.lease_id, LeaseEvent.RECALLED) for lease in found]


def changes_since(lake: Lake, version: int, key: bytes | None = None, purpose: str = "") -> pa.Table:
    """What to replay on a copy of gallery `version`: per identity that changed since, its row now, oldest change first.

    Replaying twice does no harm: `status` active means put the row, anything else means drop the identity (and, when
    merged, take `merged_into`).

    Args:
        key: of the export that they are replayed on, if its templates are under one; `purpose`: that of the export.

    Raises:
        ConfigError: no such version.
    """
    gallery = current_gallery(lake)
    if gallery is None or version > gallery.version or version < 0:
        raise ConfigError(f"there is no gallery version {version}", where=lake.uri, next_step="see `gallery list`")
    events = gallery.read("changes", ["gallery_version", "kind", "identity_id"])
    events = events.filter(pc.greater(events["gallery_version"], version))
    changed = events.group_by("identity_id").aggregate([("gallery_version", "max")])
    rows = gallery.read("identities")
    newer = pc.greater(rows["last_version"], version)  # a prototype may move without an event
    rows = rows.filter(pc.or_(newer, pc.is_in(rows["identity_id"], changed["identity_id"])))
    names = ["identity_id", "status", "merged_into", "size", "prototype", "exemplars", "cohesion", "model_digest"]
    rows = rows.select([*names, "last_version"]).sort_by([("last_version", "ascending"), ("identity_id", "ascending")])
    return under_key(lake, rows, key, purpose) if key else rows


def under_key(lake: Lake, rows: pa.Table, key: bytes, purpose: str) -> pa.Table:
    """Rows with prototypes and exemplars (some may be null) rotated by the key of this lake and purpose."""
    there = rows.filter(pc.is_valid(rows["prototype"]))
    if not there.num_rows:
        return rows
    dim = len(there["prototype"][0])
    turn = rotation(key, lake.name, purpose, dim)
    turned = iter(rotated(matrix_of(there["prototype"], dim), turn).tolist())
    full = pc.is_valid(rows["prototype"]).to_pylist()
    shown = [_turned(item, dim, turn) if item else item for item in rows["exemplars"].to_pylist()]
    values = {"prototype": [next(turned) if is_full else None for is_full in full], "exemplars": shown}
    for name, column in values.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, pa.array(column, rows.schema.field(name).type))
    return rows


def _turned(exemplars: list[bytes], dim: int, turn: F64) -> list[bytes]:
    vectors = decode_embeddings(exemplars, dim).astype(np.float32)
    return encode_embeddings(rotated(vectors, turn))


def _speak(lake: Lake, lease_id: str, event: LeaseEvent, version: int = 0) -> FeedLease:
    found = {lease.lease_id: lease for lease in leases(lake)}
    if lease_id not in found:
        raise ConfigError(f"no lease {lease_id!r}", where=lake.uri, next_step="see `facelake feed leases`")
    lease = found[lease_id]
    _append(lake, event, {"lease_id": lease_id, "recipient": lease.recipient, "gallery_version": version})
    return next(lease for lease in leases(lake) if lease.lease_id == lease_id)


def _append(lake: Lake, event: LeaseEvent, facts: dict[str, Any]) -> None:
    seq = 1 + (pc.max(lake["leases"].read(["seq"])["seq"]).as_py() or 0)
    row = dict.fromkeys(LEASES.names) | facts
    row |= {"seq": seq, "event": str(event), "recorded_at": datetime.now(UTC), "recorded_by": getpass.getuser()}
    lake["leases"].append([row])
