"""Cluster on Spark: our own Python data source over the lake, and the neighbour join as Arrow in, Arrow out.

No JVM Delta and no hadoop-aws: readers and writers are Python, so `pip install` is the whole installation and
s3:// works on any cluster. Writers return receipts; the driver commits them in one Delta transaction.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql.datasource import (
    DataSource,
    DataSourceArrowWriter,
    DataSourceReader,
    InputPartition,
    WriterCommitMessage,
)

from facelake.cluster import Lists, join_list, union_topk
from facelake.config import S3Section, SparkSection
from facelake.contracts import TABLES, Receipt, embedding_matrix, face_keys
from facelake.errors import Retryable
from facelake.lake.lake import Lake
from facelake.lake.store import open_store
from facelake.lake.tables import Snapshot, read_file, stage

FORMAT = "facelake"
_LOG4J = Path(__file__).with_name("log4j2.properties")
_EDGES = "a long, b long, s float"
_SPREAD = "list int, key long, embedding binary"


def start_spark(section: SparkSection, app: str = "facelake") -> SparkSession:
    """A session on the configured master, with our data source registered.

    Raises:
        Retryable: the master does not answer or Java is missing.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    if section.master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.appName(app).master(section.master)
    conf = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": section.driver_memory,
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile=file:{_LOG4J}",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "20000",
        "spark.sql.shuffle.partitions": str(section.partitions or 8),
    }
    for key, value in (conf | section.conf).items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
    except Exception as err:
        what = f"Spark cannot be started: {str(err).splitlines()[0]}"
        raise Retryable(
            what, where=section.master, next_step="check spark.master, JAVA_HOME (Java 17+) and memory"
        ) from err
    session.dataSource.register(LakeSource)
    return session


@dataclass
class _FilePartition(InputPartition):
    path: str

    def __init__(self, path: str) -> None:
        self.path = path


@dataclass
class _Receipts(WriterCommitMessage):
    receipts: list[Receipt]


class LakeSource(DataSource):
    """`spark.read.format("facelake")` with options lake, s3 (JSON), table, version, columns (comma-separated)."""

    @classmethod
    def name(cls) -> str:
        return FORMAT

    def _columns(self) -> list[str]:
        return [name for name in str(self.options.get("columns", "")).split(",") if name]

    def schema(self) -> Any:
        from pyspark.sql.pandas.types import from_arrow_schema

        full = TABLES[self.options["table"]]
        return from_arrow_schema(pa.schema([full.field(n).remove_metadata() for n in self._columns() or full.names]))

    def reader(self, schema: Any) -> LakeReader:
        return LakeReader(dict(self.options), self._columns())

    def writer(self, schema: Any, overwrite: bool) -> LakeWriter:
        return LakeWriter(dict(self.options), overwrite)


def _s3(options: dict[str, str]) -> S3Section:
    return S3Section.model_validate_json(options.get("s3", "{}"))


class LakeReader(DataSourceReader):
    """One partition per data file of a pinned snapshot."""

    def __init__(self, options: dict[str, str], columns: list[str]) -> None:
        self._options, self._columns = options, columns

    def partitions(self) -> list[_FilePartition]:
        lake = Lake.open(self._options["lake"], _s3(self._options))
        snapshot = lake[self._options["table"]].snapshot(int(self._options["version"]))
        only = self._options.get("prefix", "")
        return [_FilePartition(file.path) for file in snapshot.files if file.path.startswith(only)]

    def read(self, partition: _FilePartition) -> Iterator[pa.RecordBatch]:
        store = open_store(self._options["lake"], _s3(self._options))
        table = read_file(store, self._options["table"], partition.path, self._columns or None)
        yield from table.to_batches(max_chunksize=20_000)


class LakeWriter(DataSourceArrowWriter):
    """Each task stages one file; the driver commits all of them, replacing the table on overwrite."""

    def __init__(self, options: dict[str, str], overwrite: bool) -> None:
        self._options, self._overwrite = options, overwrite

    def write(self, iterator: Iterator[pa.RecordBatch]) -> _Receipts:
        batches = [batch for batch in iterator if batch.num_rows]
        if not batches:
            return _Receipts([])
        store = open_store(self._options["lake"], _s3(self._options))
        return _Receipts([stage(store, self._options["table"], pa.Table.from_batches(batches))])

    def commit(self, messages: list[_Receipts | None]) -> None:
        table = Lake.open(self._options["lake"], _s3(self._options))[self._options["table"]]
        old = table.snapshot().files if self._overwrite else ()
        table.commit([receipt for message in messages if message for receipt in message.receipts], old)

    def abort(self, messages: list[_Receipts | None]) -> None:
        """Nothing to undo: staged files that no commit names are not part of the table."""


def _options(lake: Lake, table: str) -> dict[str, str]:
    return {"lake": lake.uri, "s3": lake.s3.model_dump_json(), "table": table}


def neighbours(
    session: SparkSession,
    lake: Lake,
    snapshot: Snapshot,
    prefix: str,
    lists: Lists,
    probes: int,
    k: int,
    floor: float,
) -> pa.Table:
    """The neighbour pairs (a, b: face keys; s: similarity) of a snapshot's faces in files that start with prefix."""
    source = session.read.format(FORMAT).options(**_options(lake, "faces"))
    faces = source.option("version", str(snapshot.version)).option("prefix", prefix)
    frame = faces.option("columns", "face_id,embedding").load()
    dim = lists.centroids.shape[1]

    def keyed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            table = pa.Table.from_batches([batch])
            vectors, sound = embedding_matrix(table["embedding"], dim)
            yield _spread(face_keys(table["face_id"])[sound], vectors[sound], lists, probes)

    return _join(frame.mapInArrow(keyed, _SPREAD), lists, k, floor)


def neighbours_of_files(
    session: SparkSession, files: list[tuple[str, int]], lists: Lists, probes: int, k: int, floor: float
) -> pa.Table:
    """The same for Parquet files (path, rows) with fixed-size-list embeddings; keys are row numbers over all files."""
    offsets = np.cumsum([0, *(rows for _, rows in files)]).tolist()
    plan = [(path, offset) for (path, _), offset in zip(files, offsets, strict=False)]
    frame = session.createDataFrame(plan, "path string, offset long").repartition(len(plan))

    def keyed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for item in batch.to_pylist():
                yield from _spread_file(item["path"], item["offset"], lists, probes)

    return _join(frame.mapInArrow(keyed, _SPREAD), lists, k, floor)


def _spread_file(path: str, first: int, lists: Lists, probes: int) -> Iterator[pa.RecordBatch]:
    for batch in pq.ParquetFile(path).iter_batches(20_000, columns=["embedding"]):
        column = batch.column(0)
        raw = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), -1)
        vectors, sound = normalised(raw)
        yield _spread((first + np.arange(len(column)))[sound], vectors[sound], lists, probes)
        first += len(column)


def normalised(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows (n, dim) float32, and which rows could be normalised (finite, not zero); others are zero."""
    with np.errstate(invalid="ignore", over="ignore"):
        norm = np.linalg.norm(raw, axis=1)
        sound = np.isfinite(norm) & (norm > 1e-6)
    vectors = np.zeros_like(raw)
    vectors[sound] = raw[sound] / norm[sound, None]
    return vectors, sound


def _spread(keys: np.ndarray, vectors: np.ndarray, lists: Lists, probes: int) -> pa.RecordBatch:
    """A row per face and list it belongs to; half precision at rest."""
    homes = lists.assign(vectors, probes)
    take = np.repeat(np.arange(len(keys)), homes.shape[1])
    dim = lists.centroids.shape[1]
    body = np.ascontiguousarray(vectors.astype("<f2")[take])
    offsets = pa.py_buffer(np.arange(len(take) + 1, dtype=np.int32) * (2 * dim))
    packed = pa.Array.from_buffers(pa.binary(), len(take), [None, offsets, pa.py_buffer(body)])
    return pa.RecordBatch.from_arrays(
        [pa.array(homes.ravel()), pa.array(keys[take]), packed], names=["list", "key", "embedding"]
    )


def _join(spread: Any, lists: Lists, k: int, floor: float) -> pa.Table:
    """Compare inside each list, then keep each face's best over its lists."""
    dim = lists.centroids.shape[1]

    def join(table: pa.Table) -> pa.Table:
        vectors, _ = embedding_matrix(table["embedding"], dim)
        return _triples(*join_list(table["key"].to_numpy(), vectors, k, floor))

    def union(table: pa.Table) -> pa.Table:
        a, b, s = (table[name].to_numpy() for name in ("a", "b", "s"))
        return _triples(*union_topk(a, b, s, k))

    pairs = spread.groupBy("list").applyInArrow(join, _EDGES)
    if len(lists.centroids) > 1:
        buckets = max(1, len(lists.centroids) // 64)
        bucketed = pairs.selectExpr("a", "b", "s", f"a % {buckets} AS bucket")
        pairs = bucketed.groupBy("bucket").applyInArrow(union, _EDGES)
    found: pa.Table = pairs.toArrow()
    return found


def write_groups(session: SparkSession, lake: Lake, groups: pa.Table) -> None:
    """Replace the `groups` table through the data source's writer."""
    frame = session.createDataFrame(groups)
    frame.write.format(FORMAT).options(**_options(lake, "groups")).mode("overwrite").save()


def _triples(a: np.ndarray, b: np.ndarray, s: np.ndarray) -> pa.Table:
    schema = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("s", pa.float32())])
    return pa.table([pa.array(a), pa.array(b), pa.array(s)], schema=schema)
