"""Raw files of cameras: the JPEG of full size that is in them is the photo; smaller previews are not."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facelake.contracts import Reject
from facelake.embed import raw_previews
from facelake.embed.containers import tiff_entries
from facelake.embed.decode import DecodeLimits, Photo, Undecoded, decode
from facelake.embed.raw_previews import full_size_preview

LIMITS = DecodeLimits(target_px=0, brighten=False)
REDUCED, WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, MAKER, STRIPS, ORIENTATION = 254, 256, 257, 259, 262, 271, 273, 274
STRIP_BYTES, SUB, JPEG, JPEG_BYTES, DNG = 279, 330, 513, 514, 50706
CFA = 32803


@dataclass
class Directory:
    """Entries of a directory; a value of bytes is written elsewhere, and its position is the value."""

    entries: dict[int, int | bytes]
    children: list[Directory] = field(default_factory=list)


def tiff(*chain: Directory, order: str = "<") -> bytes:
    """Write directories as cameras do: a chain of them, each with sub-directories."""
    out = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))

    def put(directory: Directory) -> tuple[int, int]:
        """Return the positions of the directory and of its pointer to the next one."""
        children = [put(child)[0] for child in directory.children]
        values: dict[int, tuple[int, int, int]] = {}
        for tag, value in directory.entries.items():
            if isinstance(value, bytes):
                values[tag] = (4, 1, len(out))
                out.extend(value)
            else:
                values[tag] = (4, 1, value)
        if len(children) > 1:
            values[SUB] = (4, len(children), len(out))
            out.extend(struct.pack(f"{order}{len(children)}L", *children))
        elif children:
            values[SUB] = (4, 1, children[0])
        at = len(out)
        out.extend(struct.pack(order + "H", len(values)))
        for tag, (kind, count, number) in sorted(values.items()):
            out.extend(struct.pack(order + "HHLL", tag, kind, count, number))
        out.extend(bytes(4))
        return at, len(out) - 4

    pointer = 4
    for directory in chain:
        at, following = put(directory)
        struct.pack_into(order + "L", out, pointer, at)
        pointer = following
    return bytes(out)


def jpeg(width: int, height: int, **options: object) -> bytes:
    coarse = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(sink, "JPEG", quality=92, **options)
    return sink.getvalue()


def lossless(width: int, height: int, components: int) -> bytes:
    """The head of a JPEG with a sensor's values, as Canon's: two values are one pixel of two components."""
    frame = struct.pack(">HBHHB", 8 + 3 * components, 14, height, width, components) + bytes(3 * components)
    return b"\xff\xd8\xff\xc3" + frame + bytes(100)


FULL, THUMBNAIL, HALF = jpeg(600, 400), jpeg(160, 120), jpeg(300, 200)
SENSOR = Directory(
    {WIDTH: 608, HEIGHT: 406, COMPRESSION: 34713, PHOTOMETRIC: CFA, STRIPS: bytes(900), STRIP_BYTES: 900}
)


def preview(data: bytes, **entries: int) -> Directory:
    return Directory({COMPRESSION: 6, JPEG: data, JPEG_BYTES: len(data), **{int(k[1:]): v for k, v in entries.items()}})


def nef(body: bytes, order: str = "<", orientation: int = 1) -> bytes:
    first = {REDUCED: 1, WIDTH: 160, HEIGHT: 120, COMPRESSION: 1, MAKER: b"NIKON\0", ORIENTATION: orientation}
    return tiff(Directory(first, [preview(body), SENSOR]), order=order)


def cr2(body: bytes, orientation: int = 1) -> bytes:
    first = Directory({COMPRESSION: 6, STRIPS: body, STRIP_BYTES: len(body), ORIENTATION: orientation})
    sensor = lossless(304, 406, 2)
    raw = Directory({COMPRESSION: 6, STRIPS: sensor, STRIP_BYTES: len(sensor)})
    file = tiff(first, preview(THUMBNAIL), Directory({COMPRESSION: 1, WIDTH: 384}), raw)
    return insert_mark(file)


def insert_mark(file: bytes) -> bytes:
    """Canon's mark stands where a TIFF's first directory may: all positions move by eight bytes."""
    at = struct.unpack_from("<L", file, 4)[0]
    moved = bytearray(file[:8] + b"CR\2\0" + bytes(4) + file[8:])
    struct.pack_into("<L", moved, 4, at + 8)
    while at:
        (count,) = struct.unpack_from("<H", moved, at + 8)
        for number in range(count):
            entry = at + 10 + 12 * number
            tag, _, _, value = struct.unpack_from("<HHLL", moved, entry)
            if tag in (STRIPS, JPEG):
                struct.pack_into("<L", moved, entry + 8, value + 8)
        pointer = at + 10 + 12 * count
        (at,) = struct.unpack_from("<L", moved, pointer)
        struct.pack_into("<L", moved, pointer, at + 8 if at else 0)
    return bytes(moved)


def arw(body: bytes) -> bytes:
    first = {REDUCED: 1, COMPRESSION: 6, JPEG: body, JPEG_BYTES: len(body), ORIENTATION: 1}
    return tiff(Directory(first, [SENSOR]), preview(THUMBNAIL))


def dng(body: bytes) -> bytes:
    strip = Directory({REDUCED: 1, COMPRESSION: 7, STRIPS: body, STRIP_BYTES: len(body), PHOTOMETRIC: 6})
    return tiff(Directory({REDUCED: 1, COMPRESSION: 1, DNG: 0x0401}, [SENSOR, strip]))


KINDS = {"nef": nef, "cr2": cr2, "arw": arw, "dng": dng, "big-endian": lambda body: nef(body, ">")}


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_full_photo_is_decoded(kind: str) -> None:
    photo, wanted = decode(KINDS[kind](FULL), LIMITS), decode(FULL, LIMITS)
    assert isinstance(photo, Photo), photo
    assert isinstance(wanted, Photo)
    np.testing.assert_array_equal(photo.pixels, wanted.pixels)
    assert (photo.width, photo.height) == (600, 400)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("body", [THUMBNAIL, HALF, b"\xff\xd8\xff", b"no jpeg at all"])
def test_a_smaller_preview_is_not_taken_for_the_photo(kind: str, body: bytes) -> None:
    outcome = decode(KINDS[kind](body), LIMITS)
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.FORMAT
    assert "raw file" in outcome.detail


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("camera", [nef, cr2])
def test_the_raw_file_states_the_orientation(camera: type, orientation: int) -> None:
    photo = decode(camera(FULL, orientation=orientation), LIMITS)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    wanted = decode(jpeg(600, 400, exif=exif), LIMITS)
    assert isinstance(photo, Photo)
    assert isinstance(wanted, Photo)
    np.testing.assert_array_equal(photo.pixels, wanted.pixels)
    both = decode(camera(jpeg(600, 400, exif=exif), orientation=orientation), LIMITS)
    assert isinstance(both, Photo)
    np.testing.assert_array_equal(both.pixels, wanted.pixels, "applied once, though both state it")


def test_without_the_sensors_size_nothing_is_known_to_be_full() -> None:
    assert full_size_preview(tiff(Directory({REDUCED: 1}, [preview(FULL)]))) is None


def test_directories_in_a_circle_end() -> None:
    file = bytearray(nef(FULL))
    (at,) = struct.unpack_from("<L", file, 4)
    (count,) = struct.unpack_from("<H", file, at)
    struct.pack_into("<L", file, at + 2 + 12 * count, at)
    assert isinstance(decode(bytes(file), LIMITS), Photo)


def test_many_directories_are_too_costly() -> None:
    outcome = decode(tiff(Directory({REDUCED: 1}), *(Directory({WIDTH: 1}) for _ in range(40))), LIMITS)
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.TIMEOUT


def test_a_directory_that_names_itself_many_times_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,096 entries of 32 positions each, in every directory, took seconds."""
    entries, read = 4096, []
    body = bytearray(b"II*\0" + struct.pack("<L", 8 + 128) + struct.pack("<32L", *[8 + 128] * 32))
    body += struct.pack("<H", entries) + struct.pack("<HHLL", SUB, 4, 32, 8) * (entries - 1)
    body += struct.pack("<HHLL", REDUCED, 4, 1, 1) + bytes(4)
    monkeypatch.setattr(raw_previews, "tiff_entries", lambda data, at: read.append(at) or tiff_entries(data, at))
    assert full_size_preview(bytes(body)) is None
    assert read == [8 + 128]


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_damaged_files_have_one_outcome(kind: str, data: st.DataObject) -> None:
    body = bytearray(KINDS[kind](FULL))
    body = body[: data.draw(st.integers(8, len(body)))]
    head = [at for at in range(len(body)) if at < 600 or at > len(body) - 600]
    for _ in range(data.draw(st.integers(0, 8))):
        body[data.draw(st.sampled_from(head))] = data.draw(st.integers(0, 255))
    assert isinstance(decode(bytes(body), LIMITS), Photo | Undecoded)
