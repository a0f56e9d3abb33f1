"""Decodes JPEGs at a reduced scale, which libjpeg does in the DCT domain, and rejects those of which much is missing.

libjpeg-turbo's own interface decodes nearly all; Pillow decodes those with unusual sampling factors. A damaged JPEG is
decoded more than once: its markers and pixels show what is missing, which no decoder reports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from facelake.contracts import U8, Reject
from facelake.embed.containers import TooCostly
from facelake.embed.headers import MeteredFile, in_large_passes
from facelake.embed.jpeg_markers import END_OF_IMAGE, JpegExtent, jpeg_extent, missing_intervals, without_stray_bytes

_STRIP = 512  # rows that are converted at once
_MOST_CHECKED = 16_000_000  # pixels of a photo that is decoded three times at most, so that it takes about a second
_MOST_MISSING = 0.1  # share of a photo that may be missing
_NO_DATA = 128  # grey level that the decoder fills in where data are missing
_LAST_BYTES = 2  # of arithmetic code, which hold few rows unless these are of one colour
_LAST_BYTES_OF_HUFFMAN = 64  # which hold less than the tenth of a border
_UNUSUAL = "subsampling"  # in the complaint about sampling factors
_LAST_ROWS = 3  # of eight pixels each, in which the last bytes of any photo are seen
_ONE_COLOUR = 8  # levels by which the pixels of a plain border differ at most
_WHITE, _BLACK = 240, 16  # levels from and up to which a border is white or black


class Wanted(NamedTuple):
    """How a JPEG is decoded: width and height that it has at least, and its colours (RGB, or CMYK as stored)."""

    width: int
    height: int
    colours: str


def scaled_size(jpeg: JpegExtent, width: int, height: int, target_px: int, most_pixels: int) -> tuple[int, int]:
    """The size at which a JPEG is decoded: a half, a quarter or an eighth of its own, rounded down.

    Only powers of two are used: libjpeg has vector code for these; other eighths take longer despite fewer pixels.
    """
    divisor = divisor_of(width, height, target_px)
    if target_px and divisor == 1 and in_large_passes(jpeg, width, height):
        divisor = 2
    while divisor < 8 and width * height > most_pixels * divisor**2:
        divisor *= 2
    return width // divisor, height // divisor


def divisor_of(width: int, height: int, target_px: int) -> int:
    """The scale divisor for a JPEG, 1, 2, 4 or 8: the largest whose longer side keeps `target_px` (0: 1)."""
    divisor = 1
    while target_px and divisor < 8 and max(width, height) >= 2 * divisor * target_px:
        divisor *= 2
    return divisor


def decode_jpeg(data: bytes, jpeg: JpegExtent, size: tuple[int, int], *, cmyk: bool) -> tuple[U8, bool]:
    """Decode a JPEG.

    Args:
        data: the file, up to the end of the image.
        jpeg: its extent.
        size: width and height that the decoded photo has at least.
        cmyk: whether it is stored in CMYK.

    Returns:
        RGB pixels (h, w, 3), and whether the file is damaged.

    Raises:
        TooCostly: more than a tenth of the photo is missing.
        Exception: no decoder can decode it.
    """
    _check_components(jpeg)
    wanted = Wanted(*size, "CMYK" if cmyk else "RGB")
    try:
        pixels, damaged = _by_libjpeg(data, wanted), False
    except ValueError as err:
        unusual = _UNUSUAL in str(err)
        pixels = _by_pillow(data, jpeg, wanted) if unusual else _damaged(data, jpeg, wanted, str(err))
        damaged = not (unusual and jpeg.complete)
    if jpeg.arithmetic:
        _check_arithmetic(data, jpeg)
    return _from_cmyk(pixels) if pixels.shape[2] == 4 else pixels, damaged


def _by_libjpeg(data: bytes, wanted: Wanted, *, strict: bool = True) -> U8:
    """Decode by libjpeg-turbo's own interface.

    Raises:
        ValueError: it cannot, or if `strict`, it has a complaint.
    """
    pixels: U8 = simplejpeg.decode_jpeg(
        data,
        wanted.colours,
        fastdct=False,
        fastupsample=False,
        min_width=wanted.width,
        min_height=wanted.height,
        strict=strict,
    )
    return pixels


def _by_pillow(data: bytes, jpeg: JpegExtent, wanted: Wanted) -> U8:
    """Decode by Pillow, which takes all sampling factors."""
    whole = data if jpeg.complete else data + END_OF_IMAGE
    with Image.open(MeteredFile(whole), formats=["JPEG"]) as image:
        image.draft(image.mode, (max(1, wanted.width), max(1, wanted.height)))
        pixels: U8 = np.asarray(image.convert("RGB"))
    _check_intervals(data)
    if not jpeg.complete:
        _check_missing(whole, jpeg, pixels)
    elif (
        jpeg.pixels <= _MOST_CHECKED and _blank_rows(pixels) > _MOST_MISSING
    ):  # Pillow does not say whether data are missing
        share = _undecided(data, _small_by_pillow, _LAST_BYTES_OF_HUFFMAN)[1]
        if share > _MOST_MISSING:
            raise _missing(f"{share:.0%} of the photo is")
    return pixels


def _damaged(data: bytes, jpeg: JpegExtent, wanted: Wanted, complaint: str) -> U8:
    """Decode a damaged JPEG.

    Raises:
        TooCostly: more than a tenth of the photo is missing.
        ValueError: the decoder cannot decode it at all.
    """
    _check_intervals(data)
    truncated = not jpeg.complete
    if truncated:
        data += END_OF_IMAGE
        try:
            pixels = _by_libjpeg(data, wanted)
        except ValueError as err:
            complaint = str(err)
        else:  # nothing else is missing, except what may follow in a progressive one
            _check_detail(jpeg)
            return pixels
    try:
        pixels = _by_libjpeg(data, wanted, strict=False)
    except ValueError:
        data = without_stray_bytes(data)
        jpeg = jpeg_extent(data)
        pixels = _by_libjpeg(data, wanted, strict=False)
    if truncated or "remature" in complaint:
        _check_missing(data, jpeg, pixels if wanted.colours == "RGB" else pixels[..., 3:])  # black is stored as coded
    return pixels


def _from_cmyk(pixels: U8) -> U8:
    """RGB (h, w, 3) from CMYK (h, w, 4) as JPEGs store it, by Adobe's convention: 255 is no ink. As Pillow does."""
    out = np.empty((*pixels.shape[:2], 3), np.uint8)
    for top in range(0, len(pixels), _STRIP):
        strip = pixels[top : top + _STRIP].astype(np.uint16)
        out[top : top + _STRIP] = (strip[..., :3] * strip[..., 3:] + 127) // 255
    return out


def _check_components(jpeg: JpegExtent) -> None:
    if jpeg.lacks_components:
        begun, components = jpeg.components_begun
        raise _missing(f"{components - begun} of {components} colour components are")


def _check_intervals(data: bytes) -> None:
    """Check the restart markers: without them, what follows missing data is at the wrong place."""
    share = missing_intervals(data)
    if share > _MOST_MISSING:
        raise _missing(f"{share:.0%} of the photo is")


def _check_detail(jpeg: JpegExtent) -> None:
    """Check the scans of a progressive JPEG; those that are missing cannot be seen in the pixels."""
    if not jpeg.detailed:
        raise _missing("the finer part of the photo is")


def _check_missing(data: bytes, jpeg: JpegExtent, pixels: U8) -> None:
    """Check how much of a truncated JPEG is there.

    Args:
        data: the file, with an end marker.
        jpeg: its extent.
        pixels: decoded, in which missing rows have one grey level.

    Raises:
        TooCostly: more than a tenth is missing.
    """
    _check_detail(jpeg)
    share = _blank_rows(pixels)
    several = jpeg.scans > 1 and not jpeg.progressive
    if several and jpeg.pixels <= _MOST_CHECKED:  # of one component each: that of the last scan may be missing
        scan = data[jpeg.last_scan :]
        without = data[: len(data) - len(scan) + 2 + int.from_bytes(scan[2:4], "big")] + END_OF_IMAGE
        share = max(share, _rows_at_end((_small(data) == _small(without)).all((1, 2))))
    if share > _MOST_MISSING:
        raise _missing(f"{share:.0%} of the photo is")


def _check_arithmetic(data: bytes, jpeg: JpegExtent) -> None:
    """Check how much of a JPEG in arithmetic code is there. What is missing is decoded as noise or as one colour.

    Raises:
        TooCostly: more than a tenth is missing.
    """
    _check_detail(jpeg)
    if jpeg.progressive or jpeg.pixels > _MOST_CHECKED:
        return
    pixels, share = _undecided(data, _small, _LAST_BYTES)
    if share > _MOST_MISSING and not _is_border(pixels):
        raise _missing(f"{share:.0%} of the photo is")


def _undecided(data: bytes, small: Callable[[bytes], U8], last: int) -> tuple[U8, float]:
    """A small photo, and the share of its rows from where the data end.

    That is where it changes if the `last` bytes are left out. Only rows of one colour take next to no bytes.
    """
    coded = data.removesuffix(END_OF_IMAGE).rstrip(b"\0")
    pixels = small(coded + END_OF_IMAGE)
    changed = (pixels != small(coded[:-last] + END_OF_IMAGE)).any((1, 2))
    if not changed.any():
        return pixels, 0.0
    return pixels, 1 - (int(changed.argmax()) + _LAST_ROWS) / len(changed)


def _is_border(pixels: U8) -> bool:
    """Whether the rows at the end are of one colour that a photo may have there: white, black, or from side to side."""
    colour = pixels[-1, -1].astype(int)
    plain = (np.abs(pixels.astype(int) - colour) <= _ONE_COLOUR).all(2)
    rows = _rows_at_end(plain.all(1))
    if rows <= _MOST_MISSING:
        return False
    above = plain[: len(plain) - round(rows * len(plain))]
    usual = colour.min() >= _WHITE or colour.max() <= _BLACK
    return bool(usual or not len(above) or not above[-1, -1])


def _small(data: bytes) -> U8:
    return _by_libjpeg(data, Wanted(1, 1, "RGB"), strict=False)


def _small_by_pillow(data: bytes) -> U8:
    with Image.open(MeteredFile(data), formats=["JPEG"]) as image:
        image.draft(image.mode, (1, 1))
        pixels: U8 = np.asarray(image.convert("RGB"))
    return pixels


def _blank_rows(pixels: U8) -> float:
    """The share of rows at the end for which the decoder had no data."""
    return _rows_at_end((pixels == _NO_DATA).all((1, 2)))


def _rows_at_end(rows: U8) -> float:
    """The share of rows at the end for which it is true."""
    return 1.0 if rows.all() else int(rows[::-1].argmin()) / len(rows)


def _missing(what: str) -> TooCostly:
    return TooCostly(Reject.UNREADABLE, f"{what} missing: the file is truncated or damaged")
