"""What one embed worker does with a chunk: read corpus rows, run the pipeline, stage two files, return a receipt.

Knows no Ray, so that it also runs in a test, a profiler or on a machine without an engine.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from facelake.config import S3Section
from facelake.contracts import Chunk, ChunkReceipt, DataFileName, Outcome, Receipt, Reject
from facelake.embed import Opened, Pack, Pipeline, PipelineOptions, faces_table, open_opener, rejects_table
from facelake.lake.corpus import Corpus
from facelake.lake.store import open_store
from facelake.lake.tables import stage

_Row = tuple[int, str, bytes]
"""corpus row, image_id, encoded bytes"""
KILLED = "decoding it killed its worker twice"
_BATCH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a worker needs; travels once per actor."""

    pack: Pack
    options: PipelineOptions
    model_digest: str
    lake_uri: str
    corpus_uri: str
    s3: S3Section
    retracted: Mapping[str, str] = field(default_factory=dict)
    """names of withdrawn sets by the SHA-256 of photos that are known to be theirs"""


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """Neighbouring chunks of one corpus file, read in one pass; `condemned` rows killed workers before."""

    chunks: tuple[Chunk, ...]
    condemned: frozenset[int] = frozenset()
    attempt: int = 0


class Opening(Protocol):
    """Decodes batches of photos, here or elsewhere."""

    ahead: int
    """batches that may be under way while the one before them is embedded"""

    def begin(self, photos: Sequence[bytes]) -> Any:
        """Start on encoded photos; returns a handle for `end`."""
        ...

    def end(self, handle: Any) -> list[Opened]:
        """The photos, in order."""
        ...


@dataclass(frozen=True, slots=True)
class _Batch:
    """Photos of one chunk that are embedded together."""

    chunk: Chunk
    rows: Sequence[_Row]
    last: bool
    """of its chunk"""


class ChunkWorker:
    """Runs chunks one after another; holds the models."""

    def __init__(self, spec: WorkerSpec, opening: Opening | None = None) -> None:
        self._spec = spec
        self._pipeline = Pipeline(spec.pack, spec.options, spec.retracted)
        self._opening = opening or open_opener(spec.options, spec.retracted)
        self._corpus = Corpus(spec.corpus_uri, spec.s3)
        self._store = open_store(spec.lake_uri, spec.s3)

    def run(self, task: ChunkTask) -> Iterator[ChunkReceipt]:
        """One receipt per chunk, as soon as its files are staged."""
        under_way: deque[tuple[_Batch, Any]] = deque()
        outcomes: list[Outcome] = []
        began = time.monotonic()

        def finish(batch: _Batch, handle: Any) -> Iterator[ChunkReceipt]:
            nonlocal outcomes, began
            opened = self._opening.end(handle)
            outcomes += self._outcomes(batch.rows, opened, task.condemned, batch.chunk.named_only)
            if batch.last:
                yield self._stage(batch.chunk, outcomes, time.monotonic() - began)
                outcomes, began = [], time.monotonic()

        for batch in self._batches(task):
            photos = [data for row, _, data in batch.rows if row not in task.condemned]
            under_way.append((batch, self._opening.begin(photos)))
            if len(under_way) > self._opening.ahead:
                yield from finish(*under_way.popleft())
        while under_way:
            yield from finish(*under_way.popleft())

    def _batches(self, task: ChunkTask) -> Iterator[_Batch]:
        """The task's photos, at most `batch_photos` and some bytes at once; each chunk has a last batch."""
        chunks, most = task.chunks, self._spec.options.batch_photos
        photos = self._corpus.images(chunks[0].corpus_file, chunks[0].row_start, chunks[-1].row_end)
        ahead = next(photos, None)
        for chunk in chunks:
            rows: list[_Row] = []
            held, wanted = 0, frozenset(chunk.rows)
            while ahead is not None and ahead[0] < chunk.row_end:
                if len(rows) >= most or held >= _BATCH_BYTES:
                    yield _Batch(chunk, rows, last=False)
                    rows, held = [], 0
                if ahead[0] in wanted:
                    rows.append(ahead)
                    held += len(ahead[2])
                ahead = next(photos, None)
            yield _Batch(chunk, rows, last=True)

    def try_row(self, corpus_file: str, row: int) -> None:
        """Embed one row and forget the result: does it kill the worker?"""
        for _ in self._pipeline.run(self._corpus.images(corpus_file, row, row + 1)):
            pass

    def _outcomes(
        self,
        rows: Sequence[_Row],
        opened: Sequence[Opened],
        condemned: frozenset[int],
        named_only: frozenset[int],
    ) -> list[Outcome]:
        left = (row for row in rows if row[0] not in condemned)
        done = {o.row: o for o in self._pipeline.run(left, named_only, opened)}
        for row, ident, _ in rows:
            if row in condemned:
                done[row] = Outcome(row, ident, "", 0, 0, (), Reject.WORKER_DIED, KILLED)
        return [done[row] for row, _, _ in rows]

    def _stage(self, chunk: Chunk, outcomes: Sequence[Outcome], seconds: float) -> ChunkReceipt:
        digest = self._spec.model_digest
        file_name = DataFileName.of_chunk(digest, chunk.corpus_file, chunk.row_start)
        faces = faces_table(outcomes, digest, chunk.corpus_file)
        rejects = rejects_table(outcomes, digest, chunk.corpus_file)
        staged: dict[str, Receipt | None] = {
            table: stage(self._store, table, data, file_name) if data.num_rows else None
            for table, data in (("faces", faces), ("rejects", rejects))
        }
        return ChunkReceipt(
            chunk,
            staged["faces"],
            staged["rejects"],
            embedded=sum(o.reject is None for o in outcomes),
            rejected=sum(o.reject is not None for o in outcomes),
            face_rows=sum(len(o.faces) for o in outcomes),
            reasons=dict(Counter(str(o.reject) for o in outcomes if o.reject)),
            seconds=seconds,
        )


def tasks_of(chunks: Iterable[Chunk], per_task: int) -> Iterator[ChunkTask]:
    """Bundle neighbouring chunks of one file into tasks of at most `per_task`."""
    held: list[Chunk] = []
    for chunk in chunks:
        if held and (len(held) >= per_task or chunk.corpus_file != held[0].corpus_file):
            yield ChunkTask(tuple(held))
            held = []
        held.append(chunk)
    if held:
        yield ChunkTask(tuple(held))
