"""Where the photo is within a file: phones append videos, raw files begin with previews.

HEIC and AVIF: ISO/IEC 14496-12, boxes. TIFF: TIFF 6.0; raw files of cameras follow TIFF/EP. JPEG: jpeg_markers.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL.ExifTags import Base as Tag

from facelake.contracts import Reject

HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_MOST_BOXES, _MOST_TIFF_ENTRIES = 20_000, 4096
_VIDEO = b"mpvd"  # Samsung's box of a motion photo
_OF_SENSORS = (32803, 34892)  # colour filter array and linear raw (TIFF/EP, DNG)


class TooCostly(BaseException):
    """The photo would take too much time or memory to decode. A BaseException, so that decoders do not catch it."""

    def __init__(self, reason: Reject, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def without_video(data: bytes) -> bytes:
    """A HEIC or AVIF file without what follows the image: a motion photo's video, or another file."""
    at = 0
    for number in range(_MOST_BOXES):
        if at + 8 > len(data):
            break
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == _VIDEO or (number and kind == b"ftyp"):
            return data[:at]
        if size == 1 and at + 16 <= len(data):
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:  # 0: up to the end of the file
            break
        at += size
    return data


def is_sensor_data(photometric: int | None) -> bool:
    """Whether a directory's photometric interpretation is that of a sensor's values."""
    return photometric in _OF_SENSORS


def is_raw(data: bytes) -> bool:
    """Whether a TIFF is a camera's raw file or begins with a reduced image, so that its first image is a preview."""
    if data[8:10] == b"CR":
        return True
    try:
        tags = {tag: value for tag, _, _, value in tiff_entries(data)}
        if (
            tags.get(Tag.NewSubfileType, 0) & 1
            or Tag.DNGVersion in tags
            or is_sensor_data(tags.get(Tag.PhotometricInterpretation))
        ):
            return True
        at = tags.get(Tag.SubIFDs)
        if at is None:
            return False
        return any(
            tag == Tag.PhotometricInterpretation and is_sensor_data(value)
            for tag, _, _, value in tiff_entries(data, at)
        )
    except struct.error:
        return False  # a truncated header, which Pillow reports


def tiff_entries(data: bytes, at: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Yield (tag, type, count, value) of a directory's entries; the value is meaningful for single integers.

    Args:
        at: position of the directory; None: the first one.

    Raises:
        struct.error: the file is truncated.
        TooCostly: more entries than any photo has.
    """
    # Pillow reads version 43 as BigTIFF in this byte only
    order, big = ("<" if data[:2] == b"II" else ">"), data[2:3] == b"\x2b"
    if at is None:
        (at,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    if entries > _MOST_TIFF_ENTRIES:
        raise TooCostly(Reject.TIMEOUT, f"{entries} entries in a TIFF directory")
    at += 8 if big else 2
    for _ in range(entries):
        tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHL"), data, at)
        at += 12 if big else 8
        field = {1: "B", 3: "H", 4: "L", 16: "Q"}.get(kind, "Q" if big else "L")
        (value,) = struct.unpack_from(order + field, data, at)
        yield tag, kind, count, value
        at += 8 if big else 4
