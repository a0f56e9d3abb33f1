"""Iceberg tables of other owners, read at the current snapshot: only the data files that its metadata names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from facelake.config import S3Section
from facelake.errors import ConfigError, Retryable
from facelake.lake.corpora.field_ids import FieldIds
from facelake.lake.corpora.table_roots import METADATA_SUFFIXES
from facelake.lake.corpora.tables import TableFile, TableSnapshot
from facelake.lake.object_store import ObjectStore
from facelake.lake.retries import first_line

if TYPE_CHECKING:
    from pyiceberg.schema import Schema
    from pyiceberg.table import FileScanTask, StaticTable
    from pyiceberg.table.name_mapping import MappedField


def iceberg_files(store: ObjectStore, s3: S3Section) -> TableSnapshot:
    """The current snapshot of an Iceberg table, by its newest metadata file.

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
        root, schema = table.metadata.location, table.schema().as_arrow()
    except (OSError, ValueError, KeyError, RESTError, ValidationError) as err:
        what = f"the Iceberg table cannot be read: {first_line(err)}"
        raise Retryable(what, where=location, next_step="check the table's metadata and run again") from err
    files = []
    for task in tasks:
        _check_task(task, store.uri)
        path = _relative(task.file.file_path, root, store)
        constants = _constants(table, task, schema)
        files.append(TableFile(path, task.file.record_count, task.file.file_size_in_bytes, constants))
    return TableSnapshot(sorted(files, key=lambda file: file.path), schema, _fields_of(table))


def _check_task(task: FileScanTask, where: str) -> None:
    if task.delete_files:
        next_step = "rewrite the table's data files (rewrite_data_files with delete-file-threshold 1)"
        raise ConfigError("the Iceberg table has delete files", where=where, next_step=next_step)
    if str(task.file.file_format).rpartition(".")[2].upper() != "PARQUET":
        raise ConfigError("the Iceberg table has files other than Parquet", where=where, next_step="write Parquet")


def _fields_of(table: StaticTable) -> FieldIds:
    """How the columns of the table are found in its files."""
    current = _ids_of(table.schema())
    mapping = table.metadata.name_mapping()
    names = dict(_mapped_names(mapping.root, "")) if mapping else {}
    return FieldIds(current, names, any(_ids_of(schema) != current for schema in table.metadata.schemas))


def _ids_of(schema: Schema) -> dict[str, int]:
    """The ids of columns and fields of structs, by their paths."""
    return dict(_ids(schema.as_struct(), ""))


def _ids(struct: Any, prefix: str) -> Iterator[tuple[str, int]]:
    for field in struct.fields:
        yield prefix + field.name, field.field_id
        if field.field_type.is_struct:
            yield from _ids(field.field_type, f"{prefix}{field.name}.")


def _mapped_names(fields: list[MappedField], prefix: str) -> Iterator[tuple[str, int]]:
    for field in fields:
        for name in field.names:
            if field.field_id is not None:
                yield prefix + name, field.field_id
            yield from _mapped_names(field.fields, f"{prefix}{name}.")


def _constants(table: StaticTable, task: FileScanTask, schema: pa.Schema) -> Mapping[str, str | None]:
    """Values of columns that a file need not have: defaults of the columns, and those by which it is partitioned."""
    constants = {}
    for column in table.schema().columns:
        if (default := getattr(column, "initial_default", None)) is not None:
            constants[column.name] = _text(default, schema.field(column.name).type)
    for number, field in enumerate(table.specs()[task.file.spec_id].fields):
        name = table.schema().find_column_name(field.source_id)
        if name and name in schema.names and str(field.transform) == "identity":
            constants[name] = _text(task.file.partition[number], schema.field(name).type)
    return constants


def _text(value: Any, kind: pa.DataType) -> str | None:
    """A value of the metadata as text; days and microseconds become dates."""
    if value is None or isinstance(value, str):
        return value
    text: str | None = pa.scalar(value, kind).cast(pa.string()).as_py()
    return text


def _newest_metadata(store: ObjectStore) -> str:
    """The newest metadata file: the one that version-hint.text names, or the one with the highest number."""
    keys = [item.key for item in store.list("metadata") if item.key.endswith(METADATA_SUFFIXES)]
    if not keys:
        raise ConfigError("no Iceberg table", where=store.uri, next_step="check corpus.uri")
    try:
        hint = store.read("metadata/version-hint.text").decode().strip()
    except FileNotFoundError:
        hint = ""
    forms = [
        f"{stem}{ending}" for stem in (f"v{hint}", hint) for ending in (".gz.metadata.json", *METADATA_SUFFIXES, "")
    ]
    named = [key for key in keys if hint and key.rpartition("/")[2] in forms]
    newest = named[0] if named else max(keys, key=_metadata_number)
    if newest.endswith(".gz"):
        next_step = (
            "rewrite the table's metadata with a newer Iceberg, which writes .metadata.json or .gz.metadata.json"
        )
        raise ConfigError("Iceberg metadata of the form .metadata.json.gz", where=store.uri, next_step=next_step)
    return newest


def _metadata_number(key: str) -> tuple[int, str]:
    name = key.rpartition("/")[2].removeprefix("v")
    number = name.partition(".")[0].partition("-")[0]
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
