"""Showing a gallery, exporting it to a recipient, and sending the changes since then."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import reference
from facelake.errors import ConfigError, FacelakeError, Refused, Undelivered
from facelake.events import Notice
from facelake.lake.lake import Lake
from facelake.publish.leases import FeedLease
from facelake.publish.template_index import IndexFacts
from facelake.publish.thresholds import impostor_curve
from facelake.publish.transform import key_name
from facelake.stages.admission.withdrawals import LedgerState
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context
from facelake.stages.evaluation.operating_points import compared
from facelake.stages.gallery.absent import FORGOTTEN, without_faces, without_photos
from facelake.stages.gallery.face_index import photos_of_subject
from facelake.stages.gallery.versions import FIND_IDENTITY, Gallery, list_galleries, not_active, require_gallery
from facelake.stages.models.registry import find_card
from facelake.stages.sharing.changes import Outgoing
from facelake.stages.sharing.delivery import Delivery, check_free, delivery
from facelake.stages.sharing.index_files import IndexWriter
from facelake.stages.sharing.leases import (
    LeaseTerms,
    exports_of,
    issue,
    lease_in_force,
    leases,
    mark_returned,
    mark_sent,
    refuse_database,
    refuse_debtor,
)

_FORMAT = 4
_COLUMNS = ("identity_id", "size", "prototype", "exemplars", "cohesion", "model_digest")
_STORED = ["identity_id", "status", "size", "cohesion", "first_version", "last_version", "merged_into"]
_SHOWN = ["identity_id", "status", "size", "photos", "cohesion", "first_seen", "last_changed", "merged_into"]


def show(
    lake: Lake, identity: str | None, version: int | None, *, by_photo: bool = False
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return column names and rows: the identities, the largest first; or the faces of one identity.

    Args:
        lake: the lake.
        identity: an identity id; None: all identities.
        version: of the gallery; None: the newest.
        by_photo: whether it may also be a photo's id or a subject's reference, whose faces are listed with their
            identities.

    Raises:
        ConfigError: nothing was published, or the identity is not active; a merged one is named with its winner.
    """
    gallery = require_gallery(lake, version)
    if identity is None:
        return _SHOWN, _identities(gallery)
    columns = ["face_id", "image_id", "score", "how"]
    own = [
        rows.filter(pc.equal(rows["identity_id"], identity)).select(columns)
        for rows in gallery.parts("memberships", [*columns, "identity_id"])
    ]
    faces = pa.concat_tables(own).sort_by("face_id") if own else pa.table({})
    if faces.num_rows:
        return columns, faces.to_pylist()
    if not by_photo:
        raise not_active(gallery, identity)
    columns = ["identity_id", *columns]
    photos = pa.concat_arrays([pa.array([identity], pa.string()), photos_of_subject(lake, reference(identity))])
    shown = [
        rows.filter(pc.is_in(rows["image_id"], photos)).select(columns)
        for rows in gallery.parts("memberships", columns)
    ]
    faces = pa.concat_tables(shown) if shown else pa.table({})
    if not faces.num_rows:
        raise _unknown(gallery, identity)
    return columns, faces.sort_by([("identity_id", "ascending"), ("face_id", "ascending")]).to_pylist()


def not_in_force(lake: Lake, faces: list[dict[str, Any]]) -> str | None:
    """Return a sentence on faces whose photos may not be used any more by the present ledger; None if all may.

    Args:
        lake: the lake.
        faces: rows of `show`.
    """
    images = pa.array([row["image_id"] for row in faces], pa.string())
    barred = LedgerState.of(lake).barred_images(require_gallery(lake).row["purpose"], datetime.now(UTC), images)
    held = int(pc.sum(pc.is_in(images, barred)).as_py() or 0)
    if not held:
        return None
    what = f"{held:,} of these faces may not be used any more: withdrawn, erased or ended"
    return f"{what}; no export, report or review shows them, and the next `facelake nightly` removes them"


def _unknown(gallery: Gallery, name: str) -> ConfigError:
    """Return the error for a name that is neither an active identity nor a photo or subject with a face."""
    lake, known_as = gallery.lake, reference(name)
    if absent := without_faces(lake, known_as):
        return absent
    ended = not_active(gallery, name)
    if ended.next_step != FIND_IDENTITY:
        return ended
    what = f"no active identity {name!r}, and no photo or subject of this name in the corpus; {FORGOTTEN}"
    return without_photos(lake, known_as) or ConfigError(what, where=lake.uri, next_step=FIND_IDENTITY)


def _identities(gallery: Gallery) -> list[dict[str, Any]]:
    """The rows of identities, the largest first, with the number of `photos` of each, and the dates of the versions
    that created it (`first_seen`) and last changed it (`last_changed`); None where a version's row is gone.
    """
    pair = ["identity_id", "image_id"]
    parts = [rows.group_by(pair).aggregate([]) for rows in gallery.parts("memberships", pair)]
    counted = pa.concat_tables(parts).group_by(pair).aggregate([]).group_by("identity_id") if parts else None
    table = counted.aggregate([([], "count_all")]) if counted else None
    photos = (
        dict(zip(*(table[name].to_pylist() for name in ("identity_id", "count_all")), strict=True)) if table else {}
    )
    published = {row["gallery_version"]: f"{row['created_at']:%Y-%m-%d}" for row in list_galleries(gallery.lake)}
    stored = gallery.read("identities", _STORED).sort_by([("size", "descending"), ("identity_id", "ascending")])
    return [
        row
        | {"photos": photos.get(row["identity_id"], 0)}
        | {"first_seen": published.get(row["first_version"]), "last_changed": published.get(row["last_version"])}
        for row in stored.to_pylist()
    ]


def export_gallery(
    context: Context, out: str, purpose: str, recipient: str, *, days: int | None = None, key: bytes | None = None
) -> dict[str, Any]:
    """Write templates and exemplars of the active identities, a FAISS index and a signed manifest.

    The export is a lease and is recorded in the audit trail. Identities are read and written a data file at a time.
    Identities with a face of a person who has withdrawn since the last run are left out.

    Args:
        context: of the run.
        out: a folder, or s3://bucket/prefix.
        purpose: what the recipient will use it for.
        recipient: who receives it.
        days: how long the recipient may use it; default and maximum: the config's.
        key: templates are rotated by it (publish/transform.py); the recipient rotates probes by the same key.

    Returns:
        The manifest.

    Raises:
        ConfigError: `out` is inside the lake or the corpus, or has files of others that would be overwritten.
        Refused: the gallery is not in force for the purpose, or the recipient owes an action on an earlier lease.
        LedgerMoved: an event was recorded meanwhile; nothing has left.
        Undelivered: handing over failed, and something of it is left in `out`, or the lease could not be closed.
    """
    now = datetime.now(UTC)
    purpose = reference(purpose)
    outgoing = Outgoing.of(context.lake, purpose, now, key)
    earlier = check_free(out, "export", context.config)
    terms = LeaseTerms(recipient, purpose, lease_days(context, days))
    described = description_of(context, outgoing, terms, now)  # refuses before anything is written
    with delivery(out, context.config.s3, context.lake.uri) as files:
        facts = _write_files(context, outgoing, files, described["identities"])
        outgoing.ledger.check_unchanged()
        # at the end: a lease without an export would have to be returned
        held = described["identities"], outgoing.as_of, outgoing.ledger.newest_seq
        lease = issue(context.lake, outgoing.gallery, terms, *held)
        leased = {"format": _FORMAT, "lease_id": lease.lease_id, "expires_at": lease.expires_at.isoformat()}
        try:
            return files.hand_over(context, "export", leased | described | {"index": facts.as_json()})
        except Undelivered as err:
            next_step = f"{err.next_step}, then run `facelake feed return {lease.lease_id}`"
            raise Undelivered(err.what, where=out, next_step=next_step) from err
        except BaseException:  # also an interrupt
            _close_unreceived(context, lease, out)
            raise
        finally:
            if files.begun:
                _tell_of_replaced(context, out, earlier)


def _close_unreceived(context: Context, lease: FeedLease, out: str) -> None:
    """Record that nobody holds anything under a lease: its files were not handed over, or were removed again."""
    body = {"lease_id": lease.lease_id, "recipient": lease.recipient, "purpose": lease.purpose}
    try:
        append_audit(context.lake, "export-failed", body, context.sign)
        mark_returned(context.lake, lease.lease_id)
    except (OSError, FacelakeError) as err:
        what = f"the export failed, of which nothing is in {out}, and its lease could not be closed"
        next_step = f"run `facelake feed return {lease.lease_id}`"
        raise Undelivered(what, where=context.lake.uri, next_step=next_step) from err
    text = f"nothing was handed over under {lease.lease_id}: the lease is closed, and nothing of it is left in {out}"
    context.emit(Notice("export", text))


def _tell_of_replaced(context: Context, out: str, lease_id: str | None) -> None:
    """Report that an export of this lake was overwritten whose lease is still open: its recipient keeps owing."""
    if any(lease.lease_id == lease_id and not lease.returned for lease in leases(context.lake)):
        text = f"the export under {lease_id} in {out} was overwritten and its lease is still open: "
        context.emit(Notice("export", text + f"run `facelake feed return {lease_id}` if no other copy is left"))


def lease_days(context: Context, days: int | None) -> int:
    """Return for how many days a lease is issued: at most the config's."""
    most = context.config.governance.lease_days
    return min(days or most, most)


def description_of(context: Context, outgoing: Outgoing, terms: LeaseTerms, now: datetime) -> dict[str, Any]:
    """Measure thresholds, and return the manifest without lease, files and signature.

    Raises:
        Refused: no identity is in force for the purpose, or the recipient owes an action on an earlier lease.
    """
    gallery, key = outgoing.gallery, outgoing.key
    parts = list(outgoing.parts(["identity_id", "size"]))
    rows = pa.concat_tables(parts) if parts else None
    if rows is None or not rows.num_rows:
        what = f"no identity is in force for the purpose {terms.purpose!r}"
        what += f"; the gallery was made for {gallery.row['purpose']!r}"
        next_step = "record grants for that purpose and publish a gallery for it"
        if terms.purpose == gallery.row["purpose"]:
            next_step = "run `facelake nightly`: the newest run has not ended, or everybody's basis has ended since"
        raise Refused(what, where=context.lake.uri, next_step=next_step)
    refuse_debtor(context.lake, terms.recipient, now)  # before minutes of comparing the faces of a large gallery
    measured = compared(context, gallery, rows)
    return {
        "gallery_version": gallery.version,
        "identities": rows.num_rows,
        "purpose": terms.purpose,
        "lake": context.lake.name,
        "thresholds": measured.points(),
        "impostor_curve": impostor_curve(measured.impostor),
        "template_key": key_name(key) if key else None,
        "recipient": terms.recipient,
        "model_digest": gallery.row["model_digest"],
        "withdrawn_lineage": gallery.row["withdrawn_lineage"] or [],
        "exported_at": outgoing.as_of.isoformat(),
    }


def _write_files(context: Context, outgoing: Outgoing, files: Delivery, identities: int) -> IndexFacts:
    """Write the rows, an index of their templates in the same order, and the model's card."""
    writer = IndexWriter(files.folder, identities)

    def indexed() -> Iterator[pa.Table]:
        for rows in outgoing.parts([*_COLUMNS]):
            writer.add(rows)
            yield rows

    files.write_rows("identities", indexed())
    facts, names = writer.finish()
    card = find_card(context.config.model.card).model_dump_json(indent=1)
    (files.folder / "model_card.json").write_text(card)
    for name in (*names, "model_card.json"):
        files.add(name)
    return facts


def _must_be_key_of_copy(lake: Lake, lease_id: str, key: bytes | None) -> None:
    """Check that changes go under the key of the copy, by the record of the export in the audit trail.

    Raises:
        ConfigError: under another key, or none: templates that no key protects would leave.
    """
    wanted = next((body["template_key"] for _, body in exports_of(lake, lease_id) if "template_key" in body), None)
    if wanted != (key_name(key) if key else None):
        what = f"the copy under {lease_id} is under {f'template key {wanted}' if wanted else 'no template key'}"
        next_step = "name the variable with that key: --key-env" if wanted else "leave --key-env out"
        raise ConfigError(what, where="--key-env", next_step=next_step)


def send_changes(
    context: Context, lease_id: str, out: str, since: int | None = None, key: bytes | None = None
) -> dict[str, Any]:
    """Write the changes that bring the copy of a recipient up to date, with a signed manifest. Audited.

    A recipient that has not acknowledged an erasure or withdrawal gets them too, since it has to apply them.

    Args:
        context: of the run.
        lease_id: of the copy; its recipient and purpose apply.
        out: a folder, or s3://bucket/prefix.
        since: gallery version of the copy, at most what the recipient last acknowledged, which is the default.
        key: template key of the copy, if it has one.

    Returns:
        The manifest.

    Raises:
        ConfigError: there is no such lease or version, the lease is of a database, the copy is not known to have that
            version or is under another key, or the place has other files.
        Refused: the lease was recalled, has ended or was returned.
        LedgerMoved: an event was recorded meanwhile; nothing has left.
    """
    now = datetime.now(UTC)
    lease = lease_in_force(context.lake, lease_id, now)
    refuse_database(lease)
    _must_be_key_of_copy(context.lake, lease_id, key)
    outgoing = Outgoing.of(context.lake, lease.purpose, now, key)
    before = lease.acknowledged if since is None else since
    if before > lease.acknowledged:  # the changes would leave out what the copy may lack, and could be acknowledged
        what = f"the copy under {lease_id} is known to be at gallery {lease.acknowledged}, not at {before}"
        next_step = f"leave --since out, or run `facelake feed ack {lease_id} --version {before}` first if it is"
        raise ConfigError(what, where="--since", next_step=next_step)
    check_free(out, "changes", context.config)
    with delivery(out, context.config.s3, context.lake.uri) as files:
        rows = files.write_rows("changes", outgoing.changes(before, outgoing.withheld_from(lease)))
        outgoing.ledger.check_unchanged()
        manifest = {
            "format": _FORMAT,
            "kind": "changes",
            "lease_id": lease_id,
            "expires_at": lease.expires_at.isoformat(),
            "recipient": lease.recipient,
            "purpose": lease.purpose,
            "lake": context.lake.name,
            "since": before,
            "gallery_version": outgoing.gallery.version,
            "changed": rows,
            "identities": outgoing.in_force(),
            "template_key": key_name(key) if key else None,
            "model_digest": outgoing.gallery.row["model_digest"],
            "computed_at": outgoing.as_of.isoformat(),
        }
        signed = files.hand_over(context, "changes", manifest)
    # at the end: an acknowledgement of changes that never arrived would clear what the recipient owes
    mark_sent(context.lake, lease_id, outgoing.gallery.version, outgoing.as_of, outgoing.ledger.newest_seq)
    return signed
