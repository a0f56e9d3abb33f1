"""Moves outcomes to where their photos are now, and removes those of photos that lost their basis.

An outcome depends on the photo's content, on whom the grant covers and on the model. A photo that has no outcome takes
that of any photo with the same content and cover: itself in another corpus file or under another name, or a copy. Rows
that are moved are added in the transaction that removes them from their old place, one per table, so that a run that is
killed leaves each table either before or after the move.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import I64, Covers, DataFileName, Receipt, is_of_model
from facelake.distinct import distinct, union
from facelake.embed.pipeline import face_id
from facelake.lake.data_files import DataFile
from facelake.lake.row_reader import pick_scattered
from facelake.stages.admission.withdrawals import was_erased
from facelake.stages.core.context import Context
from facelake.stages.embedding.outcomes import reopen
from facelake.stages.embedding.progress import OUTCOMES, Decision, Missing, Progress, same_outcome
from facelake.stages.embedding.swept import DoomedRows, Swept, count_swept
from facelake.stages.gallery.purge import request_purge

_KEYS = ("corpus_file", "corpus_row", "image_id", "covers", "content_sha256")
_BATCH_PHOTOS = 20_000  # whose outcomes are in memory at a time


@dataclass(frozen=True, slots=True)
class Carried:
    """What was done, in photos."""

    swept: Swept
    """whose outcome was removed and not moved"""
    reused: Counter[str]
    """taken from a photo with the same content, as embed counts: embedded, rejected, faces, rejected_REASON"""
    taken: Counter[str]
    """photos that took an outcome: `moved`, their own, from another place of the corpus; or `reused`, that of another
    photo id with the same content
    """

    @property
    def photos(self) -> int:
        """Photos that took an outcome."""
        return self.reused["embedded"] + self.reused["rejected"]

    def __bool__(self) -> bool:
        return bool(self.swept.photos or self.photos)


def carry(context: Context) -> Carried:
    """Sweep and move; no outcome is written if every one is in its place.

    Progress rows of the corpus files concerned are removed first, so that a photo that is admitted again is embedded
    again, and one that is refused again is swept again.
    """
    progress = Progress(context)
    doomed = _Doomed(context, progress)
    sources = _Sources.of(context, progress)
    copies = _Copies(context, sources)
    for batch in _batches(progress.missing()) if len(sources) else ():
        copies.stage(batch)
    swept = doomed.lost(copies.identities())
    outdated = progress.outdated()
    if doomed.paths or outdated:
        context.check_lease()
        reopen(context, doomed.paths, outdated)
    if doomed.paths or copies.counts:
        context.check_lease()
        if swept.photos:
            request_purge(context)
        for name in OUTCOMES:
            adds, removes = doomed.rewritten(name)
            context.lake[name].commit([*copies.staged[name], *adds], removes)
    return Carried(swept, copies.counts, copies.taken)


class _Doomed:
    """Outcomes at a place where another photo, or none, is admitted now."""

    def __init__(self, context: Context, progress: Progress) -> None:
        self._context = context
        self.paths: set[str] = set()
        self._suppressed = context.lake.suppressed()
        self._rows: list[DoomedRows] = []
        self._keep: dict[str, list[tuple[DataFile, np.ndarray]]] = {name: [] for name in OUTCOMES}
        for name in OUTCOMES:
            for file in progress.suspects(name):
                self._check(progress, name, file)

    def _check(self, progress: Progress, name: str, file: DataFile) -> None:
        rows = self._context.lake[name].file(file, _KEYS)
        paths, numbers, *columns = (rows[column].to_pylist() for column in _KEYS)
        recorded = [Decision(i, c or Covers.EVERYONE, d or "") for i, c, d in zip(*columns, strict=True)]
        places = zip(paths, numbers, strict=True)
        keep = np.array([progress.allowed(*at) == was for at, was in zip(places, recorded, strict=True)], bool)
        if keep.all():
            return
        doomed = np.flatnonzero(~keep).tolist()
        self.paths.update(paths[row] for row in doomed)
        is_face = name == "faces" and is_of_model(file.path, self._context.model_digest)
        self._rows.append(
            DoomedRows(
                _hashes([f"{paths[row]}\t{numbers[row]}" for row in doomed]),
                _hashes(["\t".join(recorded[row]) for row in doomed]),
                _hashes([recorded[row].image_id for row in doomed]),
                np.full(len(doomed), is_face),
                np.array([self._is_erased(recorded[row].image_id) for row in doomed], bool),
            )
        )
        self._keep[name].append((file, keep))

    def _is_erased(self, image: str) -> bool:
        lake, purpose = self._context.lake, self._context.config.purpose
        return was_erased(lake, self._suppressed, [("image", image)], purpose)

    def lost(self, carried: np.ndarray) -> Swept:
        """Count the photos whose outcome is removed and not moved."""
        return count_swept(self._context.lake, self._rows, carried)

    def rewritten(self, name: str) -> tuple[list[Receipt], list[DataFile]]:
        """Stage what is kept of the files concerned; returns that, and the files."""
        table, adds = self._context.lake[name], []
        for file, keep in self._keep[name]:
            if keep.any():
                adds.append(table.stage(table.file(file).filter(pa.array(keep)), DataFileName.parse(file.path)))
        return adds, [file for file, _ in self._keep[name]]


@dataclass(frozen=True, slots=True)
class _Sources:
    """Rows of outcomes that photos without an outcome can take, sorted by hash: 24 bytes per row."""

    hashes: np.ndarray
    table: np.ndarray
    """number in OUTCOMES"""
    file: I64
    row: I64
    paths: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def of(cls, context: Context, progress: Progress) -> _Sources:
        """Find them; nothing is read if no photo lacks an outcome, or none has one."""
        paths = {name: [f.path for files in progress.files[name].values() for f in files] for name in OUTCOMES}
        empty = cls(np.zeros(0, np.uint64), np.zeros(0, np.int8), np.zeros(0, np.int64), np.zeros(0, np.int64), paths)
        if not any(paths.values()):
            return empty
        marks = [same_outcome(item.decisions) for item in progress.missing()]
        wanted = union(np.zeros(0, np.uint64), *marks)
        if not len(wanted):
            return empty
        parts: list[tuple[np.ndarray, ...]] = []
        taken = np.zeros(len(wanted), bool)
        for number, name in enumerate(OUTCOMES):
            table = context.lake[name]
            files = {file.path: file for file in table.snapshot().files}
            for at, path in enumerate(paths[name]):
                rows = table.file(files[path], _KEYS)
                hashes, chosen = _one_photo_each(rows, wanted, taken)
                parts.append((hashes, np.full(len(chosen), number, np.int8), np.full(len(chosen), at), chosen))
        hashes, tables, file, row = (np.concatenate(values) for values in zip(*parts, strict=True))
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], tables[order], file[order].astype(np.int64), row[order].astype(np.int64), paths)

    def rows_of(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For photos (n,) the positions of all their source rows, and per position the number of its photo."""
        start, end = np.searchsorted(self.hashes, hashes), np.searchsorted(self.hashes, hashes, "right")
        counts = end - start
        photo = np.repeat(np.arange(len(hashes)), counts)
        within = np.arange(len(photo)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(start, counts) + within, photo


def _one_photo_each(rows: pa.Table, wanted: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, row numbers) of wanted outcomes in a file: of each hash those of the first photo that has it.

    Marks in `taken` which of `wanted` (sorted) were found.
    """
    covers = pc.fill_null(rows["covers"], str(Covers.EVERYONE))
    texts = pc.binary_join_element_wise(pc.fill_null(rows["content_sha256"], ""), covers, "\t").to_pandas()
    hashes = pd.util.hash_array(texts.to_numpy(dtype=object), categorize=False)
    at = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    chosen = np.flatnonzero((wanted[at] == hashes) & ~taken[at])
    if not len(chosen):
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    numbers = rows["corpus_row"].to_numpy()[chosen]
    files = rows["corpus_file"].combine_chunks().dictionary_encode().indices.to_numpy()[chosen]
    _, first, group = np.unique(hashes[chosen], return_index=True, return_inverse=True)
    same = (numbers == numbers[first][group]) & (files == files[first][group])
    taken[at[chosen]] = True
    return hashes[chosen][same], chosen[same]


class _Copies:
    """Copies of outcomes for photos that lack one, staged per corpus file."""

    def __init__(self, context: Context, sources: _Sources) -> None:
        self._context, self._sources = context, sources
        self.staged: dict[str, list[Receipt]] = {name: [] for name in OUTCOMES}
        self.counts: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self._identities: list[np.ndarray] = [np.zeros(0, np.uint64)]

    def identities(self) -> np.ndarray:
        """Hashes of the decisions that have an outcome now."""
        return np.concatenate(self._identities)

    def stage(self, batch: list[Missing]) -> None:
        """Stage the outcomes of the batch's photos that have a source."""
        decisions = [decision for item in batch for decision in item.decisions]
        places = [(item.chunk.corpus_file, row) for item in batch for row in item.chunk.rows]
        first_rows = {item.chunk.corpus_file: item.chunk.row_start for item in reversed(batch)}
        position, photo = self._sources.rows_of(same_outcome(tuple(decisions)))
        done: set[int] = set()
        for number, name in enumerate(OUTCOMES):
            own = self._sources.table[position] == number
            rows, of_photo = self._read(name, position[own], photo[own], decisions)
            if not len(of_photo):
                continue
            done.update(of_photo.tolist())
            self._count(name, rows, len(distinct(of_photo)))
            own = {at for at, former in zip(of_photo, rows["image_id"].to_pylist(), strict=True)
                   if decisions[at].image_id == former}  # fmt: skip
            self.taken.update(moved=len(own), reused=len(distinct(of_photo)) - len(own))
            moved = _moved(rows, [decisions[at] for at in of_photo], [places[at] for at in of_photo])
            files = moved["corpus_file"].combine_chunks()
            for path in pc.unique(files).to_pylist():
                part = moved.filter(pc.equal(files, path))
                name_of = DataFileName.of_chunk(self._context.model_digest, path, first_rows[path])
                self.staged[name].append(self._context.lake[name].stage(part, name_of))
        self._identities.append(_hashes(["\t".join(decisions[at]) for at in sorted(done)]))

    def _count(self, name: str, rows: pa.Table, photos: int) -> None:
        if name == "faces":
            self.counts.update(embedded=photos, faces=rows.num_rows)
            return
        self.counts.update(rejected=photos)
        self.counts.update(f"rejected_{reason}" for reason in rows["reason"].to_pylist())

    def _read(
        self, name: str, position: np.ndarray, photo: np.ndarray, decisions: list[Decision]
    ) -> tuple[pa.Table, np.ndarray]:
        """The source rows, without those whose content only has the same hash; and the photo of each."""
        sources, table = self._sources, self._context.lake[name]
        file, row = sources.file[position], sources.row[position]
        rows = pick_scattered(table.store, name, sources.paths[name], file, row, table.schema.names)
        contents = rows["content_sha256"].to_pylist()
        same = np.array([decisions[at].content == c for at, c in zip(photo, contents, strict=True)], bool)
        return (rows, photo) if same.all() else (rows.filter(pa.array(same)), photo[same])


def _moved(rows: pa.Table, decisions: list[Decision], places: list[tuple[str, int]]) -> pa.Table:
    """Rows of outcomes (n,) under the id and place of another photo with the same content."""
    former = rows["image_id"].to_pylist()
    columns: dict[str, pa.Array] = {
        "image_id": pa.array([decision.image_id for decision in decisions], pa.string()),
        "corpus_file": pa.array([path for path, _ in places], pa.string()),
        "corpus_row": pa.array([row for _, row in places], pa.int64()),
    }
    if "face_id" in rows.column_names:
        ids = rows["face_id"].to_pylist()
        for at, decision in enumerate(decisions):
            if decision.image_id != former[at]:
                box = np.array(rows["box"][at].as_py(), np.float32)
                ids[at] = face_id(decision.image_id, decision.content, box, rows["model_digest"][at].as_py())
        columns["face_id"] = pa.array(ids, pa.string())
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    return rows


def _batches(missing: Iterator[Missing]) -> Iterator[list[Missing]]:
    batch: list[Missing] = []
    photos = 0
    for item in missing:
        if item.decisions:
            batch.append(item)
            photos += len(item.decisions)
        if photos >= _BATCH_PHOTOS:
            yield batch
            batch, photos = [], 0
    if batch:
        yield batch


def _hashes(texts: list[str]) -> np.ndarray:
    return pd.util.hash_array(np.array(texts, object), categorize=False) if texts else np.zeros(0, np.uint64)
