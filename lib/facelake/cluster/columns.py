"""Columns of face rows as arrays, no Python object per row: ids as 64-bit keys, vectors with a state each."""

from __future__ import annotations

from enum import IntEnum

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facelake.contracts import F32, I32, I64, U8

_LONG = 128
_BLOCK = 65_536
_NORM = 1e-6


class State(IntEnum):
    """Whether a face's vector can be compared."""

    SOUND = 0
    MISSING = 1
    WRONG_DIMENSION = 2
    NOT_FINITE = 3
    ZERO = 4
    TOO_POOR = 5
    """below the configured quality"""


def keys(column: pa.ChunkedArray | pa.Array, salt: int = 0) -> I64:
    """Return a 64-bit hash (n,) of each string: equal strings have equal keys on every machine.

    Args:
        column: (n,) strings.
        salt: selects another hash function, for when two strings collide.
    """
    array = _one(column).cast(pa.binary())
    offsets, body = _binary(array)
    lengths = np.diff(offsets)
    words = -(-min(int(lengths.max(initial=0)), _LONG) // 8)
    out = mix(lengths, salt) if salt else lengths.astype(np.uint64)
    for first in range(0, len(lengths), _BLOCK):
        part = slice(first, first + _BLOCK)
        padded = _padded(body, offsets[first : first + _BLOCK + 1], words * 8).view(np.uint64)
        for word in range(words):  # a word past a string's end must not count, however long the others are
            inside = lengths[part] > 8 * word
            out[part][inside] = mix(out[part][inside] ^ padded[inside, word], word)
    for i in np.flatnonzero(lengths > _LONG):  # rare: ids are short
        tail = bytes(body[offsets[i] + _LONG : offsets[i + 1]])
        out[i] ^= np.uint64(int.from_bytes(tail, "little") % (2**61 - 1))
    return out.view(np.int64)


def holds_vectors(kind: pa.DataType) -> bool:
    """Whether a column of this type can be read by `vectors`."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def dimension(column: pa.ChunkedArray | pa.Array) -> int:
    """Values per vector: that of the type, or of the most rows; 0 when there is none."""
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    lengths = np.diff(_offsets(_one(column))) // (2 if pa.types.is_binary(kind) else 1)
    lengths = lengths[lengths > 0]
    return int(np.bincount(lengths).argmax()) if len(lengths) else 0


def vectors(column: pa.ChunkedArray | pa.Array, dim: int) -> tuple[F32, U8]:
    """Unit vectors (n, dim) and the State (n,) of each; rows that are not sound are zero.

    The column is a list of float16/32/64 per row (of fixed size or not), or little-endian float16 as binary.
    """
    array = _one(column)
    state = np.full(len(array), State.SOUND, np.uint8)
    fixed = pa.types.is_fixed_size_list(array.type)
    if fixed:
        lengths = np.full(len(array), array.type.list_size)
        raw = array.flatten().to_numpy(zero_copy_only=False) if array.null_count == 0 else None
    else:
        scale = 2 if pa.types.is_binary(array.type) else 1
        offsets = _offsets(array)
        lengths = np.where(np.diff(offsets) % scale == 0, np.diff(offsets) // scale, -1)
        raw = None
        if array.null_count == 0 and (lengths == dim).all() and len(array):
            raw = _values(array)[offsets[0] // scale : offsets[-1] // scale]
    missing = np.asarray(array.is_null()) if array.null_count else np.zeros(len(array), bool)
    state[lengths != dim] = State.WRONG_DIMENSION
    state[missing] = State.MISSING
    out = np.zeros((len(array), dim), np.float32)
    if raw is not None and dim and (lengths == dim).all():
        out[:] = raw.reshape(len(array), dim)
    elif dim:
        for i in np.flatnonzero(state == State.SOUND):  # rare: a file with rows of different lengths
            out[i] = _row(array[int(i)], array.type)
    return _normalise(out, state), state


def vector_keys(vectors_: F32) -> I64:
    """A 64-bit hash (n,) of vectors (n, dim) at half precision: equal for exact duplicates."""
    half = vectors_.astype("<f2")
    pad = -half.shape[1] % 4
    if pad:
        half = np.pad(half, ((0, 0), (0, pad)))
    return np.asarray(_hash_rows(np.ascontiguousarray(half).view(np.uint64)), np.uint64).view(np.int64)


def mix(values: npt.NDArray[np.integer], seed: int) -> npt.NDArray[np.uint64]:
    """SplitMix64 of values (n,): a pseudo-random number for each, the same everywhere (Steele, Lea, Flood, 2014)."""
    with np.errstate(over="ignore"):
        x = values.astype(np.uint64) + np.uint64((0x9E3779B97F4A7C15 * (2 * seed + 1)) % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), np.uint64)


def chosen(values: npt.NDArray[np.integer], seed: int, share: float) -> npt.NDArray[np.bool_]:
    """Whether each value (n,) falls into a pseudo-random share, whatever the order."""
    if share >= 1:
        return np.ones(len(values), bool)
    return np.asarray(mix(values, seed) < np.uint64(share * 2**64), bool)


@numba.njit(cache=True, nogil=True)
def _hash_rows(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 over the words of each row, see mix."""
    out = np.zeros(len(words), np.uint64)
    for i in range(len(words)):
        x = np.uint64(0)
        for word in range(words.shape[1]):
            x = (x ^ words[i, word]) + np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
        out[i] = x
    return out


def _normalise(raw: F32, state: U8) -> F32:
    with np.errstate(invalid="ignore", over="ignore"):
        norm = np.linalg.norm(raw, axis=1)
    sound = state == State.SOUND
    state[sound & ~np.isfinite(norm)] = State.NOT_FINITE
    state[sound & (norm <= _NORM)] = State.ZERO
    sound = state == State.SOUND
    raw[~sound] = 0
    raw[sound] /= norm[sound, None]
    return raw


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_large_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    if pa.types.is_large_binary(column.type):
        column = column.cast(pa.binary())
    return column


def _offsets(array: pa.Array) -> I64:
    if pa.types.is_list(array.type):
        return np.asarray(array.offsets.to_numpy(), np.int64)
    return _binary(array)[0]


def _binary(array: pa.Array) -> tuple[I64, npt.NDArray[np.uint8]]:
    if not len(array):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    buffers = array.buffers()
    offsets: I32 = np.frombuffer(buffers[1], np.int32)[array.offset : array.offset + len(array) + 1]
    body = np.frombuffer(buffers[2], np.uint8) if buffers[2] is not None else np.zeros(0, np.uint8)
    return offsets.astype(np.int64), body


def _values(array: pa.Array) -> npt.NDArray[np.floating]:
    if pa.types.is_list(array.type):
        return np.asarray(array.values.to_numpy(zero_copy_only=False))
    return _binary(array)[1].view("<f2") if len(_binary(array)[1]) % 2 == 0 else _binary(array)[1][:-1].view("<f2")


def _row(value: pa.Scalar, kind: pa.DataType) -> npt.NDArray[np.floating]:
    if pa.types.is_binary(kind):
        return np.frombuffer(value.as_py(), "<f2")
    return np.asarray([np.nan if item is None else item for item in value.as_py()], np.float32)


def _padded(body: npt.NDArray[np.uint8], offsets: I64, width: int) -> npt.NDArray[np.uint8]:
    """(n, width) bytes of each string, cut or filled with zeros."""
    count = len(offsets) - 1
    at = offsets[:-1, None] + np.arange(width)
    there = at < np.minimum(offsets[1:, None], offsets[:-1, None] + width)
    out = np.zeros((count, width), np.uint8)
    out[there] = body[at[there]]
    return out
