"""The rows of one range of a gallery version: its identities, tombstones and memberships."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import columns
from facelake.contracts import I64, IDENTITIES, MEMBERSHIPS, Bool
from facelake.distinct import distinct
from facelake.errors import Corrupt
from facelake.lake.data_files import plain
from facelake.lake.hash_key import keyed_hash
from facelake.lake.store import cached_store
from facelake.publish.matching import places
from facelake.publish.templates import CORE, FaceVectors, KnownTemplates, Templates, core_of, represent
from facelake.stages.gallery.face_keys import FaceKeys
from facelake.stages.gallery.gallery_rows import float_lists, matrix_of, tombstone
from facelake.stages.gallery.previous import HOW
from facelake.stages.gallery.range_work import RangeWork
from facelake.stages.gallery.table_codec import unpack_tables

_MEMBER = ["face_id", "image_id"]
CORE_COLUMNS = ["face_id", "identity_id", "core", "former_id", "score"]
"""columns of memberships that tell the core faces of an identity"""
_FACE_TYPES = {
    "face_id": pa.string(),
    "image_id": pa.string(),
    "quality": pa.float32(),
    "embedding": pa.binary(),
    "key": pa.int64(),
}


class RangeWriter:
    """Makes the rows of one range from its description, its previous files and routed rows."""

    def __init__(self, work: RangeWork, number: int, blocks: list[bytes]) -> None:
        self._work, self._number = work, number
        store = cached_store(work.work, work.s3)
        described = unpack_tables(store.read(f"range/{number}"))
        self._faces, self._groups = described["faces"], described["groups"]
        self._known, self._ended, self._returned = described["known"], described["ended"], described["returned"]
        self._names = self._groups["identity_id"].combine_chunks()
        self._touched: Bool = np.asarray(self._groups["touched"])
        self._key: I64 = self._faces["key"].to_numpy()
        self._group: I64 = self._faces["group"].to_numpy()
        routed: dict[str, list[pa.Table]] = {}
        for block in blocks:
            for kind, table in unpack_tables(block).items():
                routed.setdefault(kind, []).append(table)
        self._routed = {kind: pa.concat_tables(tables) for kind, tables in routed.items()}

    # ---- inputs

    @cached_property
    def _old(self) -> pa.Table:
        """Previous rows of this range's identities, tombstones included."""
        parts = [self._routed["rows"]] if "rows" in self._routed else []
        if path := self._work.identity_files.get(self._number):
            parts.append(self._work.read("identities", path, IDENTITIES.names))
        empty = plain(IDENTITIES).empty_table()
        return pa.concat_tables([empty, *(part.cast(plain(IDENTITIES)) for part in parts)])

    @cached_property
    def _old_members(self) -> pa.Table:
        """Previous membership rows of this range."""
        path = self._work.membership_files.get(self._number)
        names = ["image_id", *CORE_COLUMNS]
        if path is None:
            return plain(pa.schema([MEMBERSHIPS.field(name) for name in names])).empty_table()
        return self._work.read("memberships", path, names)

    @cached_property
    def _read(self) -> tuple[I64, pa.Table]:
        """Positions in this range's faces of those that were read, by group, then key, and their rows."""
        if "faces" not in self._routed:
            empty = pa.table({name: pa.array([], kind) for name, kind in _FACE_TYPES.items()})
            return np.zeros(0, np.int64), empty
        rows = self._routed["faces"]
        at = FaceKeys(self._key).find_keys(rows["key"].to_numpy())
        order = np.lexsort((at, self._group[at]))
        return at[order], rows.take(pa.array(order))

    @cached_property
    def _templates(self) -> Templates:
        """The templates of all groups of the range."""
        at, rows = self._read
        vectors, _ = columns.vectors(rows["embedding"], self._work.dim)
        quality = np.nan_to_num(rows["quality"].to_numpy().astype(np.float32))
        faces = FaceVectors(self._group[at], rows["face_id"].to_pylist(), vectors, quality)
        return represent(faces, self._taken_over(), len(self._names), self._work.exemplars)

    def _taken_over(self) -> KnownTemplates:
        """Templates of previous identities that are whole in a touched group of this range."""
        if not self._known.num_rows:
            return KnownTemplates.none(self._work.dim)
        own = self._old if "taken" not in self._routed else pa.concat_tables([self._old, self._routed["taken"]])
        at = places(self._known["identity_id"], own["identity_id"])
        if (at < 0).any():
            what = "an identity of the previous version has no row"
            raise Corrupt(what, where="identities", next_step="run `facelake nightly --rebase`")
        rows = own.take(pa.array(at))
        template = matrix_of(rows["prototype"], self._work.dim)
        numbers = [rows[name].to_numpy().astype(np.float32) for name in ("cohesion", "weight")]
        lists = [rows[name].to_pylist() for name in ("exemplars", "exemplar_faces")]
        return KnownTemplates(self._known["group"].to_numpy(), template, numbers[0], numbers[1], lists[0], lists[1])

    # ---- identities

    def identities(self) -> pa.Table:
        """Return the range's identities, ascending: new rows of changed ones, previous rows, tombstones."""
        old = self._old
        at = places(self._names, old["identity_id"])
        fresh = [part.cast(plain(IDENTITIES)) for part in (self._new_rows(at), self._fresh_tombstones())]
        rows = pa.concat_tables([old, *fresh])
        added = np.arange(old.num_rows, rows.num_rows)
        chosen = np.concatenate([at[~self._touched], self._standing_tombstones(), added])
        order = pc.sort_indices(rows["identity_id"].take(pa.array(chosen))).to_numpy()
        return rows.take(pa.array(chosen[order]))  # once: the vectors are most of a gallery's bytes

    def _new_rows(self, at: I64) -> pa.Table:
        work, groups = self._work, np.flatnonzero(self._touched)
        made = self._templates
        names, count = self._names.take(pa.array(groups)), len(groups)
        sizes = np.bincount(self._group, minlength=len(self._names))[groups].astype(np.int64)
        new = pa.nulls(count, pa.int64()).fill_null(work.version)
        row = pa.array(at[groups], pa.int64(), mask=at[groups] < 0)
        first = pc.coalesce(self._old["first_version"].combine_chunks().take(row), new)
        last = pc.coalesce(self._old["last_version"].combine_chunks().take(row), new)
        last = pc.if_else(self._groups["changed"].combine_chunks().take(pa.array(groups)), new, last)
        shown = [made.exemplars.get(int(group), []) for group in groups]
        texts, lists = pa.string(), pa.list_(pa.string())
        values = {
            "identity_id": names,
            "status": pa.array(["active"] * count, texts),
            "merged_into": pa.nulls(count, texts),
            "size": pa.array(sizes),
            "first_version": first,
            "last_version": last,
            "prototype": float_lists(made.template[groups]),
            "cohesion": pa.array(made.cohesion[groups].astype(np.float32)),
            "weight": pa.array(made.weight[groups].astype(np.float32)),
            "exemplars": pa.array([[body for _, body in item] for item in shown], pa.list_(pa.binary())),
            "exemplar_faces": pa.array([[face for face, _ in item] for item in shown], lists),
            "core_hashes": pa.nulls(count, lists),
            "purposes": pa.array([[work.purpose]] * count, lists),
            "model_digest": pa.array([work.model_digest] * count, texts),
            "withdrawn_lineage": pa.array([list(work.lineage)] * count, lists),
        }
        return pa.table([values[name] for name in IDENTITIES.names], schema=plain(IDENTITIES))

    def _standing_tombstones(self) -> I64:
        """Return the positions in the previous rows of tombstones that did not come back."""
        returned = pc.is_in(self._old["identity_id"], self._returned["identity_id"].combine_chunks())
        stays = pc.and_(pc.not_equal(self._old["status"], "active"), pc.invert(returned))
        return np.flatnonzero(stays)

    def _fresh_tombstones(self) -> pa.Table:
        """Return the rows of identities that ended."""
        old = self._old
        at = places(self._ended["identity_id"], old["identity_id"])
        winners, fresh = self._ended["winner"].to_pylist(), []
        for row, winner in zip(old.take(pa.array(at)).to_pylist(), winners, strict=True):
            status = "merged" if winner else "retired"
            hashes = None if winner else self._core_hashes(row["identity_id"])
            fresh.append(tombstone(row, status, winner, self._work.version) | {"core_hashes": hashes})
        return pa.Table.from_pylist(fresh, schema=plain(IDENTITIES))

    def _core_hashes(self, name: str) -> list[str] | None:
        """Return keyed hashes of the core faces of an identity that is retired; faces that a merge brought in are not
        its own, and if the core had no other, the own faces nearest to the template stand for it.
        """
        members = self._old_members.select(CORE_COLUMNS)
        if "cores" in self._routed:
            members = pa.concat_tables([members, self._routed["cores"]])
        own = members.filter(pc.and_(pc.equal(members["identity_id"], name), pc.is_null(members["former_id"])))
        core = own.filter(pc.fill_null(own["core"], False))
        if not core.num_rows:
            core = own.sort_by([("score", "descending"), ("face_id", "ascending")]).slice(0, CORE)
        faces = core["face_id"].to_pylist()
        return [keyed_hash(self._work.hash_salt, f"face:{face}") for face in sorted(faces)] or None

    # ---- memberships

    def memberships(self) -> pa.Table:
        """Return a row per face of the range, ordered by face id.

        Raises:
            Corrupt: a face of the groups table is neither in the faces table nor in the previous version, or twice.
        """
        count = len(self._key)
        ids, images = self._ids_and_images()
        score = self._faces["score"].to_numpy(zero_copy_only=False).copy()
        score[self._read[0]] = self._templates.score
        touched = self._touched[self._group]
        core = self._faces["core"].to_numpy(zero_copy_only=False).copy()
        core[touched] = core_of(self._group[touched], score[touched])
        values = {
            "face_id": ids,
            "identity_id": self._names.take(pa.array(self._group)),
            "image_id": images,
            "score": pa.array(np.clip(np.nan_to_num(score, nan=1.0), -1, 1).astype(np.float32)),
            "how": pa.array(HOW).take(pa.array(self._faces["how"].to_numpy().astype(np.int64))),
            "core": pa.array(core),
            "former_id": self._faces["former_id"].combine_chunks(),
            "withdrawn_lineage": pa.array([list(self._work.lineage)] * count, pa.list_(pa.string())),
        }
        return pa.table([values[name] for name in MEMBERSHIPS.names], schema=plain(MEMBERSHIPS)).sort_by("face_id")

    def _ids_and_images(self) -> tuple[pa.Array, pa.Array]:
        """Return face ids and image ids (n,) of the range's faces, in the order of their keys."""
        at, read = self._read
        parts, positions = [read.select(_MEMBER)], [at]
        faces = FaceKeys(self._key, self._work.salt)
        old = self._old_members.select(_MEMBER)
        in_old = faces.find(old["face_id"])
        must_read = np.asarray(self._faces["read"])  # such a face counts only if the faces table still has it
        here = (in_old >= 0) & ~must_read[in_old] if len(must_read) else np.zeros(len(in_old), bool)
        parts.append(old.filter(pa.array(here)))
        positions.append(in_old[here])
        if "members" in self._routed:
            routed = self._routed["members"]
            parts.append(routed.select(_MEMBER))
            positions.append(faces.find_keys(routed["key"].to_numpy()))
        rows, position = pa.concat_tables(parts), np.concatenate(positions)
        if not np.array_equal(np.sort(position), np.arange(len(self._key))):
            missing = len(self._key) - len(distinct(position))
            what = f"{missing} grouped faces are not in the faces table" if missing else "faces occur twice"
            raise Corrupt(what, where="groups", next_step="run `facelake nightly` again: cluster will be redone")
        rows = rows.take(pa.array(np.argsort(position, kind="stable")))
        return rows["face_id"].combine_chunks(), rows["image_id"].combine_chunks()
