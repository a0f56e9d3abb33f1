"""The photo that a camera leaves in its raw file: a JPEG as large as the sensor's image (TIFF/EP: NEF, CR2, ARW, DNG).

Raw data are not developed. Smaller previews are not photos: small faces are missing in them.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from PIL.ExifTags import Base as Tag

from facelake.contracts import Reject
from facelake.embed.containers import TooCostly, is_sensor_data, tiff_entries

_JPEG_COMPRESSIONS = (6, 7)
_MOST_DIRECTORIES, _MOST_SEGMENTS = 32, 200
_LEAST_SIDE = 0.9  # of the sensor's longer side: cameras leave out pixels at the border
_START, _LOSSLESS = b"\xff\xd8\xff", 0xC3
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))  # of JPEGs that are photos


@dataclass(frozen=True, slots=True)
class RawPreview:
    """A JPEG in a raw file, and the orientation (1..8) that the raw file states."""

    jpeg: bytes
    orientation: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """Width and height of a JPEG, and whether it holds the sensor's values without loss."""

    width: int
    height: int
    lossless: bool


def full_size_preview(data: bytes) -> RawPreview | None:
    """Return the JPEG in a raw file that is as large as the sensor's image; None if it has none.

    Raises:
        TooCostly: more directories or entries than any photo has.
    """
    sensor, best, orientation = 0, (0, b""), 1
    for number, entries in enumerate(_directories(data)):
        if number == 0:
            orientation = entries.get(Tag.Orientation, 1)
        if is_sensor_data(entries.get(Tag.PhotometricInterpretation)):
            sensor = max(sensor, entries.get(Tag.ImageWidth, 0), entries.get(Tag.ImageLength, 0))
        jpeg = _jpeg_of(data, entries)
        frame = _frame_of(jpeg)
        if frame is None:
            continue
        side = max(frame.width, frame.height)
        if frame.lossless:
            sensor = max(sensor, side)
        elif side > best[0]:
            best = (side, jpeg)
    if not sensor or best[0] < _LEAST_SIDE * sensor:
        return None
    return RawPreview(best[1], orientation if 1 <= orientation <= 8 else 1)


def _directories(data: bytes) -> Iterator[dict[int, int]]:
    """Yield the entries of every directory, sub-directories included: the value of each tag, or its position."""
    order = "<" if data[:2] == b"II" else ">"
    first = _number(data, 4, order + "L")
    waiting, seen = deque([first]), {first}
    while waiting:
        at = waiting.popleft()
        entries: dict[int, int] = {}
        following: list[int] = []
        try:
            for tag, _, count, value in tiff_entries(data, at):
                if tag == Tag.SubIFDs and tag not in entries:
                    many = 1 < count <= _MOST_DIRECTORIES
                    following += struct.unpack_from(f"{order}{count}L", data, value) if many else [value]
                entries[tag] = value
            following.append(_number(data, at + 2 + 12 * _number(data, at, order + "H"), order + "L"))
        except struct.error:  # truncated: what was read of it counts
            pass
        yield entries
        for position in following:
            if position and position not in seen:
                seen.add(position)
                waiting.append(position)
        if len(seen) > _MOST_DIRECTORIES:
            raise TooCostly(Reject.TIMEOUT, "more directories than any photo has")


def _number(data: bytes, at: int, kind: str) -> int:
    return int(struct.unpack_from(kind, data, at)[0])


def _jpeg_of(data: bytes, entries: dict[int, int]) -> bytes:
    """Return the bytes of a directory's JPEG; empty if it has none in one piece."""
    start, size = entries.get(Tag.JpegIFOffset), entries.get(Tag.JpegIFByteCount)
    if start is None and entries.get(Tag.Compression) in _JPEG_COMPRESSIONS:
        start, size = entries.get(Tag.StripOffsets), entries.get(Tag.StripByteCounts)
    if start is None or size is None or not data.startswith(_START, start):
        return b""
    return data[start : start + size]


def _frame_of(jpeg: bytes) -> _Frame | None:
    """Return the frame header of a JPEG; None if there is none of a kind that cameras write."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 10 > len(jpeg) or jpeg[at] != 0xFF:
            return None
        code = jpeg[at + 1]
        if code in _FRAMES or code == _LOSSLESS:
            height, width, components = struct.unpack_from(">HHB", jpeg, at + 5)
            # values of a sensor are stored as several components of a narrower image
            return _Frame(width * (min(components, 2) if code == _LOSSLESS else 1), height, code == _LOSSLESS)
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return None
