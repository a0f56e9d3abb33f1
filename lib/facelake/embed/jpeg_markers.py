"""What the markers of a JPEG say (ITU-T T.81, annex B): where its first image ends, its scans, what is missing of them.

Entropy-coded data are skipped, not decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

from facelake.contracts import Reject
from facelake.embed.containers import TooCostly

_START, END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
RESOURCES = 0xED  # Photoshop's, in APP13
_MOST_SEGMENTS = 20_000
_START_OF_SCAN, _END, _RESTART_INTERVAL = 0xDA, 0xD9, 0xDD
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length: TEM, restarts, start of image
_AFTER_A_SCAN = re.compile(rb"\xff[\xc4\xd9-\xdd\xe1\xe2\xfe]")  # end, scan, tables, comment, application data
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_FIRST_ARITHMETIC = 0xC9
_BLOCK = 8


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
    arithmetic: bool = False
    """whether it is coded arithmetically, in which no decoder notices that data are missing"""
    components_begun: tuple[int, int] = (0, 0)
    """number of components of which a scan has begun, and of all"""
    pixels: int = 0
    """width times height"""
    last_scan: int = 0
    """position of the header of the last scan"""
    resources: int = 0
    """bytes of Photoshop's resources"""

    @property
    def lacks_components(self) -> bool:
        """Whether a colour component has no scan."""
        return self.scans > 0 and self.components_begun[0] < self.components_begun[1]


_Segment = tuple[int, int, int]
"""The code of a marker, its position, and where the next one is looked for: behind its content and a scan's data."""


def jpeg_extent(data: bytes) -> JpegExtent:
    """Walk the markers of a JPEG up to the first image's end.

    Raises:
        TooCostly: more segments than any photo has.
    """
    scans, kind, frame, detailed, last, resources = 0, 0, b"", False, 0, 0
    begun: set[int] = set()
    luma, code, at = None, 0, 2
    for code, at, end in _segments(data):
        if code == _START_OF_SCAN:
            scans, last = scans + 1, at
            header = _content(data, at)
            begun.update(header[1 : 1 + 2 * (header[0] if header else 0) : 2])
            detailed = detailed or _is_last_of_luma(header, luma)
        elif code in _FRAMES:
            kind, frame = code, _content(data, at)
            luma = frame[6] if len(frame) > 6 else None
        elif code == RESOURCES:
            resources += end - at
    complete = code == _END
    return JpegExtent(
        at + 2 if complete else len(data),
        scans,
        complete=complete,
        progressive=kind in _PROGRESSIVE,
        detailed=detailed or kind not in _PROGRESSIVE,
        arithmetic=kind >= _FIRST_ARITHMETIC,
        components_begun=(len(begun.intersection(frame[6::3])), len(set(frame[6::3]))),
        pixels=int.from_bytes(frame[1:3], "big") * int.from_bytes(frame[3:5], "big"),
        last_scan=last,
        resources=resources,
    )


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yield the segments of a JPEG up to the first image's end; bytes between them are skipped.

    Raises:
        TooCostly: more segments than any photo has.
    """
    at = 2
    for _ in range(_MOST_SEGMENTS + len(data) // 256):
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return
        code = data[at + 1]
        if code in (0x00, 0xFF):
            at += 1
            continue
        if code != _END and (code in _ALONE or at + 4 > len(data)):
            at += 2
            continue
        end = at + 2 if code == _END else at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield code, at, end
        if code == _END:
            return
        at = _after_scan(data, end) if code == _START_OF_SCAN else end
    raise TooCostly(Reject.TIMEOUT, "more pieces than any photo has")


def _content(data: bytes, at: int) -> bytes:
    """The content of a segment, without marker and length."""
    return data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]


def _after_scan(data: bytes, at: int) -> int:
    """The position of the next marker after entropy-coded data, in which 0xFF is followed by 0 or a restart marker."""
    marker = _AFTER_A_SCAN.search(data, at)  # one pass: a search for each marker would take longer than decoding
    return marker.start() if marker else len(data)


def _is_last_of_luma(header: bytes, luma: int | None) -> bool:
    """Whether a scan header is of the luma component's AC coefficients down to the last bit."""
    if len(header) < 6 or header[0] != 1:
        return False
    spectral_end, approximation = header[-2], header[-1]
    return spectral_end > 0 and approximation & 0x0F == 0 and header[1] == luma


def without_stray_bytes(data: bytes, left_out: int | None = None) -> bytes:
    """A JPEG whose header has nothing between its segments, and no segments of the kind `left_out`."""
    parts = [_START]
    for code, at, end in _segments(data):
        if code in (_START_OF_SCAN, _END):
            return b"".join((*parts, data[at:]))
        if code != left_out:
            parts.append(data[at:end])
    return b"".join(parts)


def missing_intervals(data: bytes) -> float:
    """The share of restart intervals whose marker is missing, of the scan in which most are; 0 without restarts."""
    interval, frame, worst = 0, b"", 0.0
    for code, at, end in _segments(data):
        content = _content(data, at)
        if code == _RESTART_INTERVAL:
            interval = int.from_bytes(content[:2], "big")
        elif code in _FRAMES:
            frame = content
        elif code == _START_OF_SCAN and interval and len(frame) > 8 and content:
            expected = (_units(frame, content) - 1) // interval
            found = len(_RESTART.findall(data, end, _after_scan(data, end)))
            worst = max(worst, 1 - found / expected if expected > 0 else 0.0)
    return worst


def _units(frame: bytes, scan: bytes) -> int:
    """The number of coded units (MCUs) of a scan; of a single component they are its blocks."""
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    factors = {frame[i]: (frame[i + 1] >> 4 or 1, frame[i + 1] & 15 or 1) for i in range(6, len(frame) - 2, 3)}
    most_x, most_y = max(x for x, _ in factors.values()), max(y for _, y in factors.values())
    x, y = factors.get(scan[1], (1, 1)) if scan[0] == 1 else (1, 1)
    return -(-width * x // (most_x * _BLOCK)) * -(-height * y // (most_y * _BLOCK))
