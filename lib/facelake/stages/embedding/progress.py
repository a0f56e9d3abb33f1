"""The progress of embedding, read from the tables.

Progress is recorded per chunk of corpus rows. A chunk is closed by a row in `chunks` with the digest of its admitted
photos (id, content, and whom the grant covers), committed after `faces` and `rejects`. A crash between the three
commits leaves the chunk open; the rows that have an outcome already are then read from the tables themselves, so that
no outcome is lost or duplicated.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import Chunk, Covers, DataFileName, corpus_key
from facelake.lake.data_files import DataFile, read_file
from facelake.stages.core.context import Context

OUTCOMES = ("faces", "rejects")
_DECISION = ["image_id", "corpus_file", "admitted", "covers", "content_sha256"]
_LANDED = ["corpus_row", "image_id", "covers", "content_sha256"]


class Decision(NamedTuple):
    """An admitted photo: equal decisions have equal outcomes."""

    image_id: str
    covers: str
    content: str


@dataclass(frozen=True, slots=True)
class EmbedPlan:
    """The work that embed would do."""

    chunks: int
    images: int
    """photos to embed, each content once"""
    waiting: int
    """photos that take the outcome of another one with the same content"""
    done_images: int
    to_close: tuple[Chunk, ...]
    """open chunks whose rows all have an outcome, so that only their row in `chunks` is missing"""


Recorded = tuple[str, int, int, str]
"""a row of `chunks`: corpus file, first row, end, digest of the admitted photos"""


class Missing(NamedTuple):
    """Admitted rows of one chunk without an outcome."""

    chunk: Chunk
    decisions: tuple[Decision, ...]


class Progress:
    """The state of embedding at one moment."""

    def __init__(self, context: Context) -> None:
        self._context, self._lake = context, context.lake
        self._admissions = self._lake["admissions"].snapshot()
        chunks = self._lake["chunks"].read(["corpus_file", "row_start", "row_end", "admitted_digest", "model_digest"])
        chunks = chunks.filter(pc.equal(chunks["model_digest"], context.model_digest)).drop_columns(["model_digest"])
        self._recorded: set[Recorded] = set(zip(*(column.to_pylist() for column in chunks.columns), strict=True))
        digests = Counter(row[:3] for row in self._recorded)
        self._closed = {row for row in self._recorded if digests[row[:3]] == 1}  # of two, one would be of former photos
        self.files = {name: self._by_corpus_file(name, context.model_digest) for name in OUTCOMES}
        # of one corpus file; all of them would take 250 bytes per photo
        self._allowed: tuple[str, dict[int, Decision]] = ("", {})

    def _by_corpus_file(self, table: str, digest: str | None = None) -> dict[str, list[DataFile]]:
        """Data files of one model (None: of all) by the corpus key in their names."""
        files: dict[str, list[DataFile]] = defaultdict(list)
        for file in self._lake[table].snapshot().files:
            name = DataFileName.parse(file.path)
            if digest is None or name.is_of_model(digest):
                files[name.corpus].append(file)
        return files

    def state(self) -> list[object]:
        """The inputs on which the stage's result depends."""
        return [self._admissions.digest_paths(), self._context.model_digest]

    def _corpus_files(self, chosen: set[str] | None = None) -> Iterator[tuple[str, list[Decision | None]]]:
        """Yield (path, decisions) of the chosen corpus files, or of all: per row the admitted photo, or None."""
        keys = None if chosen is None else set(map(corpus_key, chosen))
        files = [
            file for file in self._admissions.files if keys is None or DataFileName.parse(file.path).corpus in keys
        ]
        for _, rows in self._lake["admissions"].parts(_DECISION, replace(self._admissions, files=tuple(files))):
            if rows.num_rows:
                yield rows["corpus_file"][0].as_py(), _decided(rows)

    def _chunks(self, decided: list[Decision | None]) -> Iterator[tuple[int, int, list[int], str]]:
        """Yield (first row, end, admitted rows, their digest) for each chunk of one corpus file."""
        size = self._context.config.embed.chunk_rows
        for start in range(0, len(decided), size):
            end = min(start + size, len(decided))
            rows = {row: decision for row in range(start, end) if (decision := decided[row])}
            body = "\n".join(f"{row}\t" + "\t".join(decision) for row, decision in rows.items())
            yield start, end, list(rows), hashlib.sha256(body.encode()).hexdigest()[:24]

    @cached_property
    def _grid(self) -> dict[str, tuple[tuple[int, int, str], ...]]:
        """(first row, end, digest) of each chunk by corpus file, for the photos admitted now."""
        return {
            path: tuple((start, end, digest) for start, end, _, digest in self._chunks(decided))
            for path, decided in self._corpus_files()
        }

    @cached_property
    def _open(self) -> set[str]:
        """Corpus files with a chunk that is not closed for the photos admitted now."""
        return {path for path, grid in self._grid.items() if any((path, *chunk) not in self._closed for chunk in grid)}

    def outdated(self) -> set[Recorded]:
        """Rows of `chunks` for other photos than those admitted now, in corpus files with open chunks.

        They must go before outcomes are added: once the same photos are the admitted ones again, such a row would say
        that all outcomes are theirs, and those of a person who withdrew again would stay.
        """
        current = {(path, *chunk) for path in self._open for chunk in self._grid[path]} & self._closed
        return {row for row in self._recorded if row[0] in self._open and row not in current}

    def missing(self) -> Iterator[Missing]:
        """Yield chunks that are not closed for the photos admitted now, with the rows that have no outcome yet."""
        for path, decided in self._corpus_files(self._open):
            landed: set[int] | None = None
            for start, end, rows, digest in self._chunks(decided):
                if (path, start, end, digest) in self._closed:
                    continue
                landed = self._landed(path, decided) if landed is None else landed
                decisions = {row: d for row in rows if row not in landed and (d := decided[row])}
                named = frozenset(row for row, d in decisions.items() if d.covers == Covers.NAMED)
                contents = tuple(d.content for d in decisions.values())
                chunk = Chunk(path, start, end, tuple(decisions), len(rows), digest, named, contents)
                yield Missing(chunk, tuple(decisions.values()))

    def _landed(self, path: str, decided: list[Decision | None]) -> set[int]:
        """Rows of a corpus file that have an outcome of the photo that is admitted there now."""
        rows: set[int] = set()
        for table, files in self.files.items():
            for file in files.get(corpus_key(path), ()):
                part = read_file(self._lake.store, table, file.path, _LANDED)
                for row, ident, covers, content in zip(*(column.to_pylist() for column in part.columns), strict=True):
                    decision = decided[row] if 0 <= row < len(decided) else None
                    if decision and decision == (ident, covers or Covers.EVERYONE, content):
                        rows.add(row)
        return rows

    @cached_property
    def _first(self) -> np.ndarray:
        """Per missing row, in order: whether it is the first with its content and cover, and thus to be embedded."""
        marks = [same_outcome(item.decisions) for item in self.missing()]
        hashes = np.concatenate([np.zeros(0, np.uint64), *marks])
        first = np.zeros(len(hashes), bool)
        first[np.unique(hashes, return_index=True)[1]] = True
        return first

    def _divided(self) -> Iterator[tuple[Chunk, int]]:
        """Yield each open chunk with only the rows that are to be embedded, and the number of rows that wait."""
        at = 0
        for chunk, _ in self.missing():
            first = self._first[at : at + len(chunk.rows)]
            at += len(chunk.rows)
            if first.all():
                yield chunk, 0
                continue
            rows = tuple(row for row, chosen in zip(chunk.rows, first, strict=True) if chosen)
            contents = tuple(text for text, chosen in zip(chunk.contents, first, strict=True) if chosen)
            yield replace(chunk, rows=rows, contents=contents, closes=False), int((~first).sum())

    def open_chunks(self) -> Iterator[Chunk]:
        """Chunks with rows to compute, in corpus order."""
        return (chunk for chunk, _ in self._divided() if chunk.rows)

    def plan(self) -> EmbedPlan:
        """Count the open work."""
        chunks = images = waiting = 0
        to_close = []
        for chunk, later in self._divided():
            waiting += later
            if chunk.rows:
                chunks, images = chunks + 1, images + len(chunk.rows)
            elif not later:
                to_close.append(chunk)
        rows = self._lake["admissions"].parts(["admitted"], self._admissions)
        admitted = sum(pc.sum(part["admitted"]).as_py() or 0 for _, part in rows)
        return EmbedPlan(chunks, images, waiting, admitted - images - waiting, tuple(to_close))

    @cached_property
    def _unchanged(self) -> set[str]:
        """Keys of the corpus files without open chunks."""
        return {corpus_key(path) for path in self._grid.keys() - self._open}

    def suspects(self, table: str) -> list[DataFile]:
        """Data files that may contain rows that are no longer admitted: of corpus files with open chunks, or of
        removed ones.
        """
        unchanged = self._unchanged
        current = {file for files in self.files[table].values() for file in files}
        all_models = self._by_corpus_file(table).items()  # another model's outcomes need a basis too
        return [file for key, files in all_models for file in files if key not in unchanged or file not in current]

    @cached_property
    def _decisions(self) -> dict[str, list[DataFile]]:
        """Files of decisions by corpus key; only a sweep needs them."""
        files: dict[str, list[DataFile]] = defaultdict(list)
        for file in self._admissions.files:
            files[DataFileName.parse(file.path).corpus].append(file)
        return files

    def allowed(self, path: str, row: int) -> Decision | None:
        """The photo admitted at a corpus row; None if none is."""
        if self._allowed[0] != path:
            admitted: dict[int, Decision] = {}
            for file in self._decisions[corpus_key(path)]:
                decided = _decided(self._lake["admissions"].file(file, _DECISION))
                admitted.update({number: decision for number, decision in enumerate(decided) if decision})
            self._allowed = (path, admitted)
        return self._allowed[1].get(row)


def same_outcome(decisions: tuple[Decision, ...]) -> np.ndarray:
    """A 64-bit hash (n,) of content and cover, on which the outcome of a photo depends beside the model."""
    texts = np.array([f"{d.content or d.image_id}\t{d.covers}" for d in decisions], object)  # never share no content
    return pd.util.hash_array(texts, categorize=False) if len(texts) else np.zeros(0, np.uint64)


def _decided(rows: pa.Table) -> list[Decision | None]:
    """The admitted photo of every row of a corpus file's decisions; None where there is none."""
    columns = (rows[name].to_pylist() for name in ("image_id", "admitted", "covers", "content_sha256"))
    return [Decision(i, c or Covers.EVERYONE, d or "") if a else None for i, a, c, d in zip(*columns, strict=True)]
