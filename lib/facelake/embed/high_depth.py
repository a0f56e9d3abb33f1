"""Colour photos of 16 bits per sample, of which Pillow keeps the high byte: too little if 10 or 12 bits are in use."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from facelake.contracts import U8, Reject
from facelake.embed.containers import TooCostly
from facelake.embed.formats import PILLOW_FORMATS
from facelake.embed.headers import MeteredFile
from facelake.embed.levels import Levels, white_of
from facelake.embed.tiff_layouts import correct_layout, in_planes, raw_mode_of

_LEAST_USED = 64  # high byte from which more than 14 bits are in use
_COST = 6  # of a pixel that is decoded twice, as in headers.py
_STRIP = 512  # rows that are converted at once
_WHAT = "16 bits per sample of which fewer than 15 are used"
_COLOURS = {"RGB": 3, "RGBA": 3, "CMYK": 4}
_BYTES_SWAPPED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_GREY = "LA;16B"  # of a PNG; Pillow has no other of these


def with_used_bits(image: Image.Image, parts: Sequence[Any], data: bytes, most_pixels: int) -> Image.Image:
    """The photo with the levels in use scaled to 8 bits; the same photo if its high bytes are enough.

    Args:
        image: as opened.
        parts: its tiles as opened, which are gone once it is loaded.
        data: its encoded bytes.
        most_pixels: as in DecodeLimits.

    Raises:
        TooCostly: its low bytes are needed and cannot be decoded, or not within the limit.
    """
    if image.mode not in _COLOURS or not any(";16" in raw_mode_of(tile) for tile in parts):
        return image
    image.load()
    if _largest(image) >= _LEAST_USED:
        return image
    if image.width * image.height * _COST > most_pixels:
        raise TooCostly(Reject.PIXELS, f"{image.width}x{image.height} in {_WHAT}, which count as {_COST} each")
    if in_planes(image) and parts[0].codec_name == "libtiff":
        raise TooCostly(Reject.FORMAT, f"a TIFF in planes of {_WHAT}: not decoded")
    with Image.open(MeteredFile(data), formats=PILLOW_FORMATS) as second:
        correct_layout(second)
        second.tile = [_of_low_bytes(tile) for tile in second.tile]
        second.load()
        return _combined(image, second, grey=raw_mode_of(parts[0]) == _GREY)


def _largest(image: Image.Image) -> int:
    """The largest level of a photo's colours."""
    bands: Any = image.getextrema()  # of several bands here
    return max(int(largest) for _, largest in bands[: _COLOURS[image.mode]])


def _of_low_bytes(tile: Any) -> Any:
    raw_mode = raw_mode_of(tile)
    other = "RGBA" if raw_mode == _GREY else raw_mode[:-1] + _BYTES_SWAPPED[raw_mode[-1]]
    return tile._replace(args=other if isinstance(tile.args, str) else (other, *tile.args[1:]))


def _combined(high: Image.Image, low: Image.Image, *, grey: bool) -> Image.Image:
    """A photo of 8 bits without alpha channel from the high and the low bytes of its samples.

    Args:
        grey: whether `low` has the bytes of a grey level and of its alpha in four channels.
    """
    bands = 1 if grey else _COLOURS[high.mode]
    highs, lows = np.asarray(high)[..., :bands], np.asarray(low)[..., 1:2] if grey else np.asarray(low)[..., :bands]
    white = white_of(int(highs.max()) * 256 + 255)
    levels = Levels(np.dtype(np.uint16), 0.0, white)
    out: U8 = np.empty(highs.shape, np.uint8)
    for top in range(0, len(highs), _STRIP):
        rows = slice(top, top + _STRIP)
        out[rows] = levels.to_8_bits(highs[rows].astype(np.uint16) * 256 + lows[rows])
    return Image.fromarray(out[..., 0] if grey else out, "L" if grey else "CMYK" if bands == 4 else "RGB")
