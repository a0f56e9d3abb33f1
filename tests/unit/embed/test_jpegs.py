"""JPEGs that are damaged without harm are decoded and marked; those of which more than a tenth is missing are rejected."""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facelake.contracts import Reject
from facelake.embed.decode import DecodeLimits, Photo, Undecoded, decode
from facelake.embed.jpeg_markers import jpeg_extent, missing_intervals, without_stray_bytes
from facelake.embed.repairs import repaired, why_not
from tests.unit.embed.jpeg_samples import (
    A_SCAN_PER_COLOUR,
    ARITHMETIC,
    ARITHMETIC_WITH_A_BORDER,
    UNUSUAL_SAMPLING,
    scene,
)
from tests.unit.embed.test_decode import encoded
from tests.unit.embed.test_headers import chunk, segment

LIMITS = DecodeLimits(target_px=0, brighten=False)
SCENE = scene().resize((400, 400), Image.Resampling.BICUBIC)
JPEG = encoded(SCENE, "JPEG", quality=92)
END = b"\xff\xd9"


def photo(data: bytes, limits: DecodeLimits = LIMITS) -> Photo:
    outcome = decode(data, limits)
    assert isinstance(outcome, Photo), outcome
    return outcome


def rejected(data: bytes) -> Undecoded:
    outcome = decode(data, LIMITS)
    assert isinstance(outcome, Undecoded), outcome
    return outcome


def is_missing(data: bytes) -> bool:
    outcome = rejected(data)
    return outcome.reason == Reject.UNREADABLE and "missing" in outcome.detail


def difference(decoded: Photo, image: Image.Image) -> float:
    return float(np.abs(decoded.pixels.astype(int) - np.asarray(image.resize((decoded.width, decoded.height)))).mean())


STRAY = [b"\0", b"\r\n", bytes(16), b"\xff\0"]


@pytest.mark.parametrize("stray", STRAY)
@pytest.mark.parametrize("progressive", [False, True])
def test_stray_bytes_between_the_segments_of_the_header(stray: bytes, progressive: bool) -> None:
    data = encoded(SCENE, "JPEG", quality=92, progressive=progressive)
    for marker in (b"\xff\xdb", b"\xff\xc4", b"\xff\xda"):
        at = data.index(marker)
        decoded = photo(data[:at] + stray + data[at:])
        assert decoded.damaged
        np.testing.assert_array_equal(decoded.pixels, photo(data).pixels)


@pytest.mark.parametrize("stray", STRAY[:3])
def test_stray_bytes_around_the_start(stray: bytes) -> None:
    for data in (stray + JPEG, JPEG[:2] + stray + JPEG[2:]):
        decoded = photo(data)
        assert decoded.damaged
        np.testing.assert_array_equal(decoded.pixels, photo(JPEG).pixels)
    assert rejected(bytes(100) + JPEG).reason == Reject.FORMAT, "some other file with a picture in it"


def test_unusual_sampling_factors_are_no_damage() -> None:
    decoded = photo(UNUSUAL_SAMPLING)
    assert (decoded.width, decoded.height, decoded.damaged) == (96, 128, False)
    assert difference(decoded, scene()) < 12
    assert photo(UNUSUAL_SAMPLING, DecodeLimits(target_px=40, brighten=False)).pixels.shape == (64, 48, 3)
    assert photo(UNUSUAL_SAMPLING[:-2]).damaged
    for end in (b"", END):
        assert is_missing(UNUSUAL_SAMPLING[: len(UNUSUAL_SAMPLING) // 2] + end)


@pytest.mark.parametrize("end", [b"", END])
def test_arithmetic_code_that_ends_early(end: bytes) -> None:
    body = ARITHMETIC[:-2]
    header = body.index(b"\xff\xda")
    for share in (0.2, 0.5):
        assert is_missing(body[: header + int((len(body) - header) * share)] + end)
        assert is_missing(body[: header + int((len(body) - header) * share)] + bytes(200) + end)


def test_arithmetic_code_that_is_whole() -> None:
    for data, image in ((ARITHMETIC, scene()), (ARITHMETIC_WITH_A_BORDER, None)):
        assert not photo(data).damaged
        assert photo(data[:-2]).damaged
        assert image is None or difference(photo(data), image) < 12


def test_a_scan_per_colour() -> None:
    assert difference(photo(A_SCAN_PER_COLOUR), scene()) < 12
    assert photo(A_SCAN_PER_COLOUR[:-2]).damaged
    assert photo(A_SCAN_PER_COLOUR[:-6]).damaged
    last = A_SCAN_PER_COLOUR.rindex(b"\xff\xda")
    for data in (A_SCAN_PER_COLOUR[:last], A_SCAN_PER_COLOUR[: (last + len(A_SCAN_PER_COLOUR)) // 2]):
        assert is_missing(data)
        assert is_missing(data + END)


@pytest.mark.parametrize("colour", ["RGB", "L"])
def test_restart_markers_show_what_is_missing_in_the_middle(colour: str) -> None:
    data = encoded(SCENE.convert(colour), "JPEG", quality=92, restart_marker_rows=1)
    size = len(data)
    assert missing_intervals(data) == 0
    assert is_missing(data[: size * 35 // 100] + bytes(size * 40 // 100) + data[size * 75 // 100 :])
    assert is_missing(data[: size * 35 // 100] + data[size * 75 // 100 :])
    stray = [marker.start() for marker in re.finditer(rb"\xff[\xd0-\xd7]", data)][-1]
    assert photo(data[:stray] + bytes(3) + data[stray:]).damaged


@pytest.mark.parametrize("progressive", [False, True])
def test_only_the_end_is_missing_of_a_photo_with_a_grey_border(progressive: bool) -> None:
    image = Image.new("RGB", (400, 600), (128, 128, 128))
    image.paste(SCENE, (0, 60))
    data = encoded(image, "JPEG", quality=92, progressive=progressive)
    for cut in (data[:-2], data[:-1]):
        decoded = photo(cut)
        assert decoded.damaged
        np.testing.assert_array_equal(decoded.pixels, photo(data).pixels)


def test_the_luma_component_may_have_any_number() -> None:
    data = bytearray(encoded(SCENE, "JPEG", quality=92, progressive=True))
    at = 2
    while data[at + 1] != 0xD9:
        if data[at + 1] == 0xC2:
            assert data[at + 10] == 1
            data[at + 10] = 77
        elif data[at + 1] == 0xDA:
            for i in range(data[at + 4]):
                data[at + 5 + 2 * i] = 77 if data[at + 5 + 2 * i] == 1 else data[at + 5 + 2 * i]
        scan, at = data[at + 1] == 0xDA, at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        while scan and (data[at] != 0xFF or data[at + 1] == 0):
            at += 1
    assert jpeg_extent(bytes(data)).detailed
    assert photo(bytes(data[:-2])).damaged


def test_a_lot_of_photoshops_resources() -> None:
    resources = segment(0xED, b"Photoshop 3.0\0" + bytes(65000)) * 24
    decoded = photo(JPEG[:2] + resources + JPEG[2:])
    assert not decoded.damaged
    np.testing.assert_array_equal(decoded.pixels, photo(JPEG).pixels)


def test_a_wrong_checksum_of_a_chunk_that_is_not_needed() -> None:
    data = encoded(SCENE, "PNG")
    wrong = chunk(b"tEXt", b"a\0b")[:-4] + b"abcd"
    for broken in (data[:33] + wrong + data[33:], data[:-12] + wrong + data[-12:]):
        np.testing.assert_array_equal(photo(broken).pixels, np.asarray(SCENE))
    assert photo(data[:33] + wrong + data[33:]).damaged
    needed = data[:33] + data[33:].replace(struct.pack(">L", zlib.crc32(data[12:29])), b"abcd")
    assert decode(needed, LIMITS)
    assert rejected(data[:29] + b"abcd" + data[33:]).reason == Reject.UNREADABLE


def test_the_reason_names_what_is_wrong() -> None:
    avif = encoded(SCENE, "AVIF")
    sink = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.float32)).save(sink, "TIFF")
    doubles = sink.getvalue().replace(struct.pack("<HHLL", 258, 3, 1, 32), struct.pack("<HHLL", 258, 3, 1, 64))
    for data, reason, said in (
        (avif[: len(avif) * 9 // 10], Reject.UNREADABLE, f"truncated: {len(avif) * 9 // 10} of {len(avif)} bytes"),
        (b"MM\0+\0\x08\0\0" + bytes(60), Reject.FORMAT, "BigTIFF in big-endian byte order"),
        (doubles, Reject.FORMAT, "1 floating-point sample(s) of 64 bits, photometric interpretation 1"),
        (b"GIF89a" + bytes(3), Reject.UNREADABLE, "GIF that is truncated"),
        (b"\0\0\0\x18ftypmp42" + bytes(99), Reject.FORMAT, "not one of JPEG"),
    ):
        outcome = rejected(data)
        assert (outcome.reason, said in outcome.detail) == (reason, True), outcome


@given(
    st.sampled_from(
        [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"\0\0\0\x18ftypavif", b"BM"]
    ),
    st.binary(max_size=200),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_have_a_reason(head: bytes, tail: bytes) -> None:
    reason, detail = why_not(head + tail)
    assert reason in (Reject.FORMAT, Reject.UNREADABLE, Reject.TIMEOUT)
    assert detail
    assert repaired(head + tail) is None or isinstance(repaired(head + tail), bytes)
    assert without_stray_bytes(head + tail).startswith(b"\xff\xd8")
    assert 0 <= missing_intervals(head + tail) <= 1


@pytest.mark.parametrize("name", ["ARITHMETIC", "A_SCAN_PER_COLOUR", "UNUSUAL_SAMPLING"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damage_of_unusual_jpegs_has_one_outcome(name: str, data: st.DataObject) -> None:
    file = bytearray({"ARITHMETIC": ARITHMETIC, "A_SCAN_PER_COLOUR": A_SCAN_PER_COLOUR}.get(name, UNUSUAL_SAMPLING))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(2, len(file) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(decode(bytes(file[: data.draw(st.integers(3, len(file)))]), LIMITS), Photo | Undecoded)
