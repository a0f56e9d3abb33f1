"""What a file says of itself, held against what decoding it would cost, before a decoder begins.

Decoders allocate by a file's header and loop over its pieces, so a header alone can take gigabytes or minutes. The
limits here are far from anything that cameras and editors write; what they leave was measured with the largest files
that still pass (docs/embedding.md): a second and 512 MB each.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from facelake.contracts import Reject

if TYPE_CHECKING:
    from PIL import Image

MOST_SIDE = 65_535  # of a JPEG too; Pillow keeps a pointer per row: a photo one pixel wide would be all pointers
MOST_METADATA = 1 << 20  # EXIF has 64 KB by its standard; Pillow makes a number of each two bytes
_MOST_ISO_BYTES = 32 << 20  # AVIF's and HEIC's EXIF is not to be told from their pixels without decoding them
_PIECES, _BYTES_A_PIECE = 20_000, 256
_MOST_RUNS = 2_000_000  # of a run-length encoded BMP, which Pillow reads run by run
_MOST_SCANS, _SCAN = 100, b"\xff\xda"
_LARGE_IN_PASSES = 40_000_000  # six bytes of coefficients a pixel are held, besides pixels
_SCANS_OF_LARGEST = 20  # progressive photos come in about ten passes, each a walk over all coefficients
_MOST_TIFF_ENTRIES, _MOST_TIFF_STRIPS, _LEAST_TIFF_TILE = 4096, 1 << 16, 2048
_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # types that become numbers
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_STRIPS = (273, 279, 324, 325)
_WHOLE = 1.25  # what such a decoder takes more than one that makes a JPEG smaller on the way
_HIGH_DEPTH = 0x40  # in the third byte of an AV1 configuration


class TooMuch(BaseException):
    """A photo that is not decoded any further. Not an Exception, so that no decoder's own handler swallows it."""

    def __init__(self, reason: Reject, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Frugal(io.BytesIO):
    """A file that may be read in as many pieces as photos have, with as much metadata.

    Raises TooMuch from `read`: Pillow's loops over segments, chunks and blocks all read.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        many = min(len(data), _MOST_RUNS) if data[:2] == b"BM" else len(data) // _BYTES_A_PIECE
        self._pieces, self._metadata = _PIECES + many, MOST_METADATA

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self._pieces -= 1
        if found.startswith((b"Exif\0\0", b"Photoshop")):
            self._metadata -= len(found)
        if self._pieces < 0:
            raise TooMuch(Reject.TIMEOUT, "more pieces than any photo has")
        if self._metadata < 0:
            raise TooMuch(Reject.BYTES, f"more than {MOST_METADATA} bytes of metadata")
        return found


def check_bytes(data: bytes) -> None:
    """What can be said before Pillow reads the header.

    Raises:
        TooMuch: a TIFF of more or larger pieces than its pixels need, an AVIF or HEIC larger than photos are.
    """
    if data[4:8] == b"ftyp" and len(data) > _MOST_ISO_BYTES:
        raise TooMuch(Reject.BYTES, f"{len(data)} bytes, allowed {_MOST_ISO_BYTES} in AVIF and HEIC")
    if data[:2] in (b"II", b"MM"):
        _check_tiff(data)


def check_image(image: Image.Image, data: bytes, most_pixels: int) -> None:
    """What can be said once the header is read.

    Raises:
        TooMuch: too many pixels, passes over them, or too long a side.
    """
    width, height = image.size
    pixels, weight = width * height, _weight(image, data)
    if pixels * weight > most_pixels or max(width, height) > MOST_SIDE:
        counted = f", which count as {round(pixels * weight)} in {image.format} {image.mode}" if weight > 1 else ""
        raise TooMuch(Reject.PIXELS, f"{width}x{height}{counted}, allowed {most_pixels} pixels, {MOST_SIDE} a side")
    if image.format in ("JPEG", "MPO"):
        scans = data.count(_SCAN)
        if scans > _MOST_SCANS or scans * pixels > _SCANS_OF_LARGEST * most_pixels:
            raise TooMuch(Reject.TIMEOUT, f"{scans} passes over {width}x{height} pixels")


def in_large_passes(data: bytes, width: int, height: int) -> bool:
    """Whether a JPEG takes so much to decode in passes that its pixels had better be fewer."""
    return width * height > _LARGE_IN_PASSES and data.count(_SCAN) > 1


def _weight(image: Image.Image, data: bytes) -> float:
    """Pixels of an RGB JPEG that take as long, or as much memory, as one pixel of this image."""
    if image.format in ("JPEG", "MPO"):
        return _WHOLE if image.mode == "CMYK" else 1.0
    if image.format == "WEBP":  # four times the whole canvas, in four channels
        return 2.0
    if image.format == "AVIF":
        at = data.find(b"av1C")
        deep = at >= 0 and at + 6 < len(data) and data[at + 6] & _HIGH_DEPTH
        return 2.0 if deep else 1.3
    if image.format in ("HEIF", "GIF", "BMP"):
        return _WHOLE
    deep = 2 if ";16" in str(getattr(image, "tile", "")) else 1
    size = 4 if image.mode in ("I", "F") else 2 if image.mode.startswith("I;16") else deep * len(image.getbands())
    return max(1.0, size / 3) * (_WHOLE if image.format == "PNG" else 1.0)


def _check_tiff(data: bytes) -> None:
    largest: dict[int, int] = {_WIDTH: 0, _HEIGHT: 0, _TILE_WIDTH: 0, _TILE_HEIGHT: 0}
    numbers = 0
    try:
        for tag, kind, count, value in _tiff_entries(data):
            numbers += count * _TIFF_SIZES.get(kind, 0)
            if tag in _STRIPS and count > _MOST_TIFF_STRIPS:
                raise TooMuch(Reject.TIMEOUT, f"{count} strips or tiles")
            if tag in largest:
                largest[tag] = max(largest[tag], value)
    except struct.error:
        return  # a header that ends early: Pillow says so
    if numbers > MOST_METADATA:
        raise TooMuch(Reject.BYTES, f"{numbers} bytes of metadata, allowed {MOST_METADATA}")
    tile = largest[_TILE_WIDTH] * largest[_TILE_HEIGHT]
    if tile > (largest[_WIDTH] + 16) * (largest[_HEIGHT] + 16) + _LEAST_TIFF_TILE**2:
        raise TooMuch(Reject.PIXELS, f"a tile of {largest[_TILE_WIDTH]}x{largest[_TILE_HEIGHT]} pixels")


def _tiff_entries(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count and value of the first directory's entries; the value as it is if it is one whole number.

    Raises struct.error where the file ends early.
    """
    order, big = ("<" if data[:2] == b"II" else ">"), data[2:3] == b"\x2b"  # Pillow takes 43 for big there only
    (at,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    if entries > _MOST_TIFF_ENTRIES:
        raise TooMuch(Reject.TIMEOUT, f"{entries} entries in a TIFF directory")
    at += 8 if big else 2
    for _ in range(entries):
        tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHL"), data, at)
        at += 12 if big else 8
        field = {1: "B", 3: "H", 4: "L", 16: "Q"}.get(kind, "Q" if big else "L")
        (value,) = struct.unpack_from(order + field, data, at)
        yield tag, kind, count, value
        at += 8 if big else 4
