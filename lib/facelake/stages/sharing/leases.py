"""Leases of exports: issue, acknowledgement, recall and return; what recipients owe; changes since an export."""

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
from facelake.publish.leases import FeedLease, LeaseEvent, duties, leases_from_events
from facelake.publish.transform import rotated, rotation
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.versions import Gallery, current_gallery
from facelake.vectors import decode_embeddings, encode_embeddings


def leases(lake: Lake) -> list[FeedLease]:
    """Return the present state of every lease, in the order of issue."""
    return leases_from_events(lake["leases"].read().to_pylist())


def erased_version(lake: Lake) -> int:
    """Return the newest gallery version in which an identity was erased; 0 for none."""
    rows = lake["changes"].read(["gallery_version", "kind"])
    return pc.max(rows["gallery_version"].filter(pc.equal(rows["kind"], str(Change.ERASED)))).as_py() or 0


def what_is_owed(lake: Lake, now: datetime) -> dict[str, str]:
    """Return what recipients owe, by lease id."""
    return duties(leases(lake), erased_version(lake), now)


def recipients_that_owe(lake: Lake, now: datetime) -> list[str]:
    """Return the recipients with a lease that was recalled, has ended or is behind an erasure; sorted, distinct."""
    owed = what_is_owed(lake, now)
    return sorted({lease.recipient for lease in leases(lake) if lease.lease_id in owed})


def issue(lake: Lake, gallery: Gallery, recipient: str, purpose: str, days: int, identities: int) -> FeedLease:
    """Record a lease. Call before data is exported, so that no export exists without a lease.

    Raises:
        Refused: the recipient owes an action on an earlier lease.
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
    """Record that the recipient has applied all changes up to a gallery version (default: the newest).

    Raises:
        ConfigError: there is no such lease or version.
    """
    gallery = current_gallery(lake, version)
    return _record_event(lake, lease_id, LeaseEvent.ACKNOWLEDGED, gallery.version if gallery else 0)


def mark_returned(lake: Lake, lease_id: str) -> FeedLease:
    """Record that the recipient has deleted the exported data.

    Raises:
        ConfigError: there is no such lease.
    """
    return _record_event(lake, lease_id, LeaseEvent.RETURNED)


def recall(lake: Lake, lease_id: str | None = None, recipient: str | None = None) -> list[FeedLease]:
    """Recall one lease, or all leases of a recipient that were not returned.

    Raises:
        ConfigError: there is no such active lease.
    """
    active = [
        lease
        for lease in leases(lake)
        if not lease.returned and (lease.lease_id == lease_id or lease.recipient == recipient)
    ]
    if not active:
        what = f"no active lease {lease_id!r}" if lease_id else f"no active lease for recipient {recipient!r}"
        raise ConfigError(what, where=lake.uri, next_step="see `facelake feed leases`")
    return [_record_event(lake, lease.lease_id, LeaseEvent.RECALLED) for lease in active]


def changes_since(lake: Lake, version: int, key: bytes | None = None, purpose: str = "") -> pa.Table:
    """Return the changes since gallery `version`: the present row of each changed identity, the oldest change first.

    Applying the changes is idempotent. Status `active`: insert or replace the row. Any other status: remove the
    identity; if it was merged, `merged_into` names the identity that replaces it.

    Args:
        lake: the lake.
        version: gallery version of the export.
        key: template key of the export; None if its templates are not rotated.
        purpose: purpose of the export.

    Raises:
        ConfigError: there is no such version.
    """
    gallery = current_gallery(lake)
    if gallery is None or version > gallery.version or version < 0:
        raise ConfigError(
            f"there is no gallery version {version}", where=lake.uri, next_step="see `facelake gallery list`"
        )
    events = gallery.read("changes", ["gallery_version", "kind", "identity_id"])
    events = events.filter(pc.greater(events["gallery_version"], version))
    changed = events.group_by("identity_id").aggregate([("gallery_version", "max")])
    ids = changed["identity_id"].combine_chunks()
    names = ["identity_id", "status", "merged_into", "size", "prototype", "exemplars", "cohesion", "model_digest"]
    parts = []
    for part in gallery.parts("identities", [*names, "last_version"]):
        newer = pc.greater(part["last_version"], version)  # a template can change without an event
        parts.append(part.filter(pc.or_(newer, pc.is_in(part["identity_id"], ids))))
    rows = pa.concat_tables(parts).sort_by([("last_version", "ascending"), ("identity_id", "ascending")])
    return under_key(lake, rows, key, purpose) if key else rows


def under_key(lake: Lake, rows: pa.Table, key: bytes, purpose: str) -> pa.Table:
    """Return rows with templates and exemplars (nulls are kept) rotated by the key for this lake and purpose."""
    with_template = rows.filter(pc.is_valid(rows["prototype"]))
    if not with_template.num_rows:
        return rows
    dim = len(with_template["prototype"][0])
    matrix = rotation(key, lake.name, purpose, dim)
    templates = iter(rotated(matrix_of(with_template["prototype"], dim), matrix).tolist())
    has_template = pc.is_valid(rows["prototype"]).to_pylist()
    exemplars = [_rotated_exemplars(item, dim, matrix) if item else item for item in rows["exemplars"].to_pylist()]
    values = {"prototype": [next(templates) if has else None for has in has_template], "exemplars": exemplars}
    for name, column in values.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, pa.array(column, rows.schema.field(name).type))
    return rows


def _rotated_exemplars(exemplars: list[bytes], dim: int, matrix: F64) -> list[bytes]:
    vectors = decode_embeddings(exemplars, dim).astype(np.float32)
    return encode_embeddings(rotated(vectors, matrix))


def _record_event(lake: Lake, lease_id: str, event: LeaseEvent, version: int = 0) -> FeedLease:
    by_id = {lease.lease_id: lease for lease in leases(lake)}
    if lease_id not in by_id:
        raise ConfigError(f"no lease {lease_id!r}", where=lake.uri, next_step="see `facelake feed leases`")
    lease = by_id[lease_id]
    _append(lake, event, {"lease_id": lease_id, "recipient": lease.recipient, "gallery_version": version})
    return next(lease for lease in leases(lake) if lease.lease_id == lease_id)


def _append(lake: Lake, event: LeaseEvent, facts: dict[str, Any]) -> None:
    seq = 1 + (pc.max(lake["leases"].read(["seq"])["seq"]).as_py() or 0)
    row = dict.fromkeys(LEASES.names) | facts
    row |= {"seq": seq, "event": str(event), "recorded_at": datetime.now(UTC), "recorded_by": getpass.getuser()}
    lake["leases"].append([row])
