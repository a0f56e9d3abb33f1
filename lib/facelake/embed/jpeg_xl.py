"""Photos in JPEG XL (ISO/IEC 18181), decoded by libjxl where the extra `jxl` is installed.

libjxl decodes a whole file at once, so that the size is read from the codestream's first bits before, and the rest is
done in a process whose time and memory are limited (jpeg_xl_process.py). Only the codestream is passed on: boxes of
metadata may be compressed without a limit, and the orientation that counts is in the codestream; libjxl applies it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from facelake.contracts import Reject
from facelake.embed.containers import TooCostly
from facelake.embed.jpeg_xl_process import JpegXlProcess

_BARE, _BOXED = b"\xff\x0a", b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a"
_MOST_BOXES = 1000
_WEIGHT = 2.5  # 6 to 8 bytes per pixel of a photo with one layer
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}  # width : height
_SIZE_BITS = (9, 13, 18, 30)
_PREVIEW_BITS, _PREVIEW_BITS_OF_EIGHTHS = (6, 8, 10, 12), (0, 0, 5, 9)


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bits of a codestream say."""

    width: int
    """as stored"""
    height: int
    animated: bool
    bits: int
    """per sample; 0 for floating point"""


def is_jpeg_xl(data: bytes) -> bool:
    """Return whether the bytes begin as a JPEG XL file."""
    return data.startswith((_BARE, _BOXED))


def codestream_of(data: bytes) -> bytes:
    """Return the codestream of a JPEG XL file, without the boxes around it.

    Raises:
        ValueError: there is none.
        TooCostly: more boxes than any photo has.
    """
    if data.startswith(_BARE):
        return data
    stream = b"".join(_pieces(data))
    if not stream.startswith(_BARE):
        raise ValueError("no JPEG XL codestream")
    return stream


def _pieces(data: bytes) -> Iterator[bytes]:
    at = 0
    for _ in range(_MOST_BOXES):
        if at + 8 > len(data):
            return
        size, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = at + size if size else len(data)
        if end < at + head:
            return
        if kind == b"jxlc":
            yield data[at + head : end]
        elif kind == b"jxlp":
            yield data[at + head + 4 : end]  # after the number of the piece
        at = end
    raise TooCostly(Reject.TIMEOUT, "more boxes than any photo has")


class _Bits:
    """Reads the bits of a codestream, lowest first; zeros after its end."""

    def __init__(self, data: bytes) -> None:
        self._bits, self._at = int.from_bytes(data[:64], "little"), 0

    def take(self, count: int) -> int:
        value = self._bits >> self._at & ((1 << count) - 1)
        self._at += count
        return value


def header_of(stream: bytes) -> Header:
    """Read the header of a codestream."""
    bits = _Bits(stream[len(_BARE) :])
    width, height = _size(bits)
    if bits.take(1):  # all defaults
        return Header(width, height, animated=False, bits=8)
    animated = False
    if bits.take(1):  # extra fields
        bits.take(3)  # orientation
        if bits.take(1):  # intrinsic size
            _size(bits)
        if bits.take(1):
            _skip_preview(bits)
        animated = bool(bits.take(1))
    if animated or bits.take(1):  # what follows an animation's flag is its timing
        return Header(width, height, animated=animated, bits=0)
    choice = bits.take(2)
    return Header(width, height, animated=False, bits=1 + bits.take(6) if choice == 3 else (8, 10, 12)[choice])


def _size(bits: _Bits) -> tuple[int, int]:
    """Return the width and height of a size header."""
    eighths = bits.take(1)

    def side() -> int:
        return 8 * (1 + bits.take(5)) if eighths else 1 + bits.take(_SIZE_BITS[bits.take(2)])

    height = side()
    ratio = bits.take(3)
    if not ratio:
        return side(), height
    numerator, denominator = _RATIOS[ratio]
    return height * numerator // denominator, height


def _skip_preview(bits: _Bits) -> None:
    lengths = _PREVIEW_BITS_OF_EIGHTHS if bits.take(1) else _PREVIEW_BITS
    bits.take(lengths[bits.take(2)])
    if not bits.take(3):  # the ratio of the sides; 0: the width follows
        bits.take(lengths[bits.take(2)])


_PROCESS = JpegXlProcess()


def decode_jpeg_xl(data: bytes, most_pixels: int, seconds: float) -> Image.Image:
    """Decode a photo to 8 bits per channel, upright.

    Args:
        data: the file.
        most_pixels: as in DecodeLimits; a pixel counts for more here.
        seconds: that it may take.

    Raises:
        TooCostly: too many pixels, an animation, or it takes too much time or memory.
        ValueError: the decoder cannot decode it.
    """
    stream = codestream_of(data)
    header = header_of(stream)
    if header.animated:
        raise TooCostly(Reject.FORMAT, "an animation in JPEG XL")
    pixels = header.width * header.height
    if pixels * _WEIGHT > most_pixels:
        counted = f"{header.width}x{header.height}, which count as {round(pixels * _WEIGHT)} in JPEG XL"
        raise TooCostly(Reject.PIXELS, f"{counted}, allowed {most_pixels} pixels")
    return Image.fromarray(_PROCESS.decode(stream, header.bits, seconds))
