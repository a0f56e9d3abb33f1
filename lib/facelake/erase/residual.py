"""The residual scan: searches every byte of a stored object, decoded where possible, for erased identifiers.

The cost is linear in the bytes scanned, whatever the number of needles (needles.py).
"""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from facelake.contracts import I64
from facelake.erase import parquet_scan
from facelake.erase.needles import Needles
from facelake.erase.unpacking import Budget, Unsearchable, is_archive, packed_heads, unpacked

_VALUE_BYTES = 16 << 20  # that a value of a column may unpack to
_NESTED = 4  # levels of archives in archives that are unpacked
_HEADS = packed_heads()

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)


def scan(name: str, data: bytes, needles: Needles) -> int:
    """The number of occurrences in one stored object: in its name, its unpacked bytes and, for Parquet, every value.

    In a Parquet file, values that equal or contain a needle are counted. An object that unpacks to more than 256 MiB,
    has archives nested more than four levels deep, or is a zip archive or Parquet file of which a part cannot be
    decoded, counts as one occurrence: nothing can be said about it. What is no archive is searched as raw bytes.
    """
    if not (needles.texts or needles.blobs):
        return 0
    spellings = {form.encode(errors="surrogateescape") for form in (name, unquote(name))}
    in_name = int(any(map(needles.in_name, spellings)))
    try:
        return in_name + _in_object(data, needles, _NESTED, Budget())
    except Unsearchable:
        return in_name + max(1, _in_raw(data, needles))


def _in_object(data: bytes, needles: Needles, depth: int, budget: Budget) -> int:
    if parquet_scan.is_parquet(data):
        return _in_parquet(data, needles, depth, budget)
    if not depth:
        if is_archive(data):
            raise Unsearchable
        return _in_raw(data, needles)
    inside = 0
    for member, content in unpacked(data, budget):
        inside += needles.in_name(member.encode(errors="surrogateescape"))
        inside += _in_object(content, needles, depth - 1, budget)
    return max(inside, _in_raw(data, needles))  # uncompressed members are in both counts


def _in_raw(data: bytes, needles: Needles) -> int:
    view = memoryview(data)
    return len(needles.in_text(view, np.array([0, len(view)]))) + len({begin for begin, _ in needles.in_bytes(view)})


def _in_parquet(data: bytes, needles: Needles, depth: int, budget: Budget) -> int:
    hits = sum(_in_values(leaf, needles, depth) for leaf in parquet_scan.leaves(data, budget))
    values, outside = parquet_scan.texts_outside(data)
    known = _in_values(pa.array(values, pa.large_binary()), needles, 0)
    *gaps, footer = outside
    return hits + sum(_in_raw(gap, needles) for gap in gaps) + (known or _in_raw(footer, needles))


def _in_values(leaf: pa.Array, needles: Needles, depth: int) -> int:
    """The number of values that equal or contain a needle; in a numeric array the number of embeddings."""
    kind = leaf.type
    if isinstance(leaf, pa.DictionaryArray):
        return _in_encoded(leaf, needles, depth)
    if pa.types.is_primitive(kind):
        return _in_numbers(leaf, needles) if kind.bit_width >= 8 else 0
    if not any(is_kind(kind) for is_kind in (*_TEXT, *_BINARY)):
        return 0
    return len(_hit_values(leaf, needles, depth))


def _in_encoded(leaf: pa.DictionaryArray, needles: Needles, depth: int) -> int:
    """As `_in_values`, of values that refer to a dictionary; one hit if only values are hit to which none refers."""
    if not any(is_kind(leaf.dictionary.type) for is_kind in (*_TEXT, *_BINARY)):
        return _in_values(leaf.dictionary, needles, depth)
    hit = sorted(_hit_values(leaf.dictionary, needles, depth))
    referring = np.isin(leaf.indices.drop_null().to_numpy(), hit)
    return max(int(referring.sum()), min(len(hit), 1))


def _hit_values(leaf: pa.Array, needles: Needles, depth: int) -> set[int]:
    """The numbers of the texts or byte strings that equal or contain a needle."""
    data, edges = _packed(leaf.cast(pa.large_binary()))
    spans = np.array(sorted(needles.in_bytes(data)), np.int64).reshape(-1, 2)
    at = np.searchsorted(edges, spans[:, 0], side="right") - 1
    hit = set(at[spans[:, 1] <= edges[at + 1]].tolist())
    # photos too: their metadata may name people
    at = np.searchsorted(edges, needles.in_text(data, edges), side="right") - 1
    hit.update(at.tolist())
    if depth and any(is_kind(leaf.type) for is_kind in _BINARY):  # packed bytes are no text
        hit |= _in_packed_values(data, edges, needles, depth)
    return hit


def _in_packed_values(data: memoryview, edges: I64, needles: Needles, depth: int) -> set[int]:
    """The numbers of values that are packed, or have packed texts, in which a needle occurs.

    A value that cannot be unpacked, or unpacks to more than 16 MiB, is not searched further: it may come from whoever
    supplies photos, and must not prevent erasures.
    """
    raw, hit = np.frombuffer(data, np.uint8), set[int]()
    long = np.flatnonzero(np.diff(edges) > 8)
    begins = edges[long]
    heads = raw[begins].astype(np.int64) << 8 | raw[begins + 1]
    for number in long[_HEADS[heads]].tolist():
        value = bytes(data[edges[number] : edges[number + 1]])
        budget = Budget(_VALUE_BYTES)
        with suppress(Unsearchable):
            if any(_in_object(content, needles, depth - 1, budget) for _, content in unpacked(value, budget)):
                hit.add(number)
    return hit


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
