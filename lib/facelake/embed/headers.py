"""Checks of file headers, before a decoder runs: rejects files that would take too much time or memory to decode.

Decoders allocate according to a file's header and loop over its parts, so a header alone can cost gigabytes or minutes.
The limits are far above what cameras and editors write; the largest files that pass were measured to take at most one
second and 512 MB each (docs/embedding.md).
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

from PIL.ExifTags import Base as Tag

from facelake.contracts import Reject
from facelake.embed.containers import TooCostly, tiff_entries
from facelake.embed.jpeg_markers import JpegExtent

if TYPE_CHECKING:
    from PIL import Image

MOST_SIDE = 65_535  # the limit of JPEG; Pillow keeps a pointer per row, which bounds very narrow photos
MOST_METADATA = 1 << 20  # the EXIF standard allows 64 KB; Pillow makes a Python number of every two bytes
_MOST_ISO_BYTES = (
    32 << 20
)  # metadata of AVIF and HEIC cannot be measured without decoding, so the whole file is limited
_PIECES, _BYTES_A_PIECE = 20_000, 256
_MOST_RUNS = 2_000_000  # runs of a run-length encoded BMP, which Pillow reads one by one
_MOST_SCANS = 100
_SCALED = 0.32  # cost per pixel of a sequential JPEG of which only every eighth pixel of a side is computed
_LARGE_IN_PASSES = 40_000_000  # the decoder keeps six bytes of coefficients per pixel, besides pixels
_SCANS_OF_LARGEST = 20  # progressive photos have about ten scans, each of which visits all coefficients
_MOST_TIFF_STRIPS, _LEAST_TIFF_TILE = 1 << 16, 2048
_TIFF_SIZES = {
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
}  # bytes per value, of types that become Python numbers
_STRIPS = (Tag.StripOffsets, Tag.StripByteCounts, Tag.TileOffsets, Tag.TileByteCounts)
_FULL_SIZE = 1.25  # cost factor of decoders that cannot scale while decoding
_HIGH_DEPTH = 0x40  # bit in the third byte of an AV1 configuration


class MeteredFile(io.BytesIO):
    """An in-memory file with a budget of reads and of metadata bytes, since Pillow's loops over file parts all read.

    Raises:
        TooCostly: from `read`, when the budget is spent.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        extra = min(len(data), _MOST_RUNS) if data[:2] == b"BM" else len(data) // _BYTES_A_PIECE
        self._pieces, self._metadata = _PIECES + extra, MOST_METADATA

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._pieces -= 1
        if data.startswith((b"Exif\0\0", b"Photoshop")):
            self._metadata -= len(data)
        if self._pieces < 0:
            raise TooCostly(Reject.TIMEOUT, "more pieces than any photo has")
        if self._metadata < 0:
            raise TooCostly(Reject.BYTES, f"more than {MOST_METADATA} bytes of metadata")
        return data


def check_bytes(data: bytes) -> None:
    """Check the encoded bytes before Pillow reads the header.

    Raises:
        TooCostly: a TIFF with more or larger parts than its pixels need, or an oversized AVIF or HEIC.
    """
    if data[4:8] == b"ftyp" and len(data) > _MOST_ISO_BYTES:
        raise TooCostly(Reject.BYTES, f"{len(data)} bytes, allowed {_MOST_ISO_BYTES} in AVIF and HEIC")
    if data[:2] in (b"II", b"MM"):
        _check_tiff(data)


def check_image(image: Image.Image, data: bytes, most_pixels: int, jpeg: JpegExtent | None, target_px: int) -> None:
    """Check the image after Pillow has read the header.

    Args:
        image: as opened, not loaded.
        data: its encoded bytes.
        most_pixels: most pixels of a JPEG that is decoded at full size.
        jpeg: what the markers of a JPEG say.
        target_px: as in DecodeLimits.

    Raises:
        TooCostly: too many pixels or scans, or a side is too long.
    """
    width, height = image.size
    scaled = jpeg is not None and not jpeg.progressive and bool(target_px)
    pixels, weight = width * height, _weight(image, data, scaled=scaled)
    if pixels * weight > most_pixels or max(width, height) > MOST_SIDE:
        counted = f", which count as {round(pixels * weight)} in {image.format} {image.mode}" if weight > 1 else ""
        raise TooCostly(Reject.PIXELS, f"{width}x{height}{counted}, allowed {most_pixels} pixels, {MOST_SIDE} a side")
    if jpeg and (jpeg.scans > _MOST_SCANS or jpeg.scans * pixels > _SCANS_OF_LARGEST * most_pixels):
        raise TooCostly(Reject.TIMEOUT, f"{jpeg.scans} passes over {width}x{height} pixels")


def in_large_passes(jpeg: JpegExtent, width: int, height: int) -> bool:
    """Whether a JPEG is so large and has several scans that it should be decoded at a reduced scale."""
    return width * height > _LARGE_IN_PASSES and jpeg.scans > 1


def _weight(image: Image.Image, data: bytes, *, scaled: bool) -> float:
    """Decoding cost per pixel, relative to an RGB JPEG at full size, by time or memory.

    Args:
        scaled: whether the decoder computes fewer pixels of larger photos and keeps no coefficients.
    """
    if image.format in ("JPEG", "MPO"):
        if image.mode == "CMYK":
            return _FULL_SIZE
        return _SCALED if scaled else 1.0
    if image.format == "WEBP":  # the decoder allocates four canvases of four channels
        return 2.0
    if image.format == "AVIF":
        at = data.find(b"av1C")
        deep = at >= 0 and at + 6 < len(data) and data[at + 6] & _HIGH_DEPTH
        return 2.0 if deep else 1.3
    if image.format in ("HEIF", "GIF", "BMP"):
        return _FULL_SIZE
    deep = 2 if ";16" in str(getattr(image, "tile", "")) else 1
    size = 4 if image.mode in ("I", "F") else 2 if image.mode.startswith("I;16") else deep * len(image.getbands())
    return max(1.0, size / 3) * (_FULL_SIZE if image.format == "PNG" else 1.0)


def _check_tiff(data: bytes) -> None:
    largest: dict[int, int] = {Tag.ImageWidth: 0, Tag.ImageLength: 0, Tag.TileWidth: 0, Tag.TileLength: 0}
    numbers = 0
    try:
        for tag, kind, count, value in tiff_entries(data):
            numbers += count * _TIFF_SIZES.get(kind, 0)
            if tag in _STRIPS and count > _MOST_TIFF_STRIPS:
                raise TooCostly(Reject.TIMEOUT, f"{count} strips or tiles")
            if tag in largest:
                largest[tag] = max(largest[tag], value)
    except struct.error:
        return  # a truncated header, which Pillow reports
    if numbers > MOST_METADATA:
        raise TooCostly(Reject.BYTES, f"{numbers} bytes of metadata, allowed {MOST_METADATA}")
    tile = largest[Tag.TileWidth] * largest[Tag.TileLength]
    if tile > (largest[Tag.ImageWidth] + 16) * (largest[Tag.ImageLength] + 16) + _LEAST_TIFF_TILE**2:
        raise TooCostly(Reject.PIXELS, f"a tile of {largest[Tag.TileWidth]}x{largest[Tag.TileLength]} pixels")
