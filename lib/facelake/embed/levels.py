"""Grey levels that Pillow leaves as they are stored: more than 8 bits, signed, floating point, minimum is white.

A file's bits per sample say little about the levels in use: 10 and 12 bits are stored in 16, and floating point has any
range. White is therefore the largest level of the least usual number of bits that holds all levels of the photo.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as Tag

from facelake.contracts import U8

_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_BITS = (8, 10, 12, 14, 16, 20, 24, 31, 32)
_UNSIGNED, _SIGNED = 1, 2  # sample formats: TIFF 6.0, section 19
_MIN_IS_WHITE, _MIN_IS_BLACK = 0, 1
_SAMPLES = 1 << 16  # pixels of a strip from which the usual range of levels is taken
_SAMPLE = 1024  # pixels of a side
_OUTSIDE = 0.1  # per cent of the pixels at either end that may be outside the usual range
_USUAL = (
    (0.0, 1.0),
    (16.0, 255.0),
    (4096.0, 65535.0),
)  # levels of white in floating point, and how dark a photo may be
_MOST_BYTES_IN_TABLE = 2  # of a number
_ROUNDING = 1e-4  # a level that is whole must not become the one below


@dataclass(frozen=True, slots=True)
class Levels:
    """What the numbers of a photo mean: their type, and which of them are black and white."""

    kind: np.dtype[Any]
    black: float
    white: float

    def to_8_bits(self, numbers: np.ndarray[Any, Any]) -> U8:
        """Levels 0..255."""
        numbers = numbers.view(self.kind)
        if self.kind.itemsize > _MOST_BYTES_IN_TABLE:
            return self._scaled(numbers)
        code = np.dtype(f"u{self.kind.itemsize}").newbyteorder(self.kind.byteorder)
        table = self._scaled(np.arange(1 << 8 * self.kind.itemsize).astype(code).view(self.kind))
        small: U8 = table[numbers.view(code)]
        return small

    def _scaled(self, numbers: np.ndarray[Any, Any]) -> U8:
        scaled: Any = numbers.astype(np.float32 if self.kind.kind == "f" else np.float64)
        scaled -= self.black
        scaled *= 255 / (self.white - self.black)
        scaled += _ROUNDING
        np.clip(scaled, 0, 255, out=scaled)
        if self.kind.kind == "f":
            scaled[np.isnan(scaled)] = 0
        small: U8 = scaled.astype(np.uint8)
        return small


@dataclass(frozen=True, slots=True)
class _Range:
    """The least and largest level, and the levels between which nearly all are."""

    least: float
    largest: float
    low: float
    high: float


def levels_of(image: Image.Image, strips: Iterable[Image.Image]) -> Levels | None:
    """The levels of a loaded photo; None if they are 0..255.

    Args:
        image: the photo.
        strips: its parts.
    """
    kind = _kind_of(image)
    if kind is None:
        return None
    if kind.kind == "f":  # all that counts is where nearly all levels are
        strips = [image.resize((min(image.width, _SAMPLE), min(image.height, _SAMPLE)), Image.Resampling.NEAREST)]
    ranges = [found for strip in strips if (found := _range_of(np.asarray(strip).view(kind)))]
    black, white = _black_and_white(ranges, whole=kind.kind != "f")
    inverted = _tag(image, Tag.PhotometricInterpretation, _MIN_IS_BLACK) == _MIN_IS_WHITE
    return Levels(kind, white, black) if inverted else Levels(kind, black, white)


def white_of(largest: float) -> float:
    """The white level of a photo whose levels are whole numbers up to `largest`."""
    return float((1 << next((bits for bits in _BITS if largest < 1 << bits), _BITS[-1])) - 1)


def _kind_of(image: Image.Image) -> np.dtype[Any] | None:
    """The type of the numbers in Pillow's memory, which is signed for all of 32 bits; None: levels 0..255."""
    sample_format = _tag(image, Tag.SampleFormat, _UNSIGNED) if image.format == "TIFF" else _SIGNED
    if image.mode in _SIXTEEN_BIT:
        return np.dtype(">u2" if image.mode == "I;16B" else np.uint16)
    if image.mode == "I":
        return np.dtype(np.uint32 if sample_format == _UNSIGNED else np.int32)
    if image.mode == "F":
        return np.dtype(np.float32)
    signed_bytes = image.format == "TIFF" and image.mode == "L" and sample_format == _SIGNED
    return np.dtype(np.int8) if signed_bytes else None


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """A TIFF's tag; the default in other formats."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _range_of(numbers: np.ndarray[Any, Any]) -> _Range | None:
    flat = numbers.ravel()
    if numbers.dtype.kind == "f":
        flat = flat[np.isfinite(flat)]
    if not flat.size:
        return None
    low, high = np.percentile(flat[:: 1 + flat.size // _SAMPLES].astype(np.float64), (_OUTSIDE, 100 - _OUTSIDE))
    return _Range(float(flat.min()), float(flat.max()), float(low), float(high))


def _black_and_white(ranges: list[_Range], *, whole: bool) -> tuple[float, float]:
    """The levels of black and white. Signed numbers and unusual floating point have those of nearly all pixels."""
    if not ranges:
        return 0.0, 1.0
    if whole and min(r.least for r in ranges) >= 0:
        return 0.0, white_of(max(r.largest for r in ranges))
    low, high = min(r.low for r in ranges), max(r.high for r in ranges)
    usual = next((white for least, white in _USUAL if least < high <= white), None)
    if low >= 0 and usual and not whole:
        return 0.0, usual
    return low, high if high > low else low + 1
