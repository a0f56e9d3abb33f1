"""The work of one embed worker: reads corpus rows, runs the pipeline, stages two files per chunk, returns receipts.

Does not depend on Ray, so that it also runs in a test, in a profiler or on a machine without an engine.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Protocol

from facelake.config import S3Section
from facelake.contracts import Chunk, ChunkReceipt, DataFileName, Outcome, Receipt, Reject
from facelake.embed import Opened, Pack, Pipeline, PipelineOptions, faces_table, open_opener, rejects_table
from facelake.embed.looks import SuppressedLooks
from facelake.embed.not_faces import Regions, without_marked
from facelake.lake.corpora.detect import CorpusSpec
from facelake.lake.corpora.opening import ImageSource, open_images
from facelake.lake.corpora.parquet import Corpus
from facelake.lake.data_files import stage
from facelake.lake.store import open_store

_Row = tuple[int, str, bytes]
"""corpus row, image_id, encoded bytes"""
WORKER_FAILED = "decoding it killed its worker twice"
"""`detail` of a reject row of such a photo; stored, so its wording stays"""
_BATCH_BYTES = 64 << 20  # encoded bytes after which a batch is closed


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a worker needs; sent once per actor."""

    pack: Pack
    options: PipelineOptions
    model_digest: str
    lake_uri: str
    corpus_uri: str
    s3: S3Section
    retracted: Mapping[str, str] = field(default_factory=dict)
    """names of withdrawn sets by the SHA-256 of their known photos"""
    looks: SuppressedLooks | None = field(default=None, repr=False)
    """the looks of erased photos; None: there are none"""
    not_faces: Regions = field(default_factory=dict)
    """what a reviewer marked as not a face"""
    corpus: CorpusSpec | None = None
    """how the photos are stored; None: Parquet files under `corpus_uri` as `import` writes them"""


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """Adjacent chunks of one corpus file, read in one pass; `failing` are rows that ended workers before."""

    chunks: tuple[Chunk, ...]
    failing: frozenset[int] = frozenset()
    attempt: int = 0


class BatchDecoder(Protocol):
    """Decodes batches of photos, in this process or in others."""

    ahead: int
    """number of batches that may be decoded ahead while an earlier one is embedded"""

    def begin(self, photos: Sequence[bytes]) -> Any:
        """Start decoding a batch of encoded photos; returns a handle for `end`."""
        ...

    def end(self, handle: Any) -> list[Opened]:
        """The decoded photos of a batch, in order."""
        ...


@dataclass(frozen=True, slots=True)
class _Batch:
    """Photos of one chunk that are embedded in one batch."""

    chunk: Chunk
    rows: Sequence[_Row]
    last: bool
    """whether it is the last batch of its chunk"""


class ChunkWorker:
    """Embeds chunks one after another, with the models loaded once."""

    def __init__(self, spec: WorkerSpec, decoder: BatchDecoder | None = None) -> None:
        self._spec = spec
        self._pipeline = Pipeline(spec.pack, spec.options, spec.retracted, spec.looks)
        self._decoder = decoder or open_opener(spec.options, spec.retracted)
        self._corpus: ImageSource = (
            open_images(spec.corpus, spec.lake_uri, spec.s3) if spec.corpus else Corpus(spec.corpus_uri, spec.s3)
        )
        self._store = open_store(spec.lake_uri, spec.s3)

    def run(self, task: ChunkTask) -> Iterator[ChunkReceipt]:
        """Yield one receipt per chunk, as soon as its files are staged."""
        pending: deque[tuple[_Batch, Any]] = deque()
        outcomes: list[Outcome] = []
        began = time.monotonic()

        def finish(batch: _Batch, handle: Any) -> Iterator[ChunkReceipt]:
            nonlocal outcomes, began
            opened = self._decoder.end(handle)
            outcomes += self._outcomes(batch.rows, opened, task.failing, batch.chunk.named_only)
            if batch.last:
                yield self._stage(batch.chunk, outcomes, time.monotonic() - began)
                outcomes, began = [], time.monotonic()

        for batch in self._batches(task):
            photos = [data for row, _, data in batch.rows if row not in task.failing]
            pending.append((batch, self._decoder.begin(photos)))
            if len(pending) > self._decoder.ahead:
                yield from finish(*pending.popleft())
        while pending:
            yield from finish(*pending.popleft())

    def _batches(self, task: ChunkTask) -> Iterator[_Batch]:
        """Yield the task's photos in batches, limited by `batch_photos` and bytes; each chunk ends with a `last`
        batch.
        """
        chunks, most = task.chunks, self._spec.options.batch_photos
        needed = frozenset(row for chunk in chunks for row in chunk.rows)
        photos = self._corpus.images(chunks[0].corpus_file, chunks[0].row_start, chunks[-1].row_end, needed)
        ahead = next(photos, None)
        for chunk in chunks:
            rows: list[_Row] = []
            batch_bytes, wanted = 0, frozenset(chunk.rows)
            while ahead is not None and ahead[0] < chunk.row_end:
                if len(rows) >= most or batch_bytes >= _BATCH_BYTES:
                    yield _Batch(chunk, rows, last=False)
                    rows, batch_bytes = [], 0
                if ahead[0] in wanted:
                    rows.append(ahead)
                    batch_bytes += len(ahead[2])
                ahead = next(photos, None)
            yield _Batch(chunk, rows, last=True)

    def try_row(self, corpus_file: str, row: int) -> None:
        """Embed one row and discard the result, to find out whether the row ends the worker."""
        for _ in self._pipeline.run(self._corpus.images(corpus_file, row, row + 1)):
            pass

    def _outcomes(
        self,
        rows: Sequence[_Row],
        opened: Sequence[Opened],
        failing: frozenset[int],
        named_only: frozenset[int],
    ) -> list[Outcome]:
        healthy = (row for row in rows if row[0] not in failing)
        done = {o.row: o for o in self._pipeline.run(healthy, named_only, opened)}
        for row, ident, _ in rows:
            if row in failing:
                done[row] = Outcome(row, ident, "", 0, 0, (), Reject.WORKER_DIED, WORKER_FAILED)
        marked = self._spec.not_faces
        return [without_marked(_with_content(done[row], data), marked) for row, _, data in rows]

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
            runtimes=tuple(choice.summary for choice in self._pipeline.choices),
            complete=not chunk.contents or [o.content_sha256 for o in outcomes] == list(chunk.contents),
        )


def _with_content(outcome: Outcome, data: bytes) -> Outcome:
    """An outcome with the digest of the photo, which one that was not decoded lacks."""
    return outcome if outcome.content_sha256 else replace(outcome, content_sha256=sha256(data).hexdigest())


def tasks_of(chunks: Iterable[Chunk], per_task: int) -> Iterator[ChunkTask]:
    """Bundle adjacent chunks of one corpus file into tasks of at most `per_task` chunks."""
    bundle: list[Chunk] = []
    for chunk in chunks:
        if bundle and (len(bundle) >= per_task or chunk.corpus_file != bundle[0].corpus_file):
            yield ChunkTask(tuple(bundle))
            bundle = []
        bundle.append(chunk)
    if bundle:
        yield ChunkTask(tuple(bundle))
