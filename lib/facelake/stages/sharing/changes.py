"""What leaves the lake under a lease: the rows of a gallery that are in force now, and the changes since a version.

An identity with a face of a person who has withdrawn, or whose grant has ended, is withheld as a whole until the next
run has computed it without that face: its template is made of that face too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import F64
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.publish.leases import FeedLease
from facelake.publish.ranges import range_of_file
from facelake.publish.transform import rotated, rotation
from facelake.stages.admission.withdrawals import LedgerState, admitted_photos
from facelake.stages.core.known_ids import KnownIds
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.versions import Gallery, require_gallery
from facelake.stages.sharing.leases import lease_time
from facelake.vectors import decode_embeddings, encode_embeddings

WITHHELD = "withheld"
"""status of an identity in changes: not in force for the purpose at present; remove it, it may come back"""
_CHANGED = ["identity_id", "status", "merged_into", "size", "prototype", "exemplars", "cohesion", "model_digest"]
_BLANK = ("merged_into", "size", "prototype", "exemplars", "cohesion")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A gallery version as it may leave the lake for a purpose.

    Attributes:
        gallery: the version.
        purpose: of the recipient.
        ledger: by which identities are withheld.
        withheld: ids of the identities that may not leave at present.
        as_of: the time at which that was decided, which is not before anything that was recorded.
        key: by which templates are rotated; None: they are not.
    """

    gallery: Gallery
    purpose: str
    ledger: LedgerState
    withheld: pa.Array
    as_of: datetime
    key: bytes | None = None

    @classmethod
    def of(cls, lake: Lake, purpose: str | None, now: datetime, key: bytes | None = None) -> Outgoing:
        """Read the newest gallery and the present ledger.

        Args:
            lake: the lake.
            purpose: of the recipient; None: that of the gallery.
            now: by the clock of this host; legal bases are checked at `as_of`.
            key: template key; None: the templates are not rotated.

        Raises:
            ConfigError: nothing was published.
        """
        gallery = require_gallery(lake)
        ledger = LedgerState.of(lake)
        as_of = lease_time(lake, now, ledger.rows)
        own = gallery.row["purpose"]
        barred = [ledger.barred_images(each, as_of) for each in dict.fromkeys((own, purpose or own))]
        withheld = _identities_with(gallery, pc.unique(pa.concat_arrays(barred)), admitted_photos(lake))
        return cls(gallery, purpose or own, ledger, withheld, as_of, key)

    def parts(self, columns: list[str]) -> Iterator[pa.Table]:
        """Yield the rows of active identities in force, by ascending id, a data file at a time, under the key."""
        table = self.gallery.lake["identities"]
        files = self.gallery.snapshot("identities").files
        names = list(dict.fromkeys([*columns, "identity_id", "status", "purposes"]))
        ranges = {own[0] if (own := range_of_file(file.path)) else None for file in files}
        if len(ranges) > 1 or None in ranges:  # files of an older layout are not in the order of ids
            yield self._protected(self._allowed(self.gallery.read("identities", names)).select(columns)).sort_by(
                "identity_id"
            )
            return
        for file in files:  # their names ascend with the ids, and their rows too
            rows = self._allowed(table.file(file, names)).select(columns)
            if rows.num_rows:
                yield self._protected(rows)

    def withheld_from(self, lease: FeedLease) -> pa.Array:
        """Return the ids of the identities that were withheld from what the recipient of a lease has acknowledged.

        One of a person who may be used again, as before, has no change since then; the copy lacks it nevertheless.
        """
        known = lease.acknowledged_seq if lease.acknowledged_seq is not None else lease.issued_seq
        if known is None or known >= self.ledger.newest_seq:
            return pa.array([], pa.string())
        rows = self.ledger.rows
        former = replace(self.ledger, rows=rows.filter(pc.less_equal(rows["seq"], known)))
        barred = former.barred_images(self.gallery.row["purpose"], lease.acknowledged_at or lease.issued_at)
        return _identities_with(self.gallery, barred)

    def changes(self, since: int, returning: pa.Array | None = None) -> Iterator[pa.Table]:
        """Yield the changes since a gallery version, a data file at a time, under the key.

        Status `active`: insert or replace the row. Any other status: remove the identity; if it was merged,
        `merged_into` names the identity that replaces it. Identities that are not in force come without values.

        Args:
            since: gallery version.
            returning: ids of identities that come although nothing changed in them.

        Raises:
            ConfigError: there is no such version.
        """
        if since > self.gallery.version or since < 0:
            what = f"there is no gallery version {since}"
            raise ConfigError(what, where=self.gallery.lake.uri, next_step="see `facelake gallery list`")
        events = self.gallery.read("changes", ["gallery_version", "identity_id"])
        ids = pc.unique(events.filter(pc.greater(events["gallery_version"], since))["identity_id"])
        table = self.gallery.lake["identities"]
        for file in self.gallery.snapshot("identities").files:
            keys = table.file(file, ["identity_id", "last_version", "status", "purposes"])
            newer = pc.greater(keys["last_version"], since)  # a template can change without an event
            chosen = pc.or_(newer, pc.is_in(keys["identity_id"], ids))
            chosen = pc.or_(chosen, pc.is_in(keys["identity_id"], self.withheld))
            if self.purpose != self.gallery.row["purpose"]:  # what the recipient has was allowed by another gallery
                foreign = pc.and_(pc.equal(keys["status"], "active"), pc.invert(self._in_force(keys)))
                chosen = pc.or_(chosen, foreign)
            if returning is not None:
                chosen = pc.or_(chosen, pc.is_in(keys["identity_id"], returning))
            if pc.any(chosen).as_py():
                rows = table.file(file, [*_CHANGED, "last_version", "purposes"]).filter(chosen)
                yield self._protected(self._blanked(rows).select([*_CHANGED, "last_version"]))

    def in_force(self) -> int:
        """Return how many identities are in force."""
        if not len(self.withheld) and self.purpose == self.gallery.row["purpose"]:
            return int(self.gallery.row["identities"])
        return sum(rows.num_rows for rows in self.parts(["identity_id"]))

    def _in_force(self, rows: pa.Table) -> pa.Array:
        purposes = rows["purposes"].combine_chunks()
        named = pc.list_parent_indices(purposes).filter(pc.equal(pc.list_flatten(purposes), self.purpose))
        allowed = np.zeros(rows.num_rows, bool)
        allowed[named.to_numpy()] = True
        return pc.and_(pc.invert(pc.is_in(rows["identity_id"], self.withheld)), pa.array(allowed))

    def _allowed(self, rows: pa.Table) -> pa.Table:
        allowed = pc.and_(pc.equal(rows["status"], "active"), self._in_force(rows))
        return rows if pc.all(allowed).as_py() in (True, None) else rows.filter(allowed)  # vectors are not copied

    def _blanked(self, rows: pa.Table) -> pa.Table:
        """Return the rows; active ones that are not in force have status `withheld` and no values."""
        barred = pc.and_(pc.equal(rows["status"], "active"), pc.invert(self._in_force(rows))).combine_chunks()
        if not pc.any(barred).as_py():
            return rows
        keep = pa.array(np.where(barred.to_numpy(zero_copy_only=False), -1, np.arange(rows.num_rows)))
        keep = pc.if_else(pc.less(keep, 0), None, keep)
        for name in _BLANK:
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, rows.schema.field(name), rows[name].combine_chunks().take(keep))
        at = rows.schema.get_field_index("status")
        status = pc.if_else(barred, WITHHELD, rows["status"].combine_chunks())
        return rows.set_column(at, rows.schema.field("status"), status)

    def _protected(self, rows: pa.Table) -> pa.Table:
        return under_key(self.gallery.lake, rows, self.key, self.purpose) if self.key else rows


def changes_since(
    lake: Lake, version: int, key: bytes | None = None, purpose: str | None = None, now: datetime | None = None
) -> pa.Table:
    """Return the changes since a gallery version in one table, the oldest change first; see `Outgoing.changes`.

    Args:
        lake: the lake.
        version: gallery version of the recipient's copy.
        key: template key of the copy; None if its templates are not rotated.
        purpose: of the copy; None: that of the gallery.
        now: at which legal bases are checked; None: the present.

    Raises:
        ConfigError: there is no such version.
    """
    outgoing = Outgoing.of(lake, purpose, now or datetime.now(UTC), key)
    parts = list(outgoing.changes(version))
    if not parts:
        parts = [outgoing.gallery.read("identities", [*_CHANGED, "last_version"]).slice(0, 0)]
    return pa.concat_tables(parts).sort_by([("last_version", "ascending"), ("identity_id", "ascending")])


def _identities_with(gallery: Gallery, images: pa.Array, admitted: KnownIds | None = None) -> pa.Array:
    """Return the ids of the identities with a face in one of the photos, or in one that was not admitted."""
    names = [pa.array([], pa.string())]
    for rows in gallery.parts("memberships", ["image_id", "identity_id"]) if len(images) or admitted else ():
        hit = pc.is_in(rows["image_id"], images)
        if admitted:
            hit = pc.or_(hit, admitted.lack(rows["image_id"]))
        names.append(rows.filter(hit)["identity_id"].combine_chunks())
    return pc.unique(pa.concat_arrays(names))


def under_key(lake: Lake, rows: pa.Table, key: bytes, purpose: str) -> pa.Table:
    """Return rows with templates and exemplars (nulls are kept) rotated by the key for this lake and purpose."""
    if "prototype" not in rows.column_names:
        return rows
    with_template = rows.filter(pc.is_valid(rows["prototype"]))
    if not with_template.num_rows:
        return rows
    dim = len(with_template["prototype"][0])
    matrix = rotation(key, lake.name, purpose, dim)
    templates = iter(rotated(matrix_of(with_template["prototype"], dim), matrix).tolist())
    has_template = pc.is_valid(rows["prototype"]).to_pylist()
    values = {"prototype": [next(templates) if has else None for has in has_template]}
    if "exemplars" in rows.column_names:
        stored = rows["exemplars"].to_pylist()
        values["exemplars"] = [_rotated_exemplars(item, dim, matrix) if item else item for item in stored]
    for name, column in values.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, pa.array(column, rows.schema.field(name).type))
    return rows


def _rotated_exemplars(exemplars: list[bytes], dim: int, matrix: F64) -> list[bytes]:
    vectors = decode_embeddings(exemplars, dim).astype(np.float32)
    return encode_embeddings(rotated(vectors, matrix))
