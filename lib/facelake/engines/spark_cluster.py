"""Cluster on Spark: blocks of bytes between tasks.

Tasks hand each other packed arrays, one row per block and not per face, so that the JVM moves a few thousand large
values. No JVM Delta and no hadoop-aws: tasks read and stage files in Python, so `pip install` is the whole
installation and s3:// works on any cluster.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from facelake.config import SparkSection, package_dir
from facelake.engines.exchange import Block, Emit, Reduce
from facelake.errors import ConfigError, Corrupt, FacelakeError, Refused, Retryable

_BLOCKS = "key long, block binary"
_SCHEMA = pa.schema([("key", pa.int64()), ("block", pa.binary())])
_BATCH_BYTES = 16 << 20
_TASKS_PER_CORE = 32
# The JVM moves blocks and computes nothing: half of its CPU was the optimising compiler's.
_COMPILE_PLAINLY = "-XX:TieredStopAtLevel=1"
# On a cluster the daemon starts before `--py-files` are there.
_LOCAL = {"spark.python.daemon.module": "facelake.engines.spark_daemon"}
_RAISED = re.compile(r"facelake\.errors\.(\w+): (.+?)(?: \[([^\]]*)\])?\.(?: Next: (.+)\.)?$", re.MULTILINE)
_KINDS: dict[str, type[FacelakeError]] = {"Corrupt": Corrupt, "Refused": Refused, "ConfigError": ConfigError}


def start_spark(section: SparkSection, app: str = "facelake", scratch: str | None = None) -> SparkSession:
    """A session on the configured master; under spark-submit, what was submitted wins over the config.

    Args:
        scratch: folder for shuffles of a local master; a cluster's workers have their own.

    Raises:
        Retryable: the master does not answer or Java is missing.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    local = section.master.startswith("local")
    if local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    java = f"-Dlog4j2.configurationFile=file:{package_dir() / 'engines' / 'log4j2.properties'}"
    conf = {
        "spark.master": section.master,
        "spark.app.name": app,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": section.driver_memory,
        "spark.driver.extraJavaOptions": java,
        "spark.driver.maxResultSize": "0",
        # Rows are blocks of up to some megabytes, and what a task gets was sized by us, not by Spark's guesses.
        "spark.sql.execution.arrow.maxRecordsPerBatch": "64",
        "spark.sql.adaptive.enabled": "false",
        # A few thousand rows are not worth a compiler.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        # One thread per task: Spark counts cores by tasks.
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
    }
    if local:
        conf |= _LOCAL | {"spark.driver.extraJavaOptions": f"{java} {_COMPILE_PLAINLY}"}
        if scratch:
            conf["spark.local.dir"] = scratch
    builder = SparkSession.builder
    try:
        submitted = _submitted()
        for key, value in (conf | section.conf).items():
            if key not in submitted:
                builder = builder.config(key, value)
        return builder.getOrCreate()
    except Exception as err:
        what = f"Spark cannot be started: {str(err).splitlines()[0]}"
        raise Retryable(
            what, where=section.master, next_step="check spark.master, JAVA_HOME (Java 17+) and memory"
        ) from err


def _submitted() -> frozenset[str]:
    """Keys that spark-submit has set: it started this process and runs the JVM already."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return frozenset()
    SparkContext._ensure_initialized()
    return frozenset(key for key, _ in SparkConf().getAll())


class SparkExchange:
    """Exchange on a Spark session; see exchange.py."""

    def __init__(self, session: SparkSession, partitions: int = 0) -> None:
        self._session, self._partitions = session, partitions

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        """One Spark job: a task per item, or per some items where they are many, then a shuffle per `then`."""
        if not items:
            return []
        names = list(items)

        def emit(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            _freeze()
            for batch in batches:
                for row in batch.column(0).to_pylist():
                    yield from _batches(first(names[row]))

        most = _TASKS_PER_CORE * int(self._session.sparkContext.defaultParallelism)
        self._session.conf.set("spark.sql.shuffle.partitions", str(self._partitions or min(2 * keys, most)))
        slices = min(self._partitions or most, len(names))
        frame = self._session.range(0, len(names), 1, slices).mapInArrow(emit, _BLOCKS)
        for reduce in then:
            frame = frame.groupBy("key").applyInArrow(_grouped(reduce), _BLOCKS)
        try:
            table: pa.Table = frame.toArrow()
        except Exception as err:
            raise _told(err) from err
        return list(zip(table["key"].to_pylist(), table["block"].to_pylist(), strict=True))

    def close(self) -> None:
        """Stop the session."""
        self._session.stop()


def _told(err: Exception) -> FacelakeError:
    """What a task said before Spark wrapped it."""
    said = _RAISED.findall(str(err))
    if said:
        kind, what, where, next_step = said[-1]
        return _KINDS.get(kind, Retryable)(what, where=where or "Spark task", next_step=next_step or "run again")
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"[A-Za-z_.]*(Error|Exception)\b", line)]
    what = f"a task failed: {(causes or lines or ['no reason given'])[-1][:300]}"
    return Retryable(what, where="Spark", next_step="run again: it goes on from the last step that was done")


def _grouped(reduce: Reduce) -> Any:
    def apply(key: tuple[pa.Scalar, ...], table: pa.Table) -> pa.Table:
        _freeze()
        blocks = [value.as_buffer() for chunk in table["block"].chunks for value in chunk]
        made = list(_batches(reduce(int(key[0].as_py()), blocks)))
        return pa.Table.from_batches(made, _SCHEMA)

    return apply


def _freeze() -> None:
    """PySpark's daemon collects garbage after every task, .1 s over the modules' objects; see also spark_daemon."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


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
