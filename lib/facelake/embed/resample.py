"""Bilinear resampling as in OpenCV (half-pixel centres, no smoothing, black outside the photo), and halving.

Published face models were trained on photos that OpenCV scaled, so that embeddings agree with insightface only if
pixels are sampled the same way. OpenCV itself is not a dependency: its several wheels conflict with each other. These
loops agree with it to one grey level (a test compares them).

Bilinear sampling skips pixels if a photo shrinks to less than half. Where smoothness is needed, the photo is halved
first, as often as possible (a mipmap: Williams, "Pyramidal parametrics", SIGGRAPH 1983).
"""

from __future__ import annotations

import numba
import numpy as np

from facelake.contracts import F32, F64, I64, U8

BITS = 11  # fixed-point bits of OpenCV's weights for 8-bit photos
_ONE = 1 << BITS


class Levels:
    """A photo (h, w, 3) uint8 and its mipmap levels, halved once, twice, ..., computed on demand."""

    def __init__(self, whole: U8) -> None:
        self._levels = [np.ascontiguousarray(whole)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (h, w, 3) of the photo."""
        return self._levels[0].shape

    @property
    def whole(self) -> U8:
        """The photo at full size."""
        return self._levels[0]

    def at(self, level: int) -> U8:
        """The photo halved `level` times; odd sides are rounded up."""
        while len(self._levels) <= level:
            self._levels.append(halved(self._levels[-1]))
        return self._levels[level]


def halved(pixels: U8) -> U8:
    """A photo (h, w, 3) reduced to the rounded means of 2 x 2 pixels; the last row or column of odd sizes counts
    twice.
    """
    height, width = pixels.shape[:2]
    half = np.empty((-(-height // 2), -(-width // 2), 3), np.uint8)
    _halve(np.ascontiguousarray(pixels), half)
    return half


def level_for(fine: float, height: int, width: int) -> int:
    """The number of halvings before sampling, if `fine` photo pixels map to one sampled pixel."""
    if not 2 <= fine < np.inf:
        return 0
    return int(min(np.log2(fine), np.log2(min(height, width))))


def at_level(inverse: F64, level: int | I64) -> F64:
    """Matrices (..., 2, 3) to photo pixels, converted to pixels of the photo halved `level` times."""
    part = 0.5 ** np.asarray(level, np.float64)
    matrices: F64 = inverse * part[..., None, None]
    matrices[..., 2] += (0.5 * part - 0.5)[..., None]
    return matrices


def resize_into(pixels: U8, square: U8, width: int, height: int, source: tuple[float, float] | None = None) -> None:
    """Scale (h, w, 3) pixels to `width` x `height` and write them into the top left of `square`.

    Args:
        source: height and width of the photo in these pixels; differs from the array's shape after halving odd sides.
    """
    if pixels.shape[:2] == (height, width) and (source is None or source == (height, width)):
        square[:height, :width] = pixels
        return
    whole = source or pixels.shape[:2]
    columns, across = taps(pixels.shape[1], width, whole[1])
    rows, down = taps(pixels.shape[0], height, whole[0])
    _resize(np.ascontiguousarray(pixels), square, columns, across, rows, down)


def fitted(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of a photo scaled into a square; the shorter side is truncated, as in insightface."""
    ratio = height / width
    if ratio > 1:
        return side, max(1, int(side / ratio))
    return max(1, int(side * ratio)), side


def warp_linear(pixels: U8, inverse: F64, side: int) -> U8:
    """Sample a (side, side, 3) crop; `inverse` (2, 3) maps crop pixels to photo pixels."""
    crop = np.empty((side, side, 3), np.uint8)
    _warp(np.ascontiguousarray(pixels), inverse, crop)
    return crop


def to_blob(photos: U8, mean: float, scale: float, *, swap: bool = False) -> F32:
    """(n, h, w, 3) uint8 to (n, 3, h, w) float32, (x - mean) * scale; `swap` reverses the channels."""
    count, height, width = photos.shape[:3]
    blob = np.empty((count, 3, height * width), np.float32)
    flat = np.ascontiguousarray(photos).reshape(count, height * width * 3)
    _blob(flat, np.float32(mean), np.float32(scale), swap, blob)
    return blob.reshape(count, 3, height, width)


def taps(source: int, target: int, whole: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """For each target pixel the first of two source pixels (int64), and the fixed-point weight of the second (int32).

    Args:
        whole: number of source pixels that map to the whole target; default: `source`.
    """
    where = (np.arange(target) + 0.5) * ((whole or source) / target) - 0.5
    first = np.floor(where)
    weight = np.rint((where - first).astype(np.float32) * _ONE).astype(np.int32)
    weight[(first < 0) | (first >= source - 1)] = 0
    return np.clip(first, 0, source - 1).astype(np.int64), weight


@numba.njit(cache=True, nogil=True)
def _resize(
    pixels: U8, square: U8, columns: np.ndarray, across: np.ndarray, rows: np.ndarray, down: np.ndarray
) -> None:
    """Interpolate between two rows first, which the compiler vectorises, then along the row. Integer arithmetic makes
    the
    order irrelevant."""
    height, width = pixels.shape[0], pixels.shape[1]
    flat = pixels.reshape(height, 3 * width)
    mixed = np.empty(3 * width + 3, np.int32)
    half = np.int32(1 << (2 * BITS - 1))
    for y in range(len(rows)):
        v = down[y]
        top, bottom = flat[rows[y]], flat[min(rows[y] + 1, height - 1)]
        for i in range(3 * width):
            mixed[i] = np.int32(top[i]) * (np.int32(_ONE) - v) + np.int32(bottom[i]) * v
        for x in range(len(columns)):
            first, u = 3 * columns[x], across[x]
            for c in range(3):
                near = mixed[first + c] * (np.int32(_ONE) - u) + half
                square[y, x, c] = np.uint8((near + mixed[first + 3 + c] * u) >> np.int32(2 * BITS))


@numba.njit(cache=True, nogil=True)
def _halve(pixels: U8, half: U8) -> None:
    """Add two rows first, which the compiler vectorises, then adjacent columns."""
    height, width = pixels.shape[0], pixels.shape[1]
    flat = pixels.reshape(height, 3 * width)
    sums = np.empty(3 * width + 3, np.uint16)
    for y in range(half.shape[0]):
        top, bottom = flat[2 * y], flat[min(2 * y + 1, height - 1)]
        for i in range(3 * width):
            sums[i] = np.uint16(top[i]) + np.uint16(bottom[i])
        for c in range(3):
            sums[3 * width + c] = sums[3 * width - 3 + c]
        for x in range(half.shape[1]):
            for c in range(3):
                half[y, x, c] = np.uint8((sums[6 * x + c] + sums[6 * x + 3 + c] + np.uint16(2)) >> np.uint16(2))


@numba.njit(cache=True, nogil=True)
def _warp(pixels: U8, inverse: F64, crop: U8) -> None:
    height, width = pixels.shape[0], pixels.shape[1]
    for y in range(crop.shape[0]):
        for x in range(crop.shape[1]):
            at_x = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
            at_y = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
            if not (-1.0 < at_x < width and -1.0 < at_y < height):  # also rejects NaN
                for c in range(3):
                    crop[y, x, c] = 0
                continue
            x0, y0 = int(np.floor(at_x)), int(np.floor(at_y))
            u, v = at_x - x0, at_y - y0
            near, right, below, last = (1.0 - v) * (1.0 - u), (1.0 - v) * u, v * (1.0 - u), v * u
            if 0 <= x0 < width - 1 and 0 <= y0 < height - 1:
                for c in range(3):
                    total = near * pixels[y0, x0, c] + right * pixels[y0, x0 + 1, c]
                    total = total + below * pixels[y0 + 1, x0, c] + last * pixels[y0 + 1, x0 + 1, c]
                    crop[y, x, c] = int(total + 0.5)
                continue
            for c in range(3):
                total = 0.0
                for j in range(2):
                    for i in range(2):
                        if 0 <= y0 + j < height and 0 <= x0 + i < width:
                            weight = (v if j else 1.0 - v) * (u if i else 1.0 - u)
                            total += weight * pixels[y0 + j, x0 + i, c]
                crop[y, x, c] = int(total + 0.5)


@numba.njit(cache=True, nogil=True)
def _blob(photos: U8, mean: np.float32, scale: np.float32, swap: bool, blob: F32) -> None:
    """Convert all three channels of a pixel at once, so that the compiler vectorises reads and writes."""
    first, last = (2, 0) if swap else (0, 2)
    for n in range(photos.shape[0]):
        pixels, plane0, plane1, plane2 = photos[n], blob[n, first], blob[n, 1], blob[n, last]
        for i in range(len(plane0)):
            plane0[i] = (np.float32(pixels[3 * i]) - mean) * scale
            plane1[i] = (np.float32(pixels[3 * i + 1]) - mean) * scale
            plane2[i] = (np.float32(pixels[3 * i + 2]) - mean) * scale
