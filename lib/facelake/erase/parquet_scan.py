"""Reads the values of a Parquet file for the residual scan, however it is encoded, in bounded memory."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.erase.unpacking import Budget, Unsearchable
from facelake.parquet_chunks import has_dictionary, inflates, shares_prefixes
from facelake.parquet_footers import DamagedFooter, check_end

_MAGIC = b"PAR1"
_BATCH_BYTES, _MOST_ROWS, _LEAST_ROWS = 64 << 20, 1 << 16, 8
_MOST_INFLATED, _LEAST_INFLATED = 16, 1 << 28  # ratio and size above which a column cannot be searched


def is_parquet(data: bytes) -> bool:
    """Return whether an object is a Parquet file; readers look at its end, so that its beginning may be another."""
    if data[:4] == _MAGIC or data[-4:] != _MAGIC:
        return data[:4] == _MAGIC
    try:
        check_end(data)
        pq.read_metadata(io.BytesIO(data))
    except DamagedFooter:
        return True  # of which nothing can be said
    except (pa.ArrowException, OSError, ValueError):
        return False
    return True


def leaves(data: bytes, budget: Budget) -> Iterator[pa.Array]:
    """Yield the plain values of every column; those of a column that is encoded with a dictionary stay encoded.

    Raises:
        Unsearchable: a column is damaged, or decodes to more than can be searched.
    """
    try:
        check_end(data)
        metadata = pq.read_metadata(io.BytesIO(data))
        chunks = list(_chunks(metadata))
        if any(inflates(chunk, _LEAST_INFLATED, _MOST_INFLATED) for chunk in chunks):
            raise Unsearchable
        encoded = sorted({chunk.path_in_schema for chunk in chunks if has_dictionary(chunk)})
        shared = {chunk.path_in_schema for chunk in chunks if shares_prefixes(chunk)}
        paths = list(dict.fromkeys(chunk.path_in_schema for chunk in chunks))
        flat = [path for path in paths if "." not in path and path not in shared]
        nested = [path for path in paths if "." in path and path not in shared]
        every = list(range(metadata.num_row_groups))
        with pq.ParquetFile(io.BytesIO(data), metadata=metadata, read_dictionary=encoded) as file:
            yield from _read(file, flat, every)
            for group in every:  # Arrow cannot join dictionaries of several row groups inside of lists
                try:
                    yield from _read(file, nested, [group])
                except pa.ArrowNotImplementedError:  # a kind of nesting that it cannot read with dictionaries
                    with pq.ParquetFile(io.BytesIO(data), metadata=metadata) as plain:
                        yield from _read(plain, nested, [group], _LEAST_ROWS)
            for leaf in (leaf for path in sorted(shared) for leaf in _read(file, [path], every, 1)):
                budget.charge(leaf.nbytes)
                yield leaf
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError) as err:
        raise Unsearchable from err


def _read(file: pq.ParquetFile, paths: list[str], groups: list[int], most_rows: int = _MOST_ROWS) -> Iterator[pa.Array]:
    """Yield the plain values of some columns in some row groups."""
    if not paths or not groups:
        return
    chunks = [chunk for chunk in _chunks(file.metadata, groups) if chunk.path_in_schema in paths]
    size = sum(max(chunk.total_uncompressed_size, chunk.total_compressed_size) for chunk in chunks)
    rows = sum(file.metadata.row_group(group).num_rows for group in groups)
    at_once = min(max(_BATCH_BYTES * rows // max(size, 1), _LEAST_ROWS), most_rows)
    for batch in file.iter_batches(at_once, groups, columns=paths):
        yield from (leaf for column in batch.columns for leaf in _plain(column))


def _chunks(metadata: pq.FileMetaData, groups: list[int] | None = None) -> Iterator[pq.ColumnChunkMetaData]:
    for group in range(metadata.num_row_groups) if groups is None else groups:
        yield from (metadata.row_group(group).column(column) for column in range(metadata.num_columns))


def _plain(column: pa.Array) -> Iterator[pa.Array]:
    """Yield the arrays of plain values of a column, nested types unpacked."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        yield from _plain(column.storage)
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from _plain(column.field(i))
    elif pa.types.is_map(kind):
        yield from _plain(column.keys)
        yield from _plain(column.items)
    elif pa.types.is_nested(kind):  # every list type
        yield from _plain(column.flatten())
    else:
        yield column


def texts_outside(data: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the values of a footer, and the bytes that are neither in a column nor in the footer.

    The footer's values are key-value metadata, column names and statistics. They are decoded, because in the footer a
    string follows its length, and a length byte can look like a letter.
    """
    with pq.ParquetFile(io.BytesIO(data)) as file:
        metadata, schema = file.metadata, file.schema_arrow
    values = {name.encode() for name in metadata.schema.names}
    for pairs in [metadata.metadata, schema.metadata, *(field.metadata for field in schema)]:
        values.update(part for pair in (pairs or {}).items() for part in pair)
    spans = []
    for chunk in _chunks(metadata):
        begin = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
        spans.append((begin, begin + chunk.total_compressed_size))
        statistics = chunk.statistics
        if statistics is not None and statistics.has_min_max:
            values.update(v for v in (statistics.min_raw, statistics.max_raw) if isinstance(v, bytes))
    # page indexes lie between the last column and the footer; other bytes outside of columns are not Parquet's
    outside, end = [], 0
    for first, last in sorted(spans):
        outside.append(data[end:first])
        end = max(end, last)
    return sorted(values), [*(gap for gap in outside if gap), data[end:]]
