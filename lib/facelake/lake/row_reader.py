"""A few rows of a data file: only the row groups that they lie in are read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facelake.contracts import I64, TABLES
from facelake.lake.object_store import ObjectStore
from facelake.lake.tables import columns_there, completed, data_file, plain

_READERS = 4


@functools.cache
def _readers() -> ThreadPoolExecutor:
    """Decompression runs beside Python, and so does a store's latency."""
    return ThreadPoolExecutor(_READERS, "facelake-picking")


def pick_rows(store: ObjectStore, table: str, path: str, rows: I64, columns: Sequence[str]) -> pa.Table:
    """Rows (n,) of one data file of a table, in the order asked for; a row may be asked for twice.

    Files carry no statistics (tables.py says why), so rows are named by their number in the file.

    Args:
        path: of the data file, relative to the table's root.
        rows: numbers from 0.

    Raises:
        Corrupt: the file is gone or damaged, or has no such row.
    """
    kept = plain(pa.schema([TABLES[table].field(name) for name in columns]))
    wanted, back = np.unique(rows, return_inverse=True)
    parts: list[pa.Table] = [kept.empty_table()]
    with data_file(store, f"{table}/{path}") as source, pq.ParquetFile(source, pre_buffer=True) as file:
        there = columns_there(file, columns)
        if len(wanted) and int(wanted[-1]) >= file.metadata.num_rows:
            raise pa.ArrowInvalid(f"there is no row {int(wanted[-1])}")  # (told as a damaged file)
        first = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            mine = wanted[(wanted >= first) & (wanted < first + count)] - first
            if len(mine):
                found = file.read_row_group(group, columns=there).take(pa.array(mine))
                parts.append(completed(found, kept).cast(kept))
            first += count
    return pa.concat_tables(parts).take(pa.array(back))


def pick_scattered(
    store: ObjectStore, table: str, paths: Sequence[str], file: I64, row: I64, columns: Sequence[str]
) -> pa.Table:
    """Rows (n,) out of many data files, in the order asked for.

    Args:
        paths: of the data files; file: (n,) number of each row's file among them; row: (n,) number in that file.

    Raises:
        Corrupt: as `pick_rows`.
    """
    empty = plain(pa.schema([TABLES[table].field(name) for name in columns])).empty_table()
    parts = [np.flatnonzero(file == number) for number in np.unique(file)]

    def read(mine: I64) -> pa.Table:
        return pick_rows(store, table, paths[int(file[mine[0]])], row[mine], columns)

    found = list(_readers().map(read, parts))
    back = np.argsort(np.concatenate([np.zeros(0, np.int64), *parts]), kind="stable")
    return pa.concat_tables([empty, *found]).take(pa.array(back))
