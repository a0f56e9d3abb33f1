"""The checks of `verify` that read vectors: tasks of the engine, one per few data files.

They are nearly all that verify reads: 2 KB per face and per identity of 512 dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import columns
from facelake.cluster.array_codec import decode, encode
from facelake.contracts import I64
from facelake.engines.exchange import Block
from facelake.engines.scratch import scratch_dir
from facelake.engines.select_exchange import open_exchange
from facelake.lake.data_files import read_file
from facelake.lake.store import cached_store
from facelake.lake.tables import Snapshot
from facelake.stages.core.context import Context
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.vectors import embedding_matrix

_FILES_PER_TASK = 8
_THREADS = 8  # where this process runs the tasks: each holds one data file


@dataclass(frozen=True, slots=True)
class FaceFindings:
    """What the vectors and boxes of some faces show.

    Attributes:
        keys: (n,) keys of the face ids.
        bad_vectors: embeddings that are not finite unit vectors.
        bad_boxes: boxes without an area.
    """

    keys: I64
    bad_vectors: int
    bad_boxes: int


@dataclass(frozen=True)
class VectorTasks:
    """The tasks, as the engine's exchange calls them.

    Attributes:
        lake: URI of the lake.
        s3: the config's s3 section as JSON.
        table: faces or identities.
        paths: by task its data files.
    """

    lake: str
    s3: str
    table: str
    paths: tuple[tuple[str, ...], ...]

    def faces(self, number: int) -> Iterator[Block]:
        """Check the faces of a task's files."""
        for path in self.paths[number]:
            rows = self._read(path, ["face_id", "embedding", "box"])
            sound = embedding_matrix(rows["embedding"])[1]
            bad_boxes = rows.num_rows - _boxes_with_area(rows["box"])
            yield 0, encode(FaceFindings(columns.keys(rows["face_id"]), int((~sound).sum()), bad_boxes))

    def templates(self, number: int) -> Iterator[Block]:
        """Count the templates of active identities that are not finite unit vectors."""
        for path in self.paths[number]:
            rows = self._read(path, ["status", "prototype"])
            bad = _bad_templates(rows["prototype"].filter(pc.equal(rows["status"], "active")))
            yield 0, bad.to_bytes(8, "little")

    def _read(self, path: str, names: Sequence[str]) -> pa.Table:
        return read_file(cached_store(self.lake, self.s3), self.table, path, names)


def check_faces(context: Context) -> FaceFindings:
    """Check every face of the lake."""
    found = [decode(FaceFindings, body) for body in _run(context, "faces", context.lake["faces"].snapshot())]
    keys = np.concatenate([np.zeros(0, np.int64), *(part.keys for part in found)])
    return FaceFindings(keys, sum(part.bad_vectors for part in found), sum(part.bad_boxes for part in found))


def count_bad_templates(context: Context, snapshot: Snapshot) -> int:
    """Return how many templates of active identities are not finite unit vectors."""
    return sum(int.from_bytes(body, "little") for body in _run(context, "identities", snapshot))


def _run(context: Context, table: str, snapshot: Snapshot) -> list[bytes]:
    """Run a table's check on the engine: Spark on a cluster, else threads, since a local Spark gains nothing here."""
    paths = [file.path for file in snapshot.files]
    tasks = [tuple(paths[at : at + _FILES_PER_TASK]) for at in range(0, len(paths), _FILES_PER_TASK)]
    config, lake = context.config, context.lake
    work = VectorTasks(lake.uri, config.s3.model_dump_json(), table, tuple(tasks))
    threads = min(os.cpu_count() or 1, _THREADS)
    exchange = open_exchange(config.spark, 0, str(scratch_dir(lake.uri)), threads=threads)
    try:
        blocks = exchange.run(range(len(tasks)), work.faces if table == "faces" else work.templates)
    finally:
        exchange.close()
    return [body for _, body in blocks]


def _boxes_with_area(column: pa.ChunkedArray) -> int:
    """Return how many boxes (x0, y0, x1, y1) have a positive width and height."""
    four = column.filter(pc.fill_null(pc.equal(pc.list_value_length(column), 4), False))
    boxes = pc.list_flatten(four).to_numpy().reshape(-1, 4)
    return int(((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).sum())


def _bad_templates(column: pa.ChunkedArray) -> int:
    """Return how many templates are not finite unit vectors of one dimension."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    if not len(lengths):
        return 0
    if (lengths != lengths[0]).any() or not lengths[0]:
        return int((lengths != np.bincount(lengths).argmax()).sum()) or len(lengths)
    norm = np.linalg.norm(matrix_of(column, int(lengths[0])), axis=1)
    return int((~(np.abs(norm - 1) < 1e-3)).sum())
