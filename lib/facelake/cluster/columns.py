"""Columns of face rows as arrays, no Python object per row: ids as 64-bit keys, vectors with a state each."""

from __future__ import annotations

from enum import IntEnum

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facelake.contracts import F32, I32, I64, U8

_LONG = 128
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


_NOT_FINITE, _ZERO = int(State.NOT_FINITE), int(State.ZERO)  # for compiled functions


def keys(column: pa.ChunkedArray | pa.Array, salt: int = 0) -> I64:
    """Return a 64-bit hash (n,) of each string: equal strings have equal keys on every machine.

    Args:
        column: (n,) strings.
        salt: selects another hash function, for when two strings collide.
    """
    if isinstance(column, pa.ChunkedArray):  # chunk by chunk: one array holds at most 2 GiB of text
        return np.concatenate([np.zeros(0, np.int64), *(keys(chunk, salt) for chunk in column.chunks)])
    array = _one(column).cast(pa.binary())
    offsets, body = _binary(array)
    lengths = np.diff(offsets)
    out = mix(lengths, salt) if salt else lengths.astype(np.uint64)
    _hash_strings(body, offsets, out)
    _hash_tails(body, offsets, out)
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
    if raw is not None and dim and not fixed and raw.dtype == np.float16:
        halves = np.ascontiguousarray(raw).view(np.uint16).reshape(len(array), dim)
        out = np.empty(halves.shape, np.float32)
        _unit_of_halves(halves, out, out.view(np.uint32), state)
        return out, state
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
def _mixed(x: np.uint64, seed: int) -> np.uint64:
    """SplitMix64 of one value: `mix`, for compiled functions."""
    x += np.uint64(0x9E3779B97F4A7C15) * np.uint64(2 * seed + 1)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _hash_rows(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 over the words of each row, see mix."""
    out = np.zeros(len(words), np.uint64)
    for i in range(len(words)):
        x = np.uint64(0)
        for word in range(words.shape[1]):
            x = _mixed(x ^ words[i, word], 0)
        out[i] = x
    return out


@numba.njit(cache=True, nogil=True)
def _word(body: npt.NDArray[np.uint8], at: int, end: int) -> np.uint64:
    """The little-endian word of up to eight bytes from `at` on, filled up with zeros after `end`."""
    word = np.uint64(0)
    for byte in range(min(8, end - at)):
        word |= np.uint64(body[at + byte]) << np.uint64(8 * byte)
    return word


@numba.njit(cache=True, nogil=True)
def _hash_strings(body: npt.NDArray[np.uint8], offsets: I64, out: npt.NDArray[np.uint64]) -> None:
    """Mix the first _LONG bytes of each string into `out` (n,), in little-endian words filled up with zeros."""
    for i in range(len(out)):
        x, start = out[i], offsets[i]
        end = min(offsets[i + 1], start + _LONG)
        for number, at in enumerate(range(start, end, 8)):
            x = _mixed(x ^ _word(body, at, end), number)
        out[i] = x


@numba.njit(cache=True, nogil=True)
def _hash_tails(body: npt.NDArray[np.uint8], offsets: I64, out: npt.NDArray[np.uint64]) -> None:
    """Mix the bytes after the first _LONG of each string into `out` (n,): as a little-endian integer modulo 2^61 - 1.

    Modulo that number 2^64 is 8 and 2^61 is 1, so that words are added from the last one on and folded.
    """
    prime, bits, three = np.uint64(2**61 - 1), np.uint64(61), np.uint64(3)
    for i in range(len(out)):
        start, end = offsets[i] + _LONG, offsets[i + 1]
        x = np.uint64(0)
        for number in range((end - start + 7) // 8 - 1, -1, -1):
            word = _word(body, start + 8 * number, end)
            x = x << three
            x = (x & prime) + (x >> bits) + (word & prime) + (word >> bits)
            x = (x & prime) + (x >> bits)
            if x >= prime:
                x -= prime
        if end > start:
            out[i] ^= x


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _unit_of_halves(
    halves: npt.NDArray[np.uint16], out: F32, bits: npt.NDArray[np.uint32], state: npt.NDArray[np.uint8]
) -> None:
    """Write unit vectors (n, dim) of float16 values; numpy converts those one by one, here many at a time.

    Exponent and mantissa of a half, moved to their place in a float32, are the value times 2^-112; also where it is
    subnormal.

    Args:
        halves: (n, dim) bits of the float16 values.
        out: (n, dim) receives the vectors, zero where they are not sound.
        bits: the same memory.
        state: (n,) State, changed where a row is not sound.
    """
    scale, zero = np.float32(2.0**112), np.float32(0)
    for i in range(len(halves)):
        largest = np.uint16(0)
        for d in range(halves.shape[1]):
            half = halves[i, d]
            largest = max(largest, np.uint16(half & 0x7C00))
            bits[i, d] = (np.uint32(half & 0x7FFF) << np.uint32(13)) | (np.uint32(half & 0x8000) << np.uint32(16))
        total = zero
        for d in range(halves.shape[1]):
            value = out[i, d] * scale
            out[i, d] = value
            total += value * value
        norm = np.sqrt(total)
        if largest == 0x7C00:  # infinite or not a number
            state[i] = _NOT_FINITE
        elif norm <= np.float32(_NORM):
            state[i] = _ZERO
        else:
            for d in range(halves.shape[1]):
                out[i, d] /= norm
            continue
        out[i] = zero


def _normalise(raw: F32, state: U8) -> F32:
    with np.errstate(invalid="ignore", over="ignore"):
        norm = np.linalg.norm(raw, axis=1)
    sound = state == State.SOUND
    state[sound & ~np.isfinite(norm)] = State.NOT_FINITE
    state[sound & (norm <= _NORM)] = State.ZERO
    sound = state == State.SOUND
    if sound.all():  # without copies of the rows
        raw /= norm[:, None]
        return raw
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
