"""Looking for what an erasure left behind: every byte of a stored object, decoded as far as it can be."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

_SEARCHED_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Needles:
    """Byte strings that must not occur anywhere: identifiers and embeddings."""

    values: tuple[bytes, ...]

    @classmethod
    def of(cls, texts: Iterable[str], blobs: Iterable[bytes] = ()) -> Needles:
        """From identifiers and raw embedding bytes."""
        return cls(tuple(sorted({t.encode() for t in texts if t} | {b for b in blobs if len(b) >= 8})))

    def pattern(self) -> re.Pattern[bytes] | None:
        """One pattern for all; identifiers count only where they are not part of a longer identifier."""
        if not self.values:
            return None
        longest_first = sorted(self.values, key=len, reverse=True)
        word = rb"(?<![0-9A-Za-z_./-])(?:" + b"|".join(re.escape(v) for v in longest_first) + rb")(?![0-9A-Za-z_-])"
        return re.compile(word)


def scan(name: str, data: bytes, needles: Needles) -> int:
    """Count occurrences in one stored object: in its raw bytes, and in every value if it is Parquet."""
    pattern = needles.pattern()
    if pattern is None:
        return 0
    if not name.endswith(".parquet"):
        return sum(1 for _ in pattern.finditer(data))
    wanted = frozenset(needles.values)
    footer = int.from_bytes(data[-8:-4], "little")
    hits = sum(1 for _ in pattern.finditer(data[-8 - footer :]))  # schema, statistics, key-value metadata
    for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches():
        for column in batch.columns:
            hits += sum(_holds(value, wanted, pattern) for value in _values(column))
    return hits


def _holds(value: bytes, wanted: frozenset[bytes], pattern: re.Pattern[bytes]) -> bool:
    """Is the value a needle, or does it carry one inside (JSON, packed bytes)? Photos are not searched for text."""
    return value in wanted or (len(value) <= _SEARCHED_BYTES and bool(pattern.search(value)))


def _values(column: pa.Array) -> Iterator[bytes]:
    """Every string and binary value of a column, nested ones included."""
    kind = column.type
    if pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from _values(column.field(i))
    elif pa.types.is_map(kind):
        yield from _values(column.keys)
        yield from _values(column.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _values(column.flatten())
    elif pa.types.is_dictionary(kind):
        yield from _values(column.dictionary)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from (value.encode() for value in column.to_pylist() if value is not None)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        yield from (value for value in column.to_pylist() if value is not None)
