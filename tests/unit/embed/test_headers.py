"""Files whose headers would cost a decoder gigabytes or minutes are rejected before decoding."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facelake.contracts import Reject
from facelake.embed.decode import DecodeLimits, Photo, Undecoded, decode
from tests.unit.embed.test_decode import encoded, measured

SMALL = Image.new("RGB", (100, 100), "gray")
JPEG, PNG = encoded(SMALL, "JPEG"), encoded(SMALL, "PNG")


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def in_jpeg(header: bytes) -> bytes:
    return JPEG[:2] + header + JPEG[20:]  # without JFIF's density, so that EXIF is asked for it


def in_png(chunks: bytes) -> bytes:
    return PNG[:33] + chunks + PNG[33:]


def numbers(tag: int, kind: int, count: int) -> bytes:
    """EXIF with one tag of so many numbers that are all in the file."""
    size = {3: 2, 4: 4, 5: 8}[kind] * count
    head = b"II*\0" + struct.pack("<LHHHLLL", 8, 1, tag, kind, count, 26, 0)
    return head + np.arange(1000, 1000 + size // 4 + 1, dtype="<u4").tobytes()


def long_exif() -> bytes:
    whole = numbers(0x11A, 5, 6_000_000)
    return in_jpeg(b"".join(segment(0xE1, b"Exif\0\0" + whole[i : i + 65000]) for i in range(0, len(whole), 65000)))


def tiff(size: tuple[int, int], extra: Sequence[tuple[int, int, int, bytes]], body: bytes, order: str = "<") -> bytes:
    """A gray TIFF; values of more than four bytes follow the directory, then `body`."""

    def short(value: int) -> bytes:
        return struct.pack(order + "H", value)

    def whole(value: int) -> bytes:
        return struct.pack(order + "L", value)

    tags = [(256, 4, 1, whole(size[0])), (257, 4, 1, whole(size[1])), (258, 3, 1, short(8)), (259, 3, 1, short(8))]
    tags = sorted([*tags, (262, 3, 1, short(1)), (277, 3, 1, short(1)), *extra])
    at = 8 + 2 + 12 * len(tags) + 4
    head, behind = {"<": b"II*\0", ">": b"MM\0*"}[order] + whole(8) + short(len(tags)), b""
    for tag, kind, count, value in tags:
        placed = value.ljust(4, b"\0") if len(value) <= 4 else whole(at + len(behind))
        behind += value if len(value) > 4 else b""
        head += struct.pack(order + "HHL", tag, kind, count) + placed
    return head + b"\0\0\0\0" + behind + body


def one_tile(side: int, order: str = "<") -> bytes:
    """A gray TIFF of 100 x 100 pixels in one tile of `side`, compressed."""
    work = zlib.compressobj(9)
    tile = b"".join(work.compress(bytes(side)) for _ in range(side)) + work.flush()
    at = 8 + 2 + 12 * 10 + 4

    def whole(value: int) -> bytes:
        return struct.pack(order + "L", value)

    tags = [(322, 4, 1, whole(side)), (323, 4, 1, whole(side)), (324, 4, 1, whole(at)), (325, 4, 1, whole(len(tile)))]
    return tiff((100, 100), tags, tile, order)


def strips(count: int) -> bytes:
    places, sizes = struct.pack("<L", 8) * count, struct.pack("<L", 100) * count
    return tiff((100, 100), [(273, 4, count, places), (278, 4, 1, struct.pack("<L", 1)), (279, 4, count, sizes)], b"")


def passes(side: int, more: int) -> bytes:
    data = encoded(Image.new("RGB", (side, side), "gray"), "JPEG", progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[start:end] * more + data[end:]


def gif_comments() -> bytes:
    data = encoded(SMALL, "GIF")
    end = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    return data[:end] + b"\x21\xfe\x01x\x00" * 8_000_000 + data[end:]


HOSTILE: dict[str, tuple[Callable[[], bytes], Reject]] = {
    "jpeg of comments": (lambda: in_jpeg(segment(0xFE, b"") * 10_000_000), Reject.TIMEOUT),
    "jpeg of fill bytes": (lambda: in_jpeg(b"\xff" * 50_000_000), Reject.TIMEOUT),
    "jpeg with numbers for EXIF": (long_exif, Reject.BYTES),
    "jpeg of passes": (lambda: passes(7900, 30), Reject.TIMEOUT),
    "png of chunks": (lambda: in_png(chunk(b"abCd", b"") * 4_000_000), Reject.TIMEOUT),
    "gif of comments": (gif_comments, Reject.TIMEOUT),
    "tiff of one tile": (lambda: one_tile(25_000), Reject.PIXELS),
    "tiff of one tile, big-endian": (lambda: one_tile(25_000, ">"), Reject.PIXELS),
    "tiff of strips": (lambda: strips(5_000_000), Reject.TIMEOUT),
    "tiff of numbers": (lambda: tiff((9, 9), [(700, 5, 5_000_000, bytes(40_000_000))], b""), Reject.BYTES),
    "tiff with numbers for its orientation": (lambda: numbers(0x112, 4, 15_000_000), Reject.BYTES),
    "png one pixel wide": (lambda: encoded(Image.new("L", (1, 70_000)), "PNG"), Reject.PIXELS),
    "avif larger than photos are": (lambda: encoded(SMALL, "AVIF") + bytes(33 << 20), Reject.BYTES),
    "avif by another name": (
        lambda: b"\0\0\0\x20ftypmif1" + encoded(SMALL, "AVIF")[12:] + bytes(33 << 20),
        Reject.BYTES,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_costly_headers_are_rejected_before_decoding(name: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[name]
    data = make()
    assert len(data) <= DecodeLimits().max_bytes, "that would be another reject"
    outcome, grown = measured(data, tmp_path)
    assert outcome == str(reason)
    assert grown < 128 << 20


def test_oversized_exif_is_ignored(tmp_path: Path) -> None:
    data = in_png(chunk(b"eXIf", numbers(0x112, 4, 14_000_000)))
    outcome, grown = measured(data, tmp_path)
    assert outcome == "photo"
    assert grown < 256 << 20, "the bytes themselves, not a number for each four of them"


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiles_that_fit_their_photo_are_read(order: str) -> None:
    photo = decode(one_tile(2048, order), DecodeLimits())
    assert isinstance(photo, Photo)
    assert photo.pixels.shape == (100, 100, 3)


def test_photos_in_many_parts_as_editors_write_them_are_decoded() -> None:
    profile = segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000))
    assert isinstance(decode(in_jpeg(segment(0xFE, b"by hand") * 300), DecodeLimits()), Photo)
    assert isinstance(decode(in_jpeg(profile), DecodeLimits()), Photo | Undecoded)
    noise = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)), "PNG")
    small = b"".join(chunk(b"IDAT", part) for part in _slices(_idat(noise), 1024))
    photo = decode(noise[:33] + small + chunk(b"IEND", b""), DecodeLimits())
    assert isinstance(photo, Photo)
    runs = _rle(400, 300)
    assert isinstance(decode(runs, DecodeLimits()), Photo)


def _idat(data: bytes) -> bytes:
    at, found = 8, b""
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"IDAT":
            found += data[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def _slices(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def _rle(width: int, height: int) -> bytes:
    """A run-length encoded BMP of single pixels: two bytes each."""
    body = (b"\x01\x07" * width + b"\0\0") * height + b"\0\1"
    at = 14 + 40 + 1024
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    sink = io.BytesIO(b"BM" + struct.pack("<IHHI", at + len(body), 0, 0, at) + head + bytes(1024) + body)
    return sink.getvalue()
