"""Reading parts of a table, for who must not hold it whole: batch by batch, or a few slices chosen by chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facelake.contracts import I64
from facelake.lake.tables import DataFile, Snapshot, Table, columns_there, completed, data_file, plain

_BATCH_ROWS = 65_536
_SLICES = 16  # over which a sample is spread where files are large


@dataclass(frozen=True, slots=True)
class Sampled:
    """Rows of some slices, and what they were taken from."""

    rows: pa.Table
    slices: int
    of_rows: int


def batches(table: Table, columns: Sequence[str], snapshot: Snapshot | None = None) -> Iterator[pa.Table]:
    """Some columns of the whole table, at most 65,536 rows at a time, in file-name order."""
    for file in (snapshot or table.snapshot()).files:
        yield from _of_file(table, file, columns, _BATCH_ROWS)


def slices(
    table: Table,
    columns: Sequence[str],
    rows: int,
    generator: np.random.Generator,
    wanted: Callable[[DataFile], bool] = lambda file: True,
) -> Sampled:
    """About `rows` rows as slices from the heads of files chosen by chance; all of them where there are no more.

    Rows of a slice are neighbours in their file, as faces of one photo are. Only slices are decoded.

    Args:
        wanted: which data files the sample is of.
    """
    files = [file for file in table.snapshot().files if file.rows and wanted(file)]
    total = sum(file.rows for file in files)
    each = total if total <= rows else max(-(-rows // _SLICES), _share(np.array([file.rows for file in files]), rows))
    found: list[pa.Table] = []
    taken = 0
    for at in generator.permutation(len(files)):
        if taken >= rows and total > rows:
            break
        part = _head(table, files[at], columns, min(each, files[at].rows))
        found.append(part)
        taken += part.num_rows
    kept = plain(pa.schema([table.schema.field(name) for name in columns]))
    return Sampled(pa.concat_tables([kept.empty_table(), *found]), len(found), total)


def _head(table: Table, file: DataFile, columns: Sequence[str], rows: int) -> pa.Table:
    """The first rows of a data file, out of as many row groups as they lie in."""
    parts: list[pa.Table] = []
    for part in _of_file(table, file, columns, rows):
        parts.append(part)
        if sum(one.num_rows for one in parts) >= rows:
            break
    return pa.concat_tables(parts).slice(0, rows)


def _share(sizes: I64, rows: int) -> int:
    """The least number of rows to take of every file, smaller ones whole, that makes `rows` together."""
    low, high = 1, int(sizes.max(initial=1))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if np.minimum(sizes, middle).sum() >= rows else (middle + 1, high)
    return low


def _of_file(table: Table, file: DataFile, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """One data file, `rows` rows at a time; a column that it does not have yet is null."""
    kept = plain(pa.schema([table.schema.field(name) for name in columns]))
    with data_file(table.store, f"{table.name}/{file.path}") as source, pq.ParquetFile(source) as parquet:
        for batch in parquet.iter_batches(rows, columns=columns_there(parquet, columns)):
            yield completed(pa.table(batch), kept).cast(kept)
