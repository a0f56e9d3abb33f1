"""The exchange on Spark: blocks of bytes between tasks.

Tasks pass packed arrays to each other, one row per block and not per face, so that the JVM moves a few thousand large
values; under a local master it moves none (block_files.py). Neither JVM Delta nor hadoop-aws is needed: tasks read and
stage files in Python, so `pip install` is the whole installation and s3:// works on any cluster.
"""

from __future__ import annotations

import gc
import re
import tempfile
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from facelake.engines.block_files import read_blocks, remove_blocks, write_blocks
from facelake.engines.exchange import Block, Emit, Reduce
from facelake.engines.task_errors import ERROR_KEY, errors_as_blocks, without_errors
from facelake.errors import Retryable

_BLOCKS = "key long, block binary"
_SCHEMA = pa.schema([("key", pa.int64()), ("block", pa.binary())])
_BATCH_BYTES = 16 << 20
_TASKS_PER_CORE = 32
_LOCAL_SHARE = 4  # under a local master a quarter of the tasks: each costs 20 ms and holds one key's blocks at a time


class SparkExchange:
    """Runs map and reduce tasks on a Spark session, as exchange.py defines."""

    def __init__(self, session: SparkSession, partitions: int = 0) -> None:
        self._session, self._partitions = session, partitions
        self._max_tasks = _TASKS_PER_CORE * int(session.sparkContext.defaultParallelism)
        self._local = session.sparkContext.master.startswith("local")

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        """Run a task per item, or per several items where there are many, and a shuffle per `then`.

        On a cluster this is one Spark job with Spark's own shuffle. Under a local master blocks go through files, with
        one job per step: the same tasks without the JVM between them.

        Raises:
            FacelakeError: a task failed; an error that a retry cannot mend keeps its class and fields.
        """
        if not items:
            return []
        if then and self._local:
            return self._through_files(
                items, first, then, self._partitions or min(keys, self._max_tasks // _LOCAL_SHARE)
            )
        return self._shuffled(items, first, then, self._partitions or min(2 * keys, self._max_tasks))

    def _shuffled(self, items: Sequence[int], first: Emit, then: Sequence[Reduce], parts: int) -> list[Block]:
        self._session.conf.set("spark.sql.shuffle.partitions", str(parts))
        tasks = list(items)
        frame = self._each(tasks, lambda i: first(tasks[i]))
        for reduce in then:
            frame = frame.groupBy("key").applyInArrow(_grouped(reduce), _BLOCKS)
        return _blocks_of(frame)

    def _through_files(self, items: Sequence[int], first: Emit, then: Sequence[Reduce], parts: int) -> list[Block]:
        tasks = list(items)
        with tempfile.TemporaryDirectory(prefix="facelake-blocks-", dir=self._scratch()) as folder:
            slices = np.array_split(np.arange(len(tasks)), min(self._partitions or self._max_tasks, len(tasks)))

            def write(task: int) -> Iterator[Block]:
                written = write_blocks(folder, (block for i in slices[task] for block in first(tasks[i])))
                yield task, written.encode()

            files = _names_of(self._each(slices, write))
            for reduce in then[:-1]:
                before = files
                files = _names_of(self._each(range(parts), _rewrite(folder, before, parts, reduce)))
                remove_blocks(folder, before)
            return _blocks_of(self._each(range(parts), _reduced(folder, files, parts, then[-1])))

    def _each(self, items: Sized, work: Emit) -> DataFrame:
        """Return a frame of the blocks of `work` for 0..len(items)-1, with a task for each or for several of them."""

        def emit(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            _freeze()
            for batch in batches:
                for number in batch.column(0).to_pylist():
                    yield from _batches(errors_as_blocks(work(number)))

        count = len(items)
        slices = min(self._partitions or self._max_tasks, count)
        return self._session.range(0, count, 1, slices).mapInArrow(emit, _BLOCKS)

    def _scratch(self) -> str | None:
        folders = self._session.sparkContext.getConf().get("spark.local.dir", "") or ""
        return folders.split(",")[0] or None

    def close(self) -> None:
        """Stop the session."""
        self._session.stop()


def _blocks_of(frame: DataFrame) -> list[Block]:
    """Run the frame's job and return its blocks.

    Raises:
        FacelakeError: a task failed.
    """
    try:
        table: pa.Table = frame.toArrow()
    except Exception as err:
        raise _job_failure(err) from err
    return without_errors(zip(table["key"].to_pylist(), table["block"].to_pylist(), strict=True))


def _names_of(frame: DataFrame) -> list[str]:
    return [body.decode() for _, body in sorted(_blocks_of(frame))]


def _reduced(folder: str, names: Sequence[str], parts: int, reduce: Reduce) -> Emit:
    def work(part: int) -> Iterator[Block]:
        for key, blocks in read_blocks(folder, names, part, parts):
            yield from reduce(key, blocks)

    return work


def _rewrite(folder: str, names: Sequence[str], parts: int, reduce: Reduce) -> Emit:
    def work(part: int) -> Iterator[Block]:
        yield part, write_blocks(folder, _reduced(folder, names, parts, reduce)(part)).encode()

    return work


def _job_failure(err: Exception) -> Retryable:
    """Return the error of a job whose tasks kept failing, with the last error line of Spark's text."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"[A-Za-z_.]*(Error|Exception|Retryable|Busy)\b", line)]
    what = f"a task failed: {(causes or lines or ['no reason given'])[-1][:300]}"
    return Retryable(what, where="Spark", next_step="run again: it resumes after the last completed step")


def _grouped(reduce: Reduce) -> Any:
    def apply(key: tuple[pa.Scalar, ...], table: pa.Table) -> pa.Table:
        _freeze()
        number = int(key[0].as_py())
        if number == ERROR_KEY:
            return table.select(_SCHEMA.names).cast(_SCHEMA)
        blocks = [value.as_buffer() for chunk in table["block"].chunks for value in chunk]
        reduced = list(_batches(errors_as_blocks(reduce(number, blocks))))
        return pa.Table.from_batches(reduced, _SCHEMA)

    return apply


def _freeze() -> None:
    """Exempt loaded modules from garbage collection, which PySpark's daemon runs after every task (0.1 s over them)."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _batches(blocks: Any) -> Iterator[pa.RecordBatch]:
    keys: list[int] = []
    bodies: list[bytes] = []
    size = 0
    for key, body in blocks:
        keys.append(key)
        bodies.append(body)
        size += len(body)
        if size >= _BATCH_BYTES:
            yield pa.RecordBatch.from_arrays(
                [pa.array(keys, pa.int64()), pa.array(bodies, pa.binary())], schema=_SCHEMA
            )
            keys, bodies, size = [], [], 0
    if keys:
        yield pa.RecordBatch.from_arrays([pa.array(keys, pa.int64()), pa.array(bodies, pa.binary())], schema=_SCHEMA)
