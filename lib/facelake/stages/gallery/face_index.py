"""Row positions of a gallery version's faces, so that the faces of one identity are read without scanning tables.

Data files have no statistics of identifying columns (see lake/tables.py), so a filter cannot skip files. The index is
read once per gallery version from four columns and holds about 60 bytes per face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import F32, I64, DataFileName, corpus_key, references
from facelake.lake.lake import Lake
from facelake.lake.row_reader import pick_scattered
from facelake.lake.tables import Snapshot
from facelake.stages.gallery.face_keys import IdNumbers
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.versions import Gallery

DISPLAYED = ("face_id", "image_id", "content_sha256", "box", "quality", "covers", "corpus_file", "corpus_row")
"""columns of table `faces` with which a face is displayed; without its embedding"""
_ADMITTED = ("image_id", "source_id", "subject_ref", "corpus_file", "admitted", "purpose", "content_sha256")
_PHOTO = ("image_id", "corpus_file", "captured_at")


@dataclass(frozen=True, slots=True)
class FaceIndex:
    """Faces sorted by identity: those of identity i are at starts[i]..starts[i+1]."""

    names: pa.Array
    """(identities,) identity ids"""
    starts: I64
    face_ids: pa.Array
    """(n,) of type large_string"""
    score: F32
    """(n,) similarity to the identity's template when the face was assigned to it"""
    how: pa.DictionaryArray
    """(n,) how the face was assigned; a few distinct values"""
    file: I64
    """(n,) number in `files`; -1 where the face is no longer in the table"""
    row: I64
    files: tuple[str, ...]

    @classmethod
    def of(cls, lake: Lake, gallery: Gallery) -> FaceIndex:
        """Read the memberships of a gallery and the row positions of its faces."""
        members = gallery.read("memberships", ["face_id", "identity_id", "score", "how"])
        names, code = _encoded(members["identity_id"])
        order = np.argsort(code, kind="stable")
        # all face ids as one array: of type string it would end at 2 GiB, which is 67 million faces
        ids = members["face_id"].cast(pa.large_string()).combine_chunks().take(pa.array(order))
        starts = np.searchsorted(code[order], np.arange(len(names) + 1)).astype(np.int64)
        parts = list(lake["faces"].parts(["face_id"]))
        column = pa.chunked_array([chunk for _, rows in parts for chunk in rows[0].chunks], pa.string())
        counts = [rows.num_rows for _, rows in parts]
        file = np.repeat(np.arange(len(parts)), counts)
        row = np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in counts)])
        at = IdNumbers.of(column, f"{lake.uri}/faces").find(members["face_id"])[order]
        exists = at >= 0
        at = np.where(exists, at, 0)[: len(at) if len(row) else 0]
        no_row = np.full(len(ids), -1, np.int64)
        hows, how = _encoded(members["how"])
        return cls(
            names,
            starts,
            ids,
            members["score"].to_numpy()[order],
            pa.DictionaryArray.from_arrays(pa.array(how[order].astype(np.int32)), hows),
            np.where(exists, file[at], -1) if len(at) else no_row,
            row[at] if len(at) else no_row,
            tuple(item.path for item, _ in parts),
        )

    def of_identity(self, identity: str) -> I64 | None:
        """Return the positions (m,) of an identity's faces by falling score; None for an unknown identity."""
        number = pc.index(self.names, identity).as_py()
        if number < 0:
            return None
        at = np.arange(self.starts[number], self.starts[number + 1])
        return at[np.argsort(-self.score[at], kind="stable")]

    def present(self, at: I64) -> I64:
        """Return those of positions (m,) whose faces still exist, in the same order."""
        return at[self.file[at] >= 0]

    def faces(self, lake: Lake, at: I64, columns: Sequence[str] = DISPLAYED) -> pa.Table:
        """Return the rows of the faces table at positions (m,) of faces that exist, in that order."""
        return pick_scattered(lake.store, "faces", self.files, self.file[at], self.row[at], columns)


def _encoded(column: pa.ChunkedArray) -> tuple[pa.Array, I64]:
    """The distinct strings of a column in the order of their first rows, and the number of each row's (n,)."""
    chunks = column.dictionary_encode().chunks  # all have one dictionary
    names = chunks[-1].dictionary if chunks else pa.array([], pa.string())
    return names, np.concatenate([np.zeros(0, np.int64), *(chunk.indices.to_numpy() for chunk in chunks)])


@dataclass(frozen=True, slots=True)
class ReviewableIdentities:
    """The active identities of a gallery version that may be used for one purpose, and the positions of their rows."""

    place: dict[str, int]
    names: pa.ChunkedArray
    """(n,) identity ids, in the order of `place`"""
    size: I64
    """(n,) faces"""
    first_version: I64
    """(n,) gallery version that created the identity"""
    file: I64
    row: I64
    files: tuple[str, ...]
    merged: dict[str, str]
    """identities that were merged: the identity that each was merged into"""

    @classmethod
    def of(cls, gallery: Gallery, purpose: str) -> ReviewableIdentities:
        """Read the ids, states, sizes and purposes of the identities."""
        table = gallery.lake["identities"]
        snapshot = table.snapshot(gallery.row["identities_version"])
        place: dict[str, int] = {}
        merged: dict[str, str] = {}
        file, row = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        chosen: list[pa.Table] = []
        base = 0
        kept = ["identity_id", "size", "first_version"]
        columns = [*kept, "status", "merged_into", "purposes"]
        for number, (_, rows) in enumerate(table.parts(columns, snapshot)):
            active = np.asarray(pc.equal(rows["status"], "active"))
            allowed = _lists_with(rows["purposes"], purpose)
            reviewable = np.flatnonzero(active & allowed)
            chosen.append(rows.select(kept).take(pa.array(reviewable)))
            names = chosen[-1]["identity_id"].to_pylist()
            place.update(zip(names, range(base, base + len(names)), strict=True))
            file.append(np.full(len(reviewable), number))
            row.append(reviewable)
            base += len(reviewable)
            gone = rows.filter(pc.is_valid(rows["merged_into"])).select(["identity_id", "merged_into"])
            merged.update(zip(*(column.to_pylist() for column in gone.columns), strict=True))
        files = tuple(item.path for item in snapshot.files)
        empty = pa.schema([("identity_id", pa.string()), ("size", pa.int64()), ("first_version", pa.int64())])
        facts = pa.concat_tables([empty.empty_table(), *chosen])
        size, first = (np.asarray(facts[name].to_numpy(), np.int64) for name in ("size", "first_version"))
        where = np.concatenate(file), np.concatenate(row), files
        return cls(place, facts["identity_id"], size, first, *where, merged)

    def templates(self, lake: Lake, names: list[str]) -> F32:
        """Return the templates (n, dim) of reviewable identities."""
        at = np.array([self.place[name] for name in names], np.int64)
        rows = pick_scattered(lake.store, "identities", self.files, self.file[at], self.row[at], ["prototype"])
        return matrix_of(rows["prototype"], len(rows["prototype"][0]))


def _lists_with(column: pa.ChunkedArray, value: str) -> np.ndarray:
    """Return whether each list (n,) contains a value; a null does not."""
    lists = column.combine_chunks()
    hit = np.asarray(pc.equal(pc.list_flatten(lists), value).fill_null(False))
    out = np.zeros(len(lists), bool)
    out[np.asarray(pc.list_parent_indices(lists))[hit]] = True
    return out


def admissions_of_faces(lake: Lake, admissions: Snapshot, faces: pa.Table) -> pa.Table:
    """Return per face (n,) the admission of its photo, in the order of the faces; nulls where there is none."""
    return _rows_of_photos(lake, "admissions", admissions, faces, _ADMITTED)


def photos_of_subject(lake: Lake, subject: str, admissions: Snapshot | None = None) -> pa.Array:
    """Return the ids of the admitted photos that name a subject.

    Args:
        lake: the lake.
        subject: the subject's reference, as `contracts.reference` spells it.
        admissions: version of the table; None: the newest.
    """
    photos = [pa.array([], pa.string())]
    for _, rows in lake["admissions"].parts(["subject_ref", "image_id", "admitted"], admissions):
        named = pc.fill_null(pc.equal(references(rows["subject_ref"]), subject), False)
        photos.append(rows.filter(pc.and_(named, rows["admitted"]))["image_id"].combine_chunks())
    return pa.concat_arrays(photos)


def capture_times(lake: Lake, faces: pa.Table) -> pa.ChunkedArray:
    """Return per face (n,) when its photo was taken, in the order of the faces; null where that is not known."""
    return _rows_of_photos(lake, "images", lake["images"].snapshot(), faces, _PHOTO)["captured_at"]


def _rows_of_photos(lake: Lake, table: str, snapshot: Snapshot, faces: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return per face (n,) the row of its photo in a table with one row per photo; nulls where there is none.

    A data file of these tables holds the rows of one corpus file in its order, and its name contains that file's key.

    Args:
        table: admissions or images.
        snapshot: its version.
        faces: columns image_id, corpus_file and corpus_row.
        columns: to return; image_id and corpus_file are among them.
    """
    keys = {DataFileName.parse(item.path).corpus: number for number, item in enumerate(snapshot.files)}
    file = np.array([keys.get(corpus_key(name or ""), -1) for name in faces["corpus_file"].to_pylist()], np.int64)
    row = faces["corpus_row"].to_numpy().astype(np.int64)
    rows_of = np.array([item.rows for item in snapshot.files] or [0], np.int64)
    known = np.flatnonzero((file >= 0) & (row >= 0) & (row < rows_of[np.maximum(file, 0)]))
    paths = [item.path for item in snapshot.files]
    rows = pick_scattered(lake.store, table, paths, file[known], row[known], columns)
    back = np.full(len(file), -1, np.int64)
    back[known] = np.arange(len(known))
    rows = rows.take(pa.array(back, mask=back < 0))
    same = pc.and_(pc.equal(rows["image_id"], faces["image_id"]), pc.equal(rows["corpus_file"], faces["corpus_file"]))
    at = np.arange(len(file))
    return rows.take(pa.array(at, mask=~np.asarray(pc.fill_null(same, False))))
