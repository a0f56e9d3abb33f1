"""Delta and Iceberg tables of other owners, read at a snapshot: only the data files that the table's log names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

import pyarrow as pa

from facelake.config import S3Section
from facelake.errors import ConfigError, Retryable
from facelake.lake.object_store import ObjectStore
from facelake.lake.open_delta import open_table
from facelake.lake.retries import first_line

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


def delta_files(store: ObjectStore) -> list[TableFile]:
    """The data files of the newest version.

    Raises:
        ConfigError: there is no Delta table, or it uses features by which files contain deleted rows.
        Retryable: the store failed.
    """
    delta = open_table(store, store.uri)
    if delta is None:
        raise ConfigError("no Delta table", where=store.uri, next_step="check corpus.uri")
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
    return sorted(files, key=lambda file: file.path)


def _existing(store: ObjectStore, path: str) -> str:
    """The key of a data file; the log encodes special characters of paths."""
    return unquote(path) if "%" in path and store.stat(path) is None else path


def iceberg_files(store: ObjectStore, s3: S3Section) -> list[TableFile]:
    """The data files of the current snapshot of an Iceberg table, by its newest metadata file.

    Raises:
        ConfigError: there is no such table, it deletes rows by delete files, or keeps files elsewhere.
    """
    from pyiceberg.exceptions import RESTError, ValidationError
    from pyiceberg.table import StaticTable

    newest = _newest_metadata(store)
    location = f"{store.uri}/{newest}" if store.uri.startswith("s3://") else f"file://{store.uri}/{newest}"
    try:
        table = StaticTable.from_metadata(location, _iceberg_options(store))
        tasks = list(table.scan().plan_files())
        root = table.metadata.location
    except (OSError, ValueError, KeyError, RESTError, ValidationError) as err:
        what = f"the Iceberg table cannot be read: {first_line(err)}"
        raise Retryable(what, where=location, next_step="check the table's metadata and run again") from err
    files = []
    for task in tasks:
        if task.delete_files:
            next_step = "rewrite the table's data files (rewrite_data_files with delete-file-threshold 1)"
            raise ConfigError("the Iceberg table has delete files", where=store.uri, next_step=next_step)
        if str(task.file.file_format).rpartition(".")[2].upper() != "PARQUET":
            raise ConfigError(
                "the Iceberg table has files other than Parquet", where=store.uri, next_step="write Parquet"
            )
        path = _relative(task.file.file_path, root, store)
        files.append(TableFile(path, task.file.record_count, task.file.file_size_in_bytes, {}))
    return sorted(files, key=lambda file: file.path)


def _newest_metadata(store: ObjectStore) -> str:
    """The newest metadata file: the one that version-hint.text names, or the one with the highest number."""
    keys = [item.key for item in store.list("metadata") if item.key.endswith(".metadata.json")]
    if not keys:
        raise ConfigError("no Iceberg table", where=store.uri, next_step="check corpus.uri")
    try:
        hint = store.read("metadata/version-hint.text").decode().strip()
    except FileNotFoundError:
        hint = ""
    named = [
        key
        for key in keys
        if hint and key.rpartition("/")[2] in (f"v{hint}.metadata.json", f"{hint}.metadata.json", hint)
    ]
    return named[0] if named else max(keys, key=_metadata_number)


def _metadata_number(key: str) -> tuple[int, str]:
    name = key.rpartition("/")[2].removeprefix("v").removesuffix(".metadata.json")
    number = name.partition("-")[0]
    return (int(number) if number.isdigit() else -1, key)


def _iceberg_options(store: ObjectStore) -> dict[str, str]:
    options = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}
    stored = store.storage_options()
    names = {"AWS_ENDPOINT_URL": "s3.endpoint", "AWS_REGION": "s3.region", "AWS_ACCESS_KEY_ID": "s3.access-key-id"}
    names |= {"AWS_SECRET_ACCESS_KEY": "s3.secret-access-key", "AWS_SESSION_TOKEN": "s3.session-token"}
    return options | {names[key]: value for key, value in stored.items() if key in names}


def _relative(path: str, root: str, store: ObjectStore) -> str:
    """A data file's path in the table's folder; the folder may have been copied since its metadata was written."""
    plain, base = path.removeprefix("file://"), root.removeprefix("file://").rstrip("/")
    for prefix in (base, store.uri.rstrip("/")):
        for written in (plain, plain.replace("s3a://", "s3://")):
            if written.startswith(prefix.replace("s3a://", "s3://") + "/"):
                return written[len(prefix.replace("s3a://", "s3://")) + 1 :]
    raise ConfigError(
        "a data file of the Iceberg table is outside its folder",
        where=path,
        next_step="rewrite the table in one folder",
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
