"""Checks of the columns of a corpus' Parquet files, by their footers."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.contracts import CORPUS_REQUIRED
from facelake.errors import ConfigError
from facelake.lake.corpora.rules import Rules
from facelake.parquet_chunks import inflates
from facelake.parquet_footers import check_footer

REPLACE = "replace the file or move it out of the corpus"
_MOST_INFLATED, _LEAST_INFLATED = 8, 512 << 20  # ratio and size above which the image column is refused
_STRING = ("string", "large_string", "string_view")
_BINARY = ("binary", "large_binary", "binary_view")


def described(metadata: pq.FileMetaData, where: str) -> pq.FileMetaData:
    """Return a footer whose column chunks may be asked for.

    Raises:
        ConfigError: asking for one would end this process, or fail.
    """
    try:
        check_footer(metadata)
    except (ValueError, OSError, pa.ArrowException) as err:
        raise ConfigError("the footer of the file is damaged", where=where, next_step=REPLACE) from err
    return metadata


def check_inflation(chunks: list[pq.ColumnChunkMetaData], where: str) -> None:
    """Refuse an image column that expands far beyond its stored size: encoded images do not compress, and Arrow keeps
    a whole decompressed page in memory.
    """
    for chunk in chunks:
        if inflates(chunk, _LEAST_INFLATED, _MOST_INFLATED):
            packed, size = chunk.total_compressed_size, chunk.total_uncompressed_size
            what = f"the image column does not contain encoded images: {packed} bytes decompress to {size}"
            raise ConfigError(what, where=where, next_step=REPLACE)


def check_columns(schema: pa.Schema, rules: Rules, where: str) -> None:
    """Check required columns and types of files in facelake's own form.

    Raises:
        ConfigError: one is missing or of another type.
    """
    required = ("image", *(name for name in ("image_id", "source_id") if name in rules))
    own = {name: rule.column for name, rule in rules.items() if rule.column == name}
    missing = [name for name in CORPUS_REQUIRED if name in required and name not in schema.names]
    missing = [name for name in missing if name == "image" or name in own]
    if missing:
        what = f"the corpus lacks the column(s) {', '.join(missing)}; it has {', '.join(schema.names[:12])}"
        raise ConfigError(
            what, where=where, next_step="write image_id, image and source_id, or map them: docs/image-stores.md"
        )
    for name in own:
        if name not in schema.names or name == "captured_at":
            continue
        kind = _value_type(schema.field(name).type)
        if str(kind) not in _STRING and not (pa.types.is_null(kind) and name not in CORPUS_REQUIRED):
            what = f"corpus column {name} is {kind}; it must be {_STRING[0]}"
            raise ConfigError(what, where=where, next_step="rewrite the file with the right type")


def check_image(schema: pa.Schema, path: str, where: str) -> None:
    """Raise ConfigError unless there is a column of bytes, or a struct field, of that path."""
    kind = type_at(schema, path)
    if kind is None:
        what = f"the corpus lacks the column(s) {path}; it has {', '.join(schema.names[:12])}"
        raise ConfigError(what, where=where, next_step="set corpus.columns.image: docs/image-stores.md")
    if str(_value_type(kind)) not in _BINARY:
        what = f"corpus column {path} is {kind}; it must be {_BINARY[0]}"
        raise ConfigError(what, where=where, next_step="rewrite the file with the right type")


def type_at(schema: pa.Schema, path: str) -> pa.DataType | None:
    """The type of a column, or of the field of a struct that a dotted path names; None if there is none."""
    if path in schema.names:
        return schema.field(path).type
    name, *rest = path.split(".")
    kind = schema.field(name).type if name in schema.names else None
    for part in rest:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind if rest else None


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
