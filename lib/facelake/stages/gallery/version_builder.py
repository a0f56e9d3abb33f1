"""The rows of a gallery version: of identities that changed they are made anew, the others are taken over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import F32, I64, IDENTITIES, MEMBERSHIPS, Bool, is_of_model
from facelake.lake.tables import plain
from facelake.publish import Published, Standing
from facelake.publish.matching import overlaps, places
from facelake.stages.core.context import Context
from facelake.stages.gallery.templates import Faces, Known, Represented, float_lists, represent


@dataclass(slots=True)
class Making:
    """One gallery version being made."""

    context: Context
    version: int
    ids: pa.Array
    """(n,) face ids, ascending"""
    standing: Standing
    result: Published
    before: pa.Table | None
    """yesterday's memberships by face"""
    old: pa.Table | None
    """yesterday's identities, tombstones among them"""
    reuse: bool
    """yesterday's rows are of the same model and purpose"""
    exact: bool
    """changed identities are made from all of their faces, not from their rows and what came"""
    corrected: Bool
    """(n,) faces that a correction put where they are"""

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """The identities and the memberships."""
        labels, old = self.standing.groups, self.old
        at = self._old_rows()
        touched = self._touched(at)
        faces = Faces.of(self.context.lake, self.ids, self._files())
        known, whole = self._known(at, touched, faces.dim)
        there = self._where_before()
        mine = self.standing.yesterday
        read = touched[labels] & ~np.where(mine >= 0, whole[np.maximum(mine, 0)], False)
        score = np.where(there >= 0, self._scores_before()[there], np.nan).astype(np.float32)
        shown = represent(faces, labels, touched, read, score, known, self.context.config.gallery.exemplars)
        parts = [self._new_rows(shown, touched, at)]
        if old is not None:
            parts += [old.take(pa.array(at[~touched])), self._tombstones(old)]
        identities = pa.concat_tables([part.cast(plain(IDENTITIES)) for part in parts]).sort_by("identity_id")
        return identities, self._memberships(shown, there, touched)

    # ---- what is there

    def _old_rows(self) -> I64:
        """Row (groups,) in the old identities of each group's identity, or -1."""
        count = len(self.result.identity_of_group)
        if self.old is None:
            return np.full(count, -1, np.int64)
        names = pa.array(self.result.identity_of_group, pa.string())
        return places(names, self.old["identity_id"])

    def _touched(self, at: I64) -> Bool:
        changed = {event.identity_id for event in self.result.changes}
        touched = np.array([name in changed for name in self.result.identity_of_group], bool)
        touched |= at < 0
        if not self.reuse or self.old is None:
            return np.ones(len(touched), bool)
        weighed = np.asarray(pc.is_valid(self.old["weight"]))
        return np.asarray(touched | ~weighed[at])

    def _known(self, at: I64, touched: Bool, dim: int) -> tuple[Known, Bool]:
        """What rows say of identities that lost nobody and went to one touched group; which (names,) those are."""
        standing = self.standing
        whole = np.zeros(max(1, len(standing.names)), bool)
        if self.exact or not self.reuse or self.old is None or not len(standing.names):
            return Known.none(dim), whole
        g, i, shared, _ = overlaps(standing.groups, standing.yesterday)
        row = places(pa.array(standing.names, pa.string()), self.old["identity_id"])
        good = (shared == standing.sizes[i]) & touched[g] & (row[i] >= 0)
        good &= np.asarray(pc.is_valid(self.old["weight"]))[np.maximum(row[i], 0)]
        whole[i[good]] = True
        held = self.old.take(pa.array(row[i[good]]))
        if not held.num_rows:
            return Known.none(dim), whole
        prototype = matrix_of(held["prototype"], dim)
        numbers = [held[name].to_numpy().astype(np.float32) for name in ("cohesion", "weight")]
        lists = [held[name].to_pylist() for name in ("exemplars", "exemplar_faces")]
        return Known(g[good], prototype, numbers[0], numbers[1], lists[0], lists[1]), whole

    def _where_before(self) -> I64:
        """Row (n,) of each face in yesterday's memberships, or -1."""
        if self.before is None or not self.before.num_rows:
            return np.full(len(self.ids), -1, np.int64)
        return places(self.ids, self.before["face_id"])

    def _scores_before(self) -> F32:
        """Scores of yesterday's memberships; of another model's they say nothing, and every face is read."""
        if self.before is None or not self.before.num_rows or "score" not in self.before.column_names:
            return np.zeros(1 if self.before is None else max(1, self.before.num_rows), np.float32)
        return np.asarray(self.before["score"].to_numpy(), np.float32)

    def _files(self) -> tuple[str, ...]:
        files = self.context.lake["faces"].snapshot().files
        return tuple(file.path for file in files if is_of_model(file.path, self.context.model_digest))

    # ---- rows

    def _new_rows(self, shown: Represented, touched: Bool, at: I64) -> pa.Table:
        config, count = self.context.config, int(touched.sum())
        groups = np.flatnonzero(touched)
        sizes = np.bincount(self.standing.groups, minlength=len(touched))[groups]
        changed = {event.identity_id for event in self.result.changes}
        names = [self.result.identity_of_group[g] for g in groups]
        first = self._kept("first_version", at[groups])
        last = self._kept("last_version", at[groups])
        last = [v if v is not None and n not in changed else self.version for v, n in zip(last, names, strict=True)]
        shows = [shown.exemplars.get(int(g), []) for g in groups]
        texts, lists = pa.string(), pa.list_(pa.string())
        columns = {
            "identity_id": pa.array(names, texts),
            "status": pa.array(["active"] * count, texts),
            "merged_into": pa.nulls(count, texts),
            "size": pa.array(sizes.astype(np.int64)),
            "first_version": pa.array([self.version if v is None else v for v in first], pa.int64()),
            "last_version": pa.array(last, pa.int64()),
            "prototype": float_lists(shown.prototype[groups]),
            "cohesion": pa.array(shown.cohesion[groups].astype(np.float32)),
            "weight": pa.array(shown.weight[groups].astype(np.float32)),
            "exemplars": pa.array([[body for _, body in item] for item in shows], pa.list_(pa.binary())),
            "exemplar_faces": pa.array([[face for face, _ in item] for item in shows], lists),
            "core_hashes": pa.nulls(count, lists),
            "purposes": pa.array([[config.purpose]] * count, lists),
            "model_digest": pa.array([self.context.model_digest] * count, texts),
            "withdrawn_lineage": pa.array([list(self.context.lineage)] * count, lists),
        }
        return pa.table([columns[name] for name in IDENTITIES.names], schema=plain(IDENTITIES))

    def _kept(self, name: str, at: I64) -> list[int | None]:
        if self.old is None:
            return [None] * len(at)
        return list(self.old[name].take(pa.array(at, pa.int64(), mask=at < 0)).to_pylist())

    def _tombstones(self, old: pa.Table) -> pa.Table:
        """Those that were there and did not come back, and those of identities that are no more."""
        gone = pc.and_(pc.not_equal(old["status"], "active"), pc.invert(pc.is_in(
            old["identity_id"], pa.array(self.result.came_back, pa.string()))))  # fmt: skip
        ended = [*self.result.merged_into, *self.result.retired]
        rows_ = old.filter(pc.is_in(old["identity_id"], pa.array(ended, pa.string()))).to_pylist()
        fresh = []
        for row in rows_:
            name = row["identity_id"]
            winner = self.result.merged_into.get(name)
            stone = tombstone(row, "merged" if winner else "retired", winner, self.version)
            fresh.append(stone | {"core_hashes": None if winner else self._core_hashes(name)})
        return pa.concat_tables([old.filter(gone), pa.Table.from_pylist(fresh, schema=old.schema)])

    def _core_hashes(self, name: str) -> list[str] | None:
        """Keyed hashes of the core faces of an identity that is retired."""
        if self.before is None or "core" not in self.before.column_names:
            return None
        mine = pc.and_(pc.equal(self.before["identity_id"], name), pc.fill_null(self.before["core"], False))
        faces = sorted(self.before["face_id"].filter(mine).to_pylist())
        return [self.context.lake.keyed_hash(f"face:{face}") for face in faces] or None

    def _memberships(self, shown: Represented, there: I64, touched: Bool) -> pa.Table:
        count, labels, standing = len(self.ids), self.standing.groups, self.standing
        names = pa.array(self.result.identity_of_group, pa.string())
        columns = {
            "face_id": self.ids,
            "identity_id": names.take(pa.array(labels)),
            "image_id": self._images(),
            "score": pa.array(np.clip(np.nan_to_num(shown.score, nan=1.0), -1, 1)),
            "how": self._how(there),
            "core": pa.array(np.where(touched[labels], shown.core, standing.core)),
            "former_id": self._former(there),
            "withdrawn_lineage": pa.array([list(self.context.lineage)] * count, pa.list_(pa.string())),
        }
        return pa.table([columns[name] for name in MEMBERSHIPS.names], schema=plain(MEMBERSHIPS))

    def _images(self) -> pa.Array:
        found = self.context.lake["faces"].read(["face_id", "image_id"])
        return found["image_id"].combine_chunks().take(pc.index_in(self.ids, found["face_id"].combine_chunks()))

    def _how(self, there: I64) -> pa.Array:
        """Faces that stay where they were keep how they came there."""
        how = pc.if_else(pa.array(self.corrected), "corrected", "grouped" if self.exact else "joined")
        if self.before is None or "how" not in self.before.column_names:
            return how
        stays = (there >= 0) & self._stayed() & ~self.corrected
        kept = self.before["how"].combine_chunks().take(pa.array(there, mask=there < 0))
        return pc.if_else(pa.array(stays), kept, how)

    def _stayed(self) -> Bool:
        """(n,) faces whose identity is that of yesterday."""
        standing, mine = self.standing, self.standing.yesterday
        number = {name: i for i, name in enumerate(standing.names)}
        now = np.array([number.get(name, -2) for name in self.result.identity_of_group] or [-2], np.int64)
        return np.asarray(now[standing.groups] == mine)

    def _former(self, there: I64) -> pa.Array:
        """Whom a face was of before it was merged; nobody's once that one is back."""
        standing = self.standing
        merged = np.array([name in self.result.merged_into for name in standing.names] or [False], bool)
        names = pa.array([*standing.gone, *standing.names], pa.string())
        mine = standing.yesterday
        at = standing.former.copy()
        now = (mine >= 0) & merged[np.maximum(mine, 0)]
        at[now] = len(standing.gone) + mine[now]
        back = set(self.result.came_back)
        returned = np.array([name in back for name in [*standing.gone, *standing.names]] or [False], bool)
        at[(at >= 0) & returned[np.maximum(at, 0)]] = -1
        return names.take(pa.array(at, pa.int64(), mask=at < 0))


def tombstone(row: dict[str, Any], status: str, winner: str | None, version: int) -> dict[str, Any]:
    """What stays of an identity that is no more: its id, and who took over."""
    gone: dict[str, Any] = {
        "status": status,
        "merged_into": winner,
        "size": 0,
        "prototype": None,
        "cohesion": None,
        "weight": None,
        "exemplars": None,
        "exemplar_faces": None,
        "core_hashes": None,
        "purposes": [],
    }
    return row | gone | {"last_version": version}


def matrix_of(column: pa.ChunkedArray | pa.Array, dim: int) -> F32:
    """A list column without nulls as rows (n, dim)."""
    flat = pc.list_flatten(column)
    flat = flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
    out: F32 = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), dim)
    return out
