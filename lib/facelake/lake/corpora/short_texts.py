"""Reads columns of names from a Parquet file of unknown origin, of which a few bytes can decode to terabytes.

A column that is encoded with a dictionary is read as such, so that a long value is in memory once, however many rows
refer to it; one whose values share prefixes is read a few rows at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.errors import ConfigError
from facelake.lake.corpora.parquet_checks import described
from facelake.parquet_chunks import has_dictionary, inflates, shares_prefixes

_LONGEST = 1 << 16  # bytes of one value
_MOST_BYTES, _PER_ROW = 64 << 20, 1 << 10  # decoded bytes of a column: at most so many, or so many for each row
_LEAST_INFLATED, _MOST_INFLATED = 64 << 20, 64  # size and ratio above which a column is not decompressed
_ROWS = 64  # read at once of a column whose values share prefixes
Reopen = Callable[[list[str]], pq.ParquetFile]


def short_texts(
    file: pq.ParquetFile, reopen: Reopen, columns: Sequence[str], where: str, rows: int = 1 << 16
) -> Iterator[pa.Table]:
    """Yield columns of a file in batches of at most `rows` rows, decoded; columns of numbers as they are.

    Args:
        file: the file.
        reopen: opens it again, with the columns of the given paths read as dictionaries.
        columns: names of columns, or paths of struct fields; none of photos.
        where: the file's place, for errors.
        rows: of a batch.

    Raises:
        ConfigError: a column decodes to more than names do.
    """
    chunks = list(_chunks_of(described(file.metadata, where), columns))
    for chunk in chunks:
        if inflates(chunk, _LEAST_INFLATED, _MOST_INFLATED):
            packed, size = chunk.total_compressed_size, chunk.total_uncompressed_size
            raise _refused(chunk.path_in_schema, f"{packed} bytes decompress to {size}", where)
    encoded = sorted({chunk.path_in_schema for chunk in chunks if has_dictionary(chunk)})
    if any(map(shares_prefixes, chunks)):
        rows = min(rows, _ROWS)
    decoded, seen = Counter[str](), 0
    for batch in (reopen(encoded) if encoded else file).iter_batches(rows, columns=list(columns)):
        seen += batch.num_rows
        for name in batch.schema.names:
            decoded[name] += _size(name, batch[name], where)
            if decoded[name] > max(_MOST_BYTES, seen * _PER_ROW):
                raise _refused(name, f"{seen} rows decode to {decoded[name]} bytes", where)
        yield pa.table([_decoded(column) for column in batch.columns], names=batch.schema.names)


def _chunks_of(metadata: pq.FileMetaData, columns: Sequence[str]) -> Iterator[pq.ColumnChunkMetaData]:
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            path = chunk.path_in_schema
            if any(path == name or path.startswith(f"{name}.") for name in columns):
                yield chunk


def _size(name: str, column: pa.Array, where: str) -> int:
    """The decoded bytes of the texts of a column; ConfigError if one is too long."""
    kind = column.type
    if pa.types.is_struct(kind):
        return sum(_size(f"{name}.{field.name}", column.field(i), where) for i, field in enumerate(kind))
    if isinstance(column, pa.DictionaryArray):
        _size(name, column.dictionary, where)
        if not _is_text(column.dictionary.type):
            return 0
        lengths = pc.binary_length(column.dictionary).take(column.indices)
    elif _is_text(kind):
        lengths = pc.binary_length(column)
        longest = pc.max(lengths).as_py() or 0
        if longest > _LONGEST:
            raise _refused(name, f"a value has {longest} bytes, a name has at most {_LONGEST}", where)
    else:
        return 0
    return int(pc.sum(lengths).as_py() or 0)


def _refused(name: str, what: str, where: str) -> ConfigError:
    next_step = "replace the file or move it out of the corpus"
    return ConfigError(f"column {name} holds no names: {what}", where=where, next_step=next_step)


def _is_text(kind: pa.DataType) -> bool:
    return str(kind) in ("string", "large_string", "binary", "large_binary")


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
