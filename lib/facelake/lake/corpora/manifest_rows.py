"""Reads the rows of manifests: of Parquet, CSV and JSON-lines files."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from facelake.contracts import parse_json
from facelake.errors import ConfigError, Retryable
from facelake.lake.corpora.field_ids import FieldIds, current_columns
from facelake.lake.corpora.rules import check_names
from facelake.lake.corpora.short_texts import short_texts
from facelake.lake.object_store import ObjectStore
from facelake.lake.retries import first_line
from facelake.lake.store import read_input

MANIFEST_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
_ROWS = 4096
_LINE_BYTES = 64 << 20


def read_rows(store: ObjectStore, path: str, fields: FieldIds | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet, CSV or JSON-lines file in batches.

    Args:
        fields: of an Iceberg table, whose current names the columns get.

    Raises:
        ConfigError: it cannot be read as such.
    """
    where, name = f"{store.uri}/{path}", path.lower()
    try:
        if name.endswith(".parquet"):
            yield from _parquet(store, path, fields)
        elif name.endswith((".csv", ".tsv")):
            yield from _csv(store, path)
        else:
            yield from _json_lines(store, path)
    except FileNotFoundError as err:
        raise Retryable("a manifest was removed while it was read", where=where, next_step="run again") from err
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError, OverflowError) as err:
        what = f"the manifest cannot be read: {first_line(err)}"
        raise ConfigError(what, where=where, next_step="write Parquet, CSV with a header, or JSON lines") from err


def _parquet(store: ObjectStore, path: str, fields: FieldIds | None) -> Iterator[pa.Table]:
    where = f"{store.uri}/{path}"
    with read_input(store, path) as source, pq.ParquetFile(source) as file:
        schema, metadata = file.schema_arrow, file.metadata
        check_names(schema.names, (), path)
        # photos are named, not contained; a column of bytes would have to be read for nothing
        names = [field.name for field in schema if not pa.types.is_binary(field.type)]
        paths = fields.paths_in(schema, where) if fields else {}

        def again(encoded: list[str]) -> pq.ParquetFile:
            return pq.ParquetFile(source, metadata=metadata, read_dictionary=encoded)

        for table in short_texts(file, again, names, where, _ROWS):
            yield current_columns(table, paths, list(fields.ids)) if fields else table


def _csv(store: ObjectStore, path: str) -> Iterator[pa.Table]:
    parse = pacsv.ParseOptions(delimiter="\t" if path.lower().endswith(".tsv") else ",", newlines_in_values=True)
    with read_input(store, path) as source:
        names = pacsv.open_csv(source, parse_options=parse).schema.names
    check_names(names, (), path)
    convert = pacsv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        strings_can_be_null=True,
        null_values=[""],  # by default also NA, NaN and null, which may be somebody's reference
    )
    with read_input(store, path) as source:
        for batch in pacsv.open_csv(source, parse_options=parse, convert_options=convert):
            table = pa.table(batch)
            for start in range(0, table.num_rows, _ROWS):
                yield table.slice(start, _ROWS)


def _json_lines(store: ObjectStore, path: str) -> Iterator[pa.Table]:
    rows: list[dict[str, object]] = []
    with read_input(store, path) as source:
        for line in io.BufferedReader(source):
            if line.strip():
                body = parse_json(line, _LINE_BYTES)
                if not isinstance(body, dict):
                    raise ValueError("a line is no JSON object")
                rows.append(body)
            if len(rows) >= _ROWS:
                yield _table(rows)
                rows = []
    if rows:
        yield _table(rows)


def _table(rows: list[dict[str, object]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[object]) -> pa.Array:
    """The values of a field; whole numbers are text where one needs more than 64 bits."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, OverflowError):
        if not all(value is None or type(value) is int for value in values):
            raise
        return pa.array([None if value is None else str(value) for value in values], pa.string())
