"""Delta tables of other owners, read at a snapshot: only the data files that the table's log names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

import pyarrow as pa

from facelake.errors import ConfigError
from facelake.lake.corpora.field_ids import FieldIds
from facelake.lake.object_store import ObjectStore
from facelake.lake.open_delta import open_table

_DELTA_FEATURES = frozenset(
    ("timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "checkpointConstraints", "typeWidening-preview")
)


@dataclass(frozen=True, slots=True)
class TableFile:
    """A data file of a snapshot."""

    path: str
    """relative to the table's folder"""
    rows: int
    size_bytes: int
    constants: Mapping[str, str | None]
    """partition columns, whose values are in the log and not in the file"""


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """A version of a table."""

    files: list[TableFile]
    schema: pa.Schema | None = None
    """its columns, if files may have others"""
    fields: FieldIds | None = None
    """how the columns are found in a file, if not by their names"""


def delta_files(store: ObjectStore) -> TableSnapshot:
    """The data files of the newest version.

    Raises:
        ConfigError: there is no Delta table, or it uses features by which files contain deleted rows.
        Retryable: the store failed.
    """
    delta = open_table(store, store.uri)
    if delta is None:
        next_step = "check corpus.uri; if the folder _delta_log is empty, restore it, or remove it if this is no table"
        raise ConfigError("no Delta table", where=store.uri, next_step=next_step)
    features = set(delta.protocol().reader_features or ()) - _DELTA_FEATURES
    mode = delta.metadata().configuration.get("delta.columnMapping.mode") or "none"
    if features or mode != "none" or delta.protocol().min_reader_version == 2:
        used = ", ".join(sorted(features)) or f"column mapping ({mode})"
        next_step = "write a copy of the table without them, for example with CREATE TABLE ... AS SELECT"
        raise ConfigError(
            f"the Delta table uses {used}, which facelake does not read", where=store.uri, next_step=next_step
        )
    partitions = delta.metadata().partition_columns
    adds = pa.table(cast(Any, delta.get_add_actions(flatten=True)))
    files = []
    for row in adds.select(
        [n for n in adds.column_names if not n.startswith(("min.", "max.", "null_count."))]
    ).to_pylist():
        constants = {name: _text(row.get(f"partition.{name}")) for name in partitions}
        path = _existing(store, row["path"])
        files.append(TableFile(path, row["num_records"] or -1, row["size_bytes"], constants))
    return TableSnapshot(sorted(files, key=lambda file: file.path))


def _existing(store: ObjectStore, path: str) -> str:
    """The key of a data file; the log encodes special characters of paths."""
    return unquote(path) if "%" in path and store.stat(path) is None else path


def _text(value: object) -> str | None:
    return None if value is None else str(value)
