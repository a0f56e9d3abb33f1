"""Data files of Delta tables: written without being committed, and read as the log names them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.contracts import TABLES, DataFileName, Receipt
from facelake.errors import Corrupt, Retryable
from facelake.lake.object_store import ObjectStore
from facelake.lake.retries import first_line
from facelake.lake.store import read_input

UNNAMED = DataFileName(part="part")
_GROUP_ROWS = dict.fromkeys(
    ("faces", "identities", "admissions"), 2_048
)  # small row groups for tables of which single rows are read


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file of a table's snapshot."""

    path: str
    size_bytes: int
    rows: int


def stage(
    store: ObjectStore, table: str, data: pa.Table, name: DataFileName = UNNAMED, *, nonce: str | None = None
) -> Receipt:
    """Write a data file of a table without committing it; for workers, which have no Table.

    Args:
        store: of the lake.
        table: name of the table.
        data: rows with the columns of the table.
        name: what the file's name records; its nonce is replaced.
        nonce: 16 hex digits; None: fresh ones. A task that may be repeated gives the same ones, and equal rows, so that
            one file is left.
    """
    schema = TABLES[table]
    sink = pa.BufferOutputStream()
    rows, group = data.select(schema.names).cast(plain(schema)), _GROUP_ROWS.get(table)
    options = encoding(rows.schema)
    pq.write_table(rows, sink, write_statistics=False, row_group_size=group, **options)
    body = sink.getvalue()
    path = name.with_nonce(nonce or secrets.token_hex(8)).render()
    store.write(f"{table}/{path}", body.to_pybytes())
    return Receipt(table, path, body.size, data.num_rows)


def encoding(schema: pa.Schema) -> dict[str, Any]:
    """Compression per column: vectors and images gain 6 % by zstd, and take four times as long to write and to read."""
    compressed: list[str] = []
    vectors: list[str] = []
    for field in schema:
        listed = pa.types.is_list(field.type)
        kind = field.type.value_type if listed else field.type
        is_vector = pa.types.is_binary(kind) or (listed and pa.types.is_floating(kind))
        (vectors if is_vector else compressed).append(f"{field.name}.list.element" if listed else field.name)
    compression = dict.fromkeys(compressed, "zstd") | dict.fromkeys(vectors, "none")
    return {"compression": compression, "use_dictionary": compressed}


def read_file(store: ObjectStore, table: str, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one data file of a table; a column that the file predates is null.

    Raises:
        Corrupt: the log names the file, but it is missing or unreadable.
    """
    wanted = pa.schema(
        [TABLES[table].field(name) for name in (columns if columns is not None else TABLES[table].names)]
    )
    with data_file(store, f"{table}/{path}") as source, pq.ParquetFile(source) as file:
        return completed(file.read(columns=present_columns(file, wanted.names)), wanted)


def present_columns(file: pq.ParquetFile, columns: Sequence[str]) -> list[str]:
    """The columns that a data file has, in the given order."""
    present = set(file.schema_arrow.names)
    return [name for name in columns if name in present]


def completed(rows: pa.Table, wanted: pa.Schema) -> pa.Table:
    """Rows of a data file with the wanted columns in their order; a column that the file predates is null."""
    for name in set(wanted.names) - set(rows.column_names):
        rows = rows.append_column(name, pa.nulls(rows.num_rows, wanted.field(name).type))
    return rows.select(wanted.names)


@contextmanager
def data_file(store: ObjectStore, key: str) -> Iterator[pa.NativeFile]:
    """Open a data file that the log names for ranged reads.

    Raises:
        Corrupt: the file is missing, or damaged.
        Retryable: the store failed.
    """
    try:
        with read_input(store, key) as source:
            yield source
    except FileNotFoundError as err:
        next_step = "restore the file from a backup, or start a new lake and run again"
        raise Corrupt("a data file named by the log is missing", where=key, next_step=next_step) from err
    except pa.ArrowInvalid as err:
        what = f"a data file is damaged: {str(err).splitlines()[0]}"
        raise Corrupt(what, where=key, next_step="restore the file from a backup") from err
    except OSError as err:
        raise Retryable(
            f"cannot read: {first_line(err)}", where=key, next_step="check the store and run again"
        ) from err


def plain(schema: pa.Schema) -> pa.Schema:
    """The schema without field documentation, as it is written to files and to Delta."""
    return pa.schema([field.remove_metadata() for field in schema])
