"""The residual scan: searches every byte of a stored object, decoded where possible, for erased identifiers.

The cost is linear in the bytes scanned, whatever the number of needles (needles.py).
"""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facelake.contracts import I64
from facelake.erase.needles import Needles

_BATCH_BYTES = 64 << 20
_NESTED = 4  # levels of archives in archives that are unpacked
_MOST_BYTES = 1 << 28  # that one object may unpack to
_BLOCK = 1 << 16
_PACKED = 1 << 12  # bytes given to a decompressor at once: xz makes 7,000 times as many of them

_STREAMS = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bz2"), (b"\x04\x22\x4d\x18", "lz4"))

_XZ, _ZIP = b"\xfd7zXZ\0", b"PK"
_ARCHIVES = (*(magic for magic, _ in _STREAMS), _XZ, b"PK\x03\x04")

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)


class _Inflater(Protocol):
    """A decompressor of the standard library."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Unsearchable(Exception):
    """The object unpacks to more than can be searched."""


class _Budget:
    """How many bytes an object may still unpack to."""

    def __init__(self) -> None:
        self._left = _MOST_BYTES

    def joined(self, blocks: Iterable[bytes]) -> bytes:
        """Return the blocks together; raises _Unsearchable if they are more than what is left."""
        kept = []
        for block in blocks:
            self._left -= len(block)
            if self._left < 0:
                raise _Unsearchable
            kept.append(block)
        return b"".join(kept)


def scan(name: str, data: bytes, needles: Needles) -> int:
    """The number of occurrences in one stored object: in its name, its unpacked bytes and, for Parquet, every value.

    In a Parquet file, values that equal or contain a needle are counted. What cannot be decoded is searched as raw
    bytes. An object that unpacks to more than 256 MiB, or has archives nested more than four levels deep, counts as one
    occurrence: nothing can be said about it.
    """
    if not (needles.texts or needles.blobs):
        return 0
    spellings = {form.encode(errors="surrogateescape") for form in (name, unquote(name))}
    in_name = int(any(map(needles.in_name, spellings)))
    try:
        return in_name + _in_object(name, data, needles, _NESTED, _Budget())
    except _Unsearchable:
        return in_name + max(1, _in_raw(data, needles))


def _in_object(name: str, data: bytes, needles: Needles, depth: int, budget: _Budget) -> int:
    if name.endswith(".parquet") or data[:4] == b"PAR1":
        return _in_parquet(data, needles)
    if not depth and data.startswith(_ARCHIVES):
        raise _Unsearchable
    inside = 0
    for member, content in _unpacked(data, budget) if depth else ():
        inside += needles.in_name(member.encode(errors="surrogateescape"))
        inside += _in_object(member, content, needles, depth - 1, budget)
    return max(inside, _in_raw(data, needles))  # uncompressed members are in both counts


def _in_raw(data: bytes, needles: Needles) -> int:
    view = memoryview(data)
    return len(needles.in_text(view, np.array([0, len(view)]))) + len({begin for begin, _ in needles.in_bytes(view)})


def _unpacked(data: bytes, budget: _Budget) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the members of a compressed object; none if it is of another type or unreadable."""
    for magic, codec in _STREAMS:
        if data.startswith(magic):
            yield "", budget.joined(_stream(data, codec))
            return
    if data[:1] == b"\x78" and len(data) > 2 and int.from_bytes(data[:2], "big") % 31 == 0:
        yield "", budget.joined(_inflated(data, zlib.decompressobj))
    elif data.startswith(_XZ):
        yield "", budget.joined(_inflated(data, lzma.LZMADecompressor))
    elif data.startswith(_ZIP):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for member in archive.infolist():
                    with archive.open(member) as file:
                        yield member.filename, budget.joined(iter(partial(file.read, _BLOCK), b""))
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError):
            return  # damaged, encrypted or of a method that Python lacks


def _inflated(data: bytes, start: Callable[[], _Inflater]) -> Iterator[bytes]:
    """The content of zlib or xz streams one after another, as appending writes them, up to the first damage."""
    try:
        while data:
            stream, at = start(), 0
            while at < len(data) and not stream.eof:
                yield stream.decompress(data[at : at + _PACKED])
                at += _PACKED
            data = stream.unused_data + data[at:]
    except (zlib.error, lzma.LZMAError, EOFError):
        pass  # truncated or damaged: the readable part is searched


def _stream(data: bytes, codec: str) -> Iterator[bytes]:
    """The content of a compressed stream, up to the first damage."""
    with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
        try:
            while block := stream.read(_BLOCK):
                yield block
        except (pa.ArrowException, OSError):
            pass  # truncated: the readable part is searched


def _in_parquet(data: bytes, needles: Needles) -> int:
    hits = 0
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            for batch in file.iter_batches(batch_size=_batch_rows(file.metadata)):
                hits += sum(_in_values(leaf, needles) for column in batch.columns for leaf in _leaves(column))
            hits += _in_footer(file, data, needles)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return max(hits, _in_raw(data, needles))
    return hits


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """The number of rows for which a batch of photos fits into memory."""
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return int(min(max(_BATCH_BYTES * metadata.num_rows // max(size, 1), 64), 1 << 16))


def _in_footer(file: pq.ParquetFile, data: bytes, needles: Needles) -> int:
    """Hits in key-value metadata, column names and statistics; in the raw footer if these have none.

    They are decoded, because in the footer a string follows its length, and a length byte can look like a letter.
    """
    metadata = file.metadata
    values = {name.encode() for name in metadata.schema.names}
    for pairs in [metadata.metadata, file.schema_arrow.metadata, *(f.metadata for f in file.schema_arrow)]:
        values.update(part for pair in (pairs or {}).items() for part in pair)
    spans = []
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
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
    between = sum(_in_raw(gap, needles) for gap in outside if gap)
    known = _in_values(pa.array(sorted(values), pa.large_binary()), needles)
    return between + (known or _in_raw(data[end:], needles))


def _leaves(column: pa.Array) -> Iterator[pa.Array]:
    """The arrays of plain values of a column, nested types unpacked."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        yield from _leaves(column.storage)
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from _leaves(column.field(i))
    elif pa.types.is_map(kind):
        yield from _leaves(column.keys)
        yield from _leaves(column.items)
    elif pa.types.is_nested(kind):  # every list type
        yield from _leaves(column.flatten())
    elif pa.types.is_dictionary(kind):
        yield from _leaves(column.dictionary)
    else:
        yield column


def _in_values(leaf: pa.Array, needles: Needles) -> int:
    """The number of values that equal or contain a needle; in a numeric array the number of embeddings."""
    kind = leaf.type
    if pa.types.is_primitive(kind):
        return _in_numbers(leaf, needles) if kind.bit_width >= 8 else 0
    if not any(is_kind(kind) for is_kind in (*_TEXT, *_BINARY)):
        return 0
    values = leaf.cast(pa.large_binary())
    data, edges = _packed(values)
    spans = np.array(sorted(needles.in_bytes(data)), np.int64).reshape(-1, 2)
    at = np.searchsorted(edges, spans[:, 0], side="right") - 1
    hit = set(at[spans[:, 1] <= edges[at + 1]].tolist())
    # photos too: their metadata may name people
    at = np.searchsorted(edges, needles.in_text(data, edges), side="right") - 1
    return len(hit.union(at.tolist()))


def _in_numbers(leaf: pa.Array, needles: Needles) -> int:
    """The number of embeddings stored as lists of numbers; float64 is narrowed, since Python widens half precision."""
    leaf = leaf.cast(pa.float32(), safe=False) if pa.types.is_float64(leaf.type) else leaf
    width = leaf.type.bit_width // 8
    buffer = leaf.buffers()[1]
    data = memoryview(buffer)[leaf.offset * width : (leaf.offset + len(leaf)) * width] if buffer else memoryview(b"")
    return len({begin for begin, _ in needles.in_bytes(data)})


def _packed(values: pa.Array) -> tuple[memoryview, I64]:
    """The bytes of all values of a large_binary array, and the offsets (n + 1,) that delimit them."""
    if not len(values):
        return memoryview(b""), np.zeros(1, np.int64)
    _, offsets, data = values.buffers()
    edges = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    first, last = int(edges[0]), int(edges[-1])
    return memoryview(data or b"")[first:last], edges - first
