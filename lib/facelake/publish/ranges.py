"""Ranges of identity ids: `identities` and `memberships` are files of one range each, so that tasks own ranges.

A data file's name begins with the range that it holds: `r<bits>-<number>-...`, where the range is given by the first
bits of the id. Files of another form, as an erasure may leave them, hold rows of any range.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from facelake.contracts import I64

_MAX_BITS = 15  # three characters of an id
RANGE_BYTES = 32 << 20  # of the templates and exemplars of one range
_ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"  # of base32 in lower case, in the order of characters
_PREFIX = len("id-")
_STEM = re.compile(r"r(\d{2})-(\d{5})-")


def bits_for(identities: int, dim: int, exemplars: int, current: int | None) -> int:
    """Return how many bits divide the ids, so that a range's templates take about 32 MiB.

    Args:
        identities: number of active identities.
        dim: dimensions of a template (float32); exemplars are float16.
        exemplars: exemplars per identity.
        current: bits of the version before, kept while ranges are within half and four times the target.
    """
    size = identities * dim * (4 + 2 * exemplars)
    wanted = min(max(int(np.ceil(np.log2(max(size / RANGE_BYTES, 1)))), 0), _MAX_BITS)
    if current is not None and wanted - 2 <= current <= wanted + 1:
        return current
    return wanted


def ranges_of(ids: list[str] | pa.Array | pa.ChunkedArray, bits: int) -> I64:
    """Return the range (n,) of each identity id; ranges ascend with the ids."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    texts = np.asarray(ids.to_pylist() if isinstance(ids, pa.Array) else ids, dtype="S")
    if not len(texts):
        return np.zeros(0, np.int64)
    width = texts.dtype.itemsize
    raw = texts.view(np.uint8).reshape(len(texts), width)
    if width < _PREFIX + 3:
        raw = np.pad(raw, ((0, 0), (0, _PREFIX + 3 - width)))
    digits = np.searchsorted(np.frombuffer(_ALPHABET.encode(), np.uint8), raw[:, _PREFIX : _PREFIX + 3])
    digits = np.minimum(digits, len(_ALPHABET) - 1).astype(np.int64)
    first = (digits[:, 0] << 10) | (digits[:, 1] << 5) | digits[:, 2]
    return first >> (_MAX_BITS - bits)


def stem_of(bits: int, number: int) -> str:
    """Return the start of the name of a range's data files."""
    return f"r{bits:02d}-{number:05d}"


def range_of_file(path: str) -> tuple[int, int] | None:
    """Return (bits, number) of the range that a data file holds; None if it may hold rows of any range."""
    match = _STEM.match(path)
    return (int(match[1]), int(match[2])) if match else None
