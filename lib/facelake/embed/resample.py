"""Bilinear resampling as OpenCV does it: half-pixel centres, no smoothing, black outside the photo.

Published face models were trained and are run on photos that OpenCV scaled, so a pack gives the same faces here as in
insightface only if pixels are sampled the same way. OpenCV itself is not needed for that: its wheels exclude each
other, and these three loops agree with it to one grey level (a test holds them against it).
"""

from __future__ import annotations

import numba
import numpy as np

from facelake.contracts import F32, F64, U8

BITS = 11  # fixed-point bits of OpenCV's weights for 8-bit photos
_ONE = 1 << BITS


def resize_into(pixels: U8, square: U8, width: int, height: int) -> None:
    """Scale (h, w, 3) pixels to `width` x `height` and write them into the top left of `square`."""
    if pixels.shape[:2] == (height, width):
        square[:height, :width] = pixels
        return
    columns, across = taps(pixels.shape[1], width)
    rows, down = taps(pixels.shape[0], height)
    _resize(np.ascontiguousarray(pixels), square, columns, across, rows, down)


def fitted(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of a photo in a square, the shorter side truncated as insightface does it."""
    ratio = height / width
    if ratio > 1:
        return side, max(1, int(side / ratio))
    return max(1, int(side * ratio)), side


def warp_linear(pixels: U8, inverse: F64, side: int) -> U8:
    """Sample a (side, side, 3) crop; `inverse` (2, 3) maps crop pixels to photo pixels."""
    crop = np.empty((side, side, 3), np.uint8)
    _warp(np.ascontiguousarray(pixels), inverse, crop)
    return crop


def to_blob(photos: U8, mean: float, scale: float, swap: bool = False) -> F32:
    """(n, h, w, 3) uint8 to (n, 3, h, w) float32, (x - mean) * scale; `swap` reverses the channels."""
    count, height, width = photos.shape[:3]
    blob = np.empty((count, 3, height * width), np.float32)
    flat = np.ascontiguousarray(photos).reshape(count, height * width * 3)
    _blob(flat, np.float32(mean), np.float32(scale), swap, blob)
    return blob.reshape(count, 3, height, width)


def taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Per target pixel the first of two source pixels, and the fixed-point weight of the second."""
    where = (np.arange(target) + 0.5) * (source / target) - 0.5
    first = np.floor(where)
    weight = np.rint((where - first).astype(np.float32) * _ONE).astype(np.int32)
    weight[(first < 0) | (first >= source - 1)] = 0
    return np.clip(first, 0, source - 1).astype(np.int64), weight


@numba.njit(cache=True, nogil=True)
def _resize(
    pixels: U8, square: U8, columns: np.ndarray, across: np.ndarray, rows: np.ndarray, down: np.ndarray
) -> None:
    """Two rows into one first, which the compiler vectorises; then along it. Integers: the order changes nothing."""
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
def _warp(pixels: U8, inverse: F64, crop: U8) -> None:
    height, width = pixels.shape[0], pixels.shape[1]
    for y in range(crop.shape[0]):
        for x in range(crop.shape[1]):
            at_x = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
            at_y = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
            if not (-1.0 < at_x < width and -1.0 < at_y < height):  # NaN too
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
    """All three channels of a pixel at once: then the compiler reads and writes whole vectors."""
    first, last = (2, 0) if swap else (0, 2)
    for n in range(photos.shape[0]):
        pixels, one, two, three = photos[n], blob[n, first], blob[n, 1], blob[n, last]
        for i in range(len(one)):
            one[i] = (np.float32(pixels[3 * i]) - mean) * scale
            two[i] = (np.float32(pixels[3 * i + 1]) - mean) * scale
            three[i] = (np.float32(pixels[3 * i + 2]) - mean) * scale
