"""Cluster on Spark: blocks of bytes between tasks.

Tasks hand each other packed arrays, one row per block and not per face, so that the JVM moves a few thousand large
values; under a local master it moves none (block_files.py). No JVM Delta and no hadoop-aws: tasks read and stage files
in Python, so `pip install` is the whole installation and s3:// works on any cluster.
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
from facelake.errors import ConfigError, Corrupt, FacelakeError, Refused, Retryable

_BLOCKS = "key long, block binary"
_SCHEMA = pa.schema([("key", pa.int64()), ("block", pa.binary())])
_BATCH_BYTES = 16 << 20
_TASKS_PER_CORE = 32
_FEWER = 4  # a task that reads files holds one key's blocks, however many keys it has; each task costs 20 ms
_RAISED = re.compile(r"facelake\.errors\.(\w+): (.+?)(?: \[([^\]]*)\])?\.(?: Next: (.+)\.)?$", re.MULTILINE)
_KINDS: dict[str, type[FacelakeError]] = {"Corrupt": Corrupt, "Refused": Refused, "ConfigError": ConfigError}


class SparkExchange:
    """Exchange on a Spark session; see exchange.py."""

    def __init__(self, session: SparkSession, partitions: int = 0) -> None:
        self._session, self._partitions = session, partitions
        self._most = _TASKS_PER_CORE * int(session.sparkContext.defaultParallelism)
        self._local = session.sparkContext.master.startswith("local")

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        """A task per item, or per some items where they are many, then a shuffle per `then`.

        On a cluster this is one Spark job with Spark's own shuffle. A local master hands blocks on through files, a
        job for each: the same tasks without the JVM between them.
        """
        if not items:
            return []
        if then and self._local:
            return self._through_files(items, first, then, self._partitions or min(keys, self._most // _FEWER))
        return self._shuffled(items, first, then, self._partitions or min(2 * keys, self._most))

    def _shuffled(self, items: Sequence[int], first: Emit, then: Sequence[Reduce], parts: int) -> list[Block]:
        self._session.conf.set("spark.sql.shuffle.partitions", str(parts))
        names = list(items)
        frame = self._each(names, lambda i: first(names[i]))
        for reduce in then:
            frame = frame.groupBy("key").applyInArrow(_grouped(reduce), _BLOCKS)
        return _blocks_of(frame)

    def _through_files(self, items: Sequence[int], first: Emit, then: Sequence[Reduce], parts: int) -> list[Block]:
        names = list(items)
        with tempfile.TemporaryDirectory(prefix="facelake-blocks-", dir=self._scratch()) as folder:
            slices = np.array_split(np.arange(len(names)), min(self._partitions or self._most, len(names)))

            def write(task: int) -> Iterator[Block]:
                written = write_blocks(folder, (block for i in slices[task] for block in first(names[i])))
                yield task, written.encode()

            held = _names_of(self._each(slices, write))
            for reduce in then[:-1]:
                before = held
                held = _names_of(self._each(range(parts), _rewrite(folder, before, parts, reduce)))
                remove_blocks(folder, before)
            return _blocks_of(self._each(range(parts), _reduced(folder, held, parts, then[-1])))

    def _each(self, items: Sized, work: Emit) -> DataFrame:
        """A frame of what `work` gives for 0 .. len(items) - 1, a task for each or for some of them."""

        def emit(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            _freeze()
            for batch in batches:
                for number in batch.column(0).to_pylist():
                    yield from _batches(work(number))

        count = len(items)
        slices = min(self._partitions or self._most, count)
        return self._session.range(0, count, 1, slices).mapInArrow(emit, _BLOCKS)

    def _scratch(self) -> str | None:
        folders = self._session.sparkContext.getConf().get("spark.local.dir", "") or ""
        return folders.split(",")[0] or None

    def close(self) -> None:
        """Stop the session."""
        self._session.stop()


def _blocks_of(frame: DataFrame) -> list[Block]:
    """Run it."""
    try:
        table: pa.Table = frame.toArrow()
    except Exception as err:
        raise _told(err) from err
    return list(zip(table["key"].to_pylist(), table["block"].to_pylist(), strict=True))


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
