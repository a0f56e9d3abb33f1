"""Where the photo ends within a file: phones append videos and gain maps, raw files begin with previews.

JPEG: ITU-T T.81, annex B. HEIC and AVIF: ISO/IEC 14496-12, boxes. TIFF: TIFF 6.0; raw files of cameras follow TIFF/EP.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

from PIL.ExifTags import Base as Tag

from facelake.contracts import Reject

_MOST_SEGMENTS, _MOST_TIFF_ENTRIES = 20_000, 4096
_START_OF_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length: TEM, restarts, start of image
_AFTER_A_SCAN = re.compile(rb"\xff[\xc4\xd9-\xdd\xe1\xe2\xfe]")  # end, scan, tables, comment, application data
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_VIDEO = b"mpvd"  # Samsung's box of a motion photo
_OF_SENSORS = (32803, 34892)  # colour filter array and linear raw (TIFF/EP, DNG)


class TooCostly(BaseException):
    """The photo would take too much time or memory to decode. A BaseException, so that decoders do not catch it."""

    def __init__(self, reason: Reject, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class JpegExtent:
    """What the markers of a JPEG say of its first image."""

    end: int
    """bytes up to and including the end marker; the length of the file if there is none"""
    scans: int
    _: KW_ONLY
    complete: bool
    """whether there is an end marker"""
    progressive: bool
    detailed: bool
    """whether the last bits of the luma coefficients have begun; true in sequential files"""


def jpeg_extent(data: bytes) -> JpegExtent:
    """Walk the markers of a JPEG up to the first image's end; entropy-coded data are skipped, not decoded.

    Raises:
        TooCostly: more segments than any photo has.
    """
    at, scans, progressive, detailed = 2, 0, False, False
    for _ in range(_MOST_SEGMENTS + len(data) // 256):
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            break
        code = data[at + 1]
        if code == _END:
            return JpegExtent(
                at + 2, scans, complete=True, progressive=progressive, detailed=detailed or not progressive
            )
        if code in (0x00, 0xFF):
            at += 1
            continue
        if code in _ALONE or at + 4 > len(data):
            at += 2
            continue
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if code in _FRAMES:
            progressive = code in _PROGRESSIVE
        if code == _START_OF_SCAN:
            scans += 1
            detailed = detailed or _is_last_of_luma(data[at : at + length])
            at = _after_scan(data, at + length)
        else:
            at += length
    else:
        raise TooCostly(Reject.TIMEOUT, "more pieces than any photo has")
    return JpegExtent(len(data), scans, complete=False, progressive=progressive, detailed=detailed or not progressive)


def _after_scan(data: bytes, at: int) -> int:
    """The position of the next marker after entropy-coded data, in which 0xFF is followed by 0 or a restart marker."""
    marker = _AFTER_A_SCAN.search(data, at)  # one pass: a search for each marker would take longer than decoding
    return marker.start() if marker else len(data)


def _is_last_of_luma(header: bytes) -> bool:
    """Whether a scan header is of the luma component's AC coefficients down to the last bit."""
    if len(header) < 10 or header[4] != 1:
        return False
    spectral_end, approximation = header[-2], header[-1]
    return spectral_end > 0 and approximation & 0x0F == 0 and header[5] in (0, 1)


def without_video(data: bytes) -> bytes:
    """A HEIC or AVIF file without what follows the image: a motion photo's video, or another file."""
    at = 0
    for number in range(_MOST_SEGMENTS):
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
