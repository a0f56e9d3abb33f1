"""Step scan: keys, quality, content hash and state of every row; exact duplicates become one face."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from facelake.cluster import columns
from facelake.contracts import I32, I64, U8, Bool
from facelake.engines.exchange import Block, Exchange
from facelake.errors import Corrupt
from facelake.stages.clustering.blocks import joined
from facelake.stages.clustering.step_results import Scanned
from facelake.stages.clustering.stored import NumberedRows, ScannedRows
from facelake.stages.clustering.work import Work

_EMPTY = ScannedRows(*(np.zeros(0, dtype) for dtype in ("i8", "i8", "f4", "i8", "u1")))


@dataclass(frozen=True, slots=True)
class ScanTasks:
    """Reads the rows of input files."""

    work: Work
    min_quality: float

    def scan(self, item: int) -> Iterator[Block]:
        """Write keys, photos, quality, content hash and state of a file's rows."""
        names = ["face_id", "image_id", "quality", "embedding"]
        rows = [self._rows(batch) for batch in self.work.source.batches(item, names)]
        self.work.write(joined([_EMPTY, *rows]), item)
        yield item, b""

    def _rows(self, batch: pa.RecordBatch) -> ScannedRows:
        vectors, state = columns.vectors(batch.column("embedding"), self.work.dim)
        quality = batch.column("quality").to_numpy(zero_copy_only=False).astype(np.float32)
        poor = (quality == 0) | (quality < self.min_quality)  # 0: embed could not confirm the landmarks
        state[(state == columns.State.SOUND) & poor] = columns.State.TOO_POOR
        faces, photos = columns.keys(batch.column("face_id")), columns.keys(batch.column("image_id"))
        return ScannedRows(faces, photos, np.nan_to_num(quality), columns.vector_keys(vectors), state)


def scan_faces(work: Work, exchange: Exchange, min_quality: float) -> Scanned:
    """Number the faces of all input files.

    Raises:
        Corrupt: two rows have the same face id.
    """
    exchange.run(work.files, ScanTasks(work, min_quality).scan)
    files = [work.read(ScannedRows, item) for item in work.files]
    rows = joined([_EMPTY, *files])
    order = np.argsort(rows.key, kind="stable")
    if (rows.key[order][1:] == rows.key[order][:-1]).any():
        raise Corrupt("two rows share a face id", where="the faces to cluster", next_step="remove the doubled rows")
    number, first = number_rows(order, rows.content, rows.state)
    ends = np.cumsum([len(file.key) for file in files])[:-1]
    for item, (of_file, leads) in enumerate(zip(np.split(number, ends), np.split(first, ends), strict=True)):
        work.write(NumberedRows(np.where(leads, of_file, -1).astype(np.int32), of_file), item)
    by_number = np.flatnonzero(first)[np.argsort(number[first], kind="stable")]
    states = np.bincount(rows.state, minlength=len(columns.State))
    return Scanned(int(first.sum()), states, rows.quality[by_number], rows.photo[by_number])


def number_rows(order: I64, content: I64, state: U8) -> tuple[I32, Bool]:
    """Number rows by their content.

    Args:
        order: (n,) the rows in the order of their keys.
        content: (n,) hash of each row's vector.
        state: (n,) State of each row.

    Returns:
        (n,) the number of each row, equal for exact duplicates, -1 if the vector is not sound; and (n,) whether a row
        is the first of its number.
    """
    sound = order[state[order] == columns.State.SOUND]
    _, first, inverse = np.unique(content[sound], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first), dtype=np.int32)
    number = np.full(len(order), -1, np.int32)
    number[sound] = rank[inverse]
    leader = np.zeros(len(order), bool)
    leader[sound[first]] = True
    return number, leader
