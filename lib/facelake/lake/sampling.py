"""Reads parts of a table in bounded memory: batch by batch, or a random sample of slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facelake.contracts import I64
from facelake.lake.data_files import DataFile, completed, data_file, plain, present_columns
from facelake.lake.tables import Snapshot, Table

_BATCH_ROWS = 65_536
_SLICES = 16  # least number of slices that a sample is spread over if files are large


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sample: its rows, the number of slices and the number of rows that it was drawn from."""

    rows: pa.Table
    slices: int
    of_rows: int


def batches(table: Table, columns: Sequence[str], snapshot: Snapshot | None = None) -> Iterator[pa.Table]:
    """Yield some columns of the whole table in batches of at most 65,536 rows, in file-name order."""
    for file in (snapshot or table.snapshot()).files:
        yield from _of_file(table, file, columns, _BATCH_ROWS)


def slices(
    table: Table,
    columns: Sequence[str],
    rows: int,
    generator: np.random.Generator,
    wanted: Callable[[DataFile], bool] = lambda file: True,
) -> Sampled:
    """About `rows` rows as slices from the heads of randomly chosen files; all rows if there are no more.

    Rows of a slice are adjacent in their file, as faces of one photo are. Only the slices are decoded.

    Args:
        wanted: which data files to sample from.
    """
    files = [file for file in table.snapshot().files if file.rows and wanted(file)]
    total = sum(file.rows for file in files)
    each = total if total <= rows else max(-(-rows // _SLICES), _share(np.array([file.rows for file in files]), rows))
    parts: list[pa.Table] = []
    taken = 0
    for at in generator.permutation(len(files)):
        if taken >= rows and total > rows:
            break
        part = _head(table, files[at], columns, min(each, files[at].rows))
        parts.append(part)
        taken += part.num_rows
    kept = plain(pa.schema([table.schema.field(name) for name in columns]))
    return Sampled(pa.concat_tables([kept.empty_table(), *parts]), len(parts), total)


def _head(table: Table, file: DataFile, columns: Sequence[str], rows: int) -> pa.Table:
    """The first rows of a data file; later row groups are not read."""
    parts: list[pa.Table] = []
    for part in _of_file(table, file, columns, rows):
        parts.append(part)
        if sum(batch.num_rows for batch in parts) >= rows:
            break
    return pa.concat_tables(parts).slice(0, rows)


def _share(sizes: I64, rows: int) -> int:
    """The least number of rows per file (smaller files count whole) that adds up to `rows`; by bisection."""
    low, high = 1, int(sizes.max(initial=1))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if np.minimum(sizes, middle).sum() >= rows else (middle + 1, high)
    return low


def _of_file(table: Table, file: DataFile, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Yield one data file in batches of `rows` rows; a column that the file predates is null."""
    kept = plain(pa.schema([table.schema.field(name) for name in columns]))
    with data_file(table.store, f"{table.name}/{file.path}") as source, pq.ParquetFile(source) as parquet:
        for batch in parquet.iter_batches(rows, columns=present_columns(parquet, columns)):
            yield completed(pa.table(batch), kept).cast(kept)
