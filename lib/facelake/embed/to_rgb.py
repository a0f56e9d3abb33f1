"""RGB pixels from a photo that Pillow has opened, strip by strip: full-size copies would take hundreds of MB."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from facelake.contracts import U8
from facelake.embed.levels import Levels, levels_of

_STRIP, _STRIP_PIXELS = 512, 4 << 20  # rows that are converted at once, and pixels of them


def to_rgb(image: Image.Image, target_px: int) -> U8:
    """RGB pixels (h, w, 3), reduced before conversion so that the longer side keeps `target_px` (0: not reduced)."""
    if image.format != "HEIF":  # there the first image is not always the primary one, which is open
        image.seek(0)
    image.load()
    shrink = max(1, max(image.size) // target_px) if target_px else 1
    rows = -(-min(_STRIP, 1 + _STRIP_PIXELS // image.width) // shrink) * shrink
    levels = levels_of(image, _strips(image, rows))
    return np.concatenate([_small_rgb(strip, shrink, levels) for strip in _strips(image, rows)])


def _strips(image: Image.Image, rows: int) -> Iterator[Image.Image]:
    if image.height <= rows:
        yield image
        return
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _small_rgb(image: Image.Image, shrink: int, levels: Levels | None) -> U8:
    """RGB pixels of some rows of a photo.

    Args:
        levels: the levels of a photo that has others than 0..255.
    """
    if levels:
        image = Image.fromarray(levels.to_8_bits(np.asarray(image)))
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("P", "1"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if shrink >= 2:
        image = image.reduce(shrink)
    if image.mode != "RGB" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"), dtype=np.uint8)
