"""Cluster on Spark: blocks of bytes between tasks, and our own Python data source over the lake.

Tasks hand each other packed arrays, one row per block and not per face, so that the JVM moves a few thousand large
values. No JVM Delta and no hadoop-aws: reading and writing is Python's, so `pip install` is the whole installation
and s3:// works on any cluster. Writers return receipts; the driver commits them in one Delta transaction.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.datasource import (
    DataSource,
    DataSourceArrowWriter,
    DataSourceReader,
    InputPartition,
    WriterCommitMessage,
)

from facelake.config import S3Section, SparkSection
from facelake.contracts import TABLES, Receipt
from facelake.engines.exchange import Block, Emit, Reduce
from facelake.errors import ConfigError, Corrupt, FacelakeError, Refused, Retryable
from facelake.lake.lake import Lake
from facelake.lake.store import open_store
from facelake.lake.tables import read_file, stage

FORMAT = "facelake"
_LOG4J = Path(__file__).with_name("log4j2.properties")
_BLOCKS = "key long, block binary"
_SCHEMA = pa.schema([("key", pa.int64()), ("block", pa.binary())])
_BATCH_BYTES = 16 << 20
_RAISED = re.compile(r"facelake\.errors\.(\w+): (.+)")
_KINDS: dict[str, type[FacelakeError]] = {"Corrupt": Corrupt, "Refused": Refused, "ConfigError": ConfigError}


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
        "spark.driver.maxResultSize": "0",
        # Rows are blocks of up to some megabytes, and what a task gets was sized by us, not by Spark's guesses.
        "spark.sql.execution.arrow.maxRecordsPerBatch": "64",
        "spark.sql.adaptive.enabled": "false",
        # One thread per task: Spark counts cores by tasks.
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
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


class SparkExchange:
    """Exchange on a Spark session; see exchange.py."""

    def __init__(self, session: SparkSession, partitions: int = 0) -> None:
        self._session, self._partitions = session, partitions

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        """One Spark job: a task per item, then a shuffle per `then`."""
        if not items:
            return []
        names = list(items)

        def emit(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for row in batch.column(0).to_pylist():
                    yield from _batches(first(names[row]))

        slices = self._partitions or len(names)
        parallel = int(self._session.sparkContext.defaultParallelism)
        self._session.conf.set("spark.sql.shuffle.partitions", str(self._partitions or min(2 * keys, 32 * parallel)))
        frame = self._session.range(0, len(names), 1, min(slices, len(names))).mapInArrow(emit, _BLOCKS)
        for reduce in then:
            frame = frame.groupBy("key").applyInArrow(_grouped(reduce), _BLOCKS)
        try:
            table: pa.Table = frame.toArrow()
        except Exception as err:
            raise _told(err) from err
        return list(zip(table["key"].to_pylist(), table["block"].to_pylist(), strict=True))


def _told(err: Exception) -> FacelakeError:
    """What a task said before Spark wrapped it."""
    said = _RAISED.findall(str(err))
    if said:
        kind, text = said[-1]
        return _KINDS.get(kind, Retryable)(text, where="Spark task", next_step="see the message; then run again")
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"[A-Za-z_.]*(Error|Exception)\b", line)]
    what = f"a task failed: {(causes or lines or ['no reason given'])[-1][:300]}"
    return Retryable(what, where="Spark", next_step="run again: it goes on from the last step that was done")


def _grouped(reduce: Reduce) -> Any:
    def apply(key: tuple[pa.Scalar, ...], table: pa.Table) -> pa.Table:
        blocks = [value.as_buffer() for chunk in table["block"].chunks for value in chunk]
        made = list(_batches(reduce(int(key[0].as_py()), blocks)))
        return pa.Table.from_batches(made, _SCHEMA)

    return apply


def _batches(blocks: Any) -> Iterator[pa.RecordBatch]:
    keys: list[int] = []
    bodies: list[bytes] = []
    held = 0
    for key, body in blocks:
        keys.append(key)
        bodies.append(body)
        held += len(body)
        if held >= _BATCH_BYTES:
            yield pa.RecordBatch.from_arrays(
                [pa.array(keys, pa.int64()), pa.array(bodies, pa.binary())], schema=_SCHEMA
            )
            keys, bodies, held = [], [], 0
    if keys:
        yield pa.RecordBatch.from_arrays([pa.array(keys, pa.int64()), pa.array(bodies, pa.binary())], schema=_SCHEMA)
