"""Reads some rows of data files: only the row groups that contain them are read, and few of them at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facelake.contracts import I64, TABLES, Bool
from facelake.distinct import distinct
from facelake.lake.data_files import completed, data_file, plain, present_columns
from facelake.lake.object_store import ObjectStore

_READERS = 4
_GROUPS_AT_ONCE = 4  # a request to the store takes as long as 8 MB of it


@functools.cache
def _readers() -> ThreadPoolExecutor:
    """Threads that read row groups: decompression and the store's latency run outside the interpreter lock."""
    return ThreadPoolExecutor(_READERS, "facelake-picking")


def pick_rows(store: ObjectStore, table: str, path: str, rows: I64, columns: Sequence[str]) -> pa.Table:
    """Rows (n,) of one data file of a table, in the requested order; rows may repeat.

    Files have no statistics (tables.py gives the reason), so rows are addressed by their number in the file.

    Args:
        path: of the data file, relative to the table's root.
        rows: numbers from 0.

    Raises:
        Corrupt: the file is missing or damaged, or has no such row.
    """
    wanted, back = np.unique(rows, return_inverse=True)
    with data_file(store, f"{table}/{path}") as source, pq.ParquetFile(source, pre_buffer=True) as file:
        if len(wanted) and int(wanted[-1]) >= file.metadata.num_rows:
            raise pa.ArrowInvalid(f"there is no row {int(wanted[-1])}")  # `data_file` reports it as Corrupt
        take = np.zeros(file.metadata.num_rows, bool)
        take[wanted] = True
        return _taken(file, table, take, columns).take(pa.array(back))


def read_some(store: ObjectStore, table: str, path: str, take: Bool, columns: Sequence[str]) -> pa.Table:
    """Rows of one data file of a table for which `take` (rows,) holds, in the order of the file.

    This costs less than to read the file and to filter it, even if every row group has such rows: memory that was just
    freed is used again, while fresh pages of a whole file's vectors take longer to get than to fill.

    Raises:
        Corrupt: the file is missing or damaged, or has another number of rows.
    """
    with data_file(store, f"{table}/{path}") as source, pq.ParquetFile(source, pre_buffer=True) as file:
        if len(take) != file.metadata.num_rows:
            raise pa.ArrowInvalid(f"there are {file.metadata.num_rows} rows, not {len(take)}")
        return _taken(file, table, take, columns)


def _taken(file: pq.ParquetFile, table: str, take: Bool, columns: Sequence[str]) -> pa.Table:
    """Read the rows for which `take` (rows,) holds, from the row groups that have some."""
    kept = plain(pa.schema([TABLES[table].field(name) for name in columns]))
    present, meta, parts = present_columns(file, columns), file.metadata, [kept.empty_table()]
    ends = np.cumsum([0, *(meta.row_group(group).num_rows for group in range(meta.num_row_groups))])
    wanted = [group for group in range(meta.num_row_groups) if take[ends[group] : ends[group + 1]].any()]
    for at in range(0, len(wanted), _GROUPS_AT_ONCE):
        groups = wanted[at : at + _GROUPS_AT_ONCE]
        chosen = np.concatenate([take[ends[group] : ends[group + 1]] for group in groups])
        rows = file.read_row_groups(groups, columns=present, use_threads=False).filter(pa.array(chosen))
        parts.append(completed(rows, kept).cast(kept))
    return pa.concat_tables(parts)


def pick_scattered(
    store: ObjectStore, table: str, paths: Sequence[str], file: I64, row: I64, columns: Sequence[str]
) -> pa.Table:
    """Rows (n,) of several data files of a table, in the requested order.

    Args:
        paths: of the data files.
        file: (n,) int64 index of each row's file in `paths`.
        row: (n,) int64 number of each row in its file.

    Raises:
        Corrupt: as `pick_rows`.
    """
    empty = plain(pa.schema([TABLES[table].field(name) for name in columns])).empty_table()
    parts = [np.flatnonzero(file == number) for number in distinct(file)]

    def read(places: I64) -> pa.Table:
        return pick_rows(store, table, paths[int(file[places[0]])], row[places], columns)

    tables = list(_readers().map(read, parts))
    back = np.argsort(np.concatenate([np.zeros(0, np.int64), *parts]), kind="stable")
    return pa.concat_tables([empty, *tables]).take(pa.array(back))
