"""Whether a few bytes of a Parquet file can decode to many, as its footer says of each column chunk."""

from __future__ import annotations

import pyarrow.parquet as pq


def has_dictionary(chunk: pq.ColumnChunkMetaData) -> bool:
    """Return whether values refer to a dictionary: any number of rows can have one long value."""
    return bool(chunk.physical_type == "BYTE_ARRAY" and chunk.has_dictionary_page)


def shares_prefixes(chunk: pq.ColumnChunkMetaData) -> bool:
    """Return whether values begin as the one before does: a few bytes can be any number of long values."""
    return "DELTA_BYTE_ARRAY" in chunk.encodings


def inflates(chunk: pq.ColumnChunkMetaData, least: int, ratio: int) -> bool:
    """Return whether a chunk decompresses to more than `least` bytes and to more than `ratio` times its size."""
    size = chunk.total_uncompressed_size
    return bool(size > least and size > ratio * chunk.total_compressed_size)
