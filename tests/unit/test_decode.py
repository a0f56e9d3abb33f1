"""Hostile and odd images: always one outcome, never an exception, caps before pixels."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from facelake.contracts import Reject
from facelake.embed.decode import DecodeLimits, Photo, Undecoded, decode, upright

LIMITS = DecodeLimits()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


@pytest.fixture(scope="module")
def gradient() -> Image.Image:
    y, x = np.mgrid[0:90, 0:160]
    return Image.fromarray(np.stack([x, y * 2, 255 - x], -1).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_formats(gradient: Image.Image, kind: str) -> None:
    photo = decode(encoded(gradient, kind), LIMITS)
    assert isinstance(photo, Photo)
    assert (photo.width, photo.height, photo.pixels.shape) == (160, 90, (90, 160, 3))
    assert np.abs(photo.pixels.astype(int) - np.asarray(gradient).astype(int)).mean() < 12


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16", "F"])
def test_modes_become_rgb(gradient: Image.Image, mode: str) -> None:
    kind = "TIFF" if mode in ("CMYK", "F") else "PNG"
    source = (
        Image.fromarray(np.asarray(gradient.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else gradient.convert(mode)
    )
    photo = decode(encoded(source, kind), LIMITS)
    assert isinstance(photo, Photo)
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.shape == (90, 160, 3)
    if mode == "I;16":
        assert np.abs(photo.pixels[..., 0].astype(int) - np.asarray(gradient.convert("L"))).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_pillow_does_it(gradient: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(gradient, "PNG", exif=exif)
    photo = decode(data, LIMITS)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert isinstance(photo, Photo)
    np.testing.assert_array_equal(photo.pixels, wanted)
    assert (photo.height, photo.width) == wanted.shape[:2]


def test_upright_is_a_view_of_the_same_pixels() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for orientation in range(1, 9):
        assert sorted(upright(pixels, orientation).ravel()) == sorted(pixels.ravel())


def test_large_jpeg_is_decoded_small_and_measured_whole() -> None:
    photo = decode(encoded(Image.new("RGB", (4000, 3000), "gray"), "JPEG"), LIMITS)
    assert isinstance(photo, Photo)
    assert (photo.width, photo.height) == (4000, 3000)
    assert photo.pixels.shape == (1500, 2000, 3), "a quarter would have less than 1280"


def test_caps() -> None:
    bomb = encoded(Image.new("L", (9000, 9000)), "PNG")
    cases = [
        (b"", Reject.EMPTY),
        (b"x" * 100, Reject.FORMAT),
        (bomb, Reject.PIXELS),
        (encoded(Image.new("RGB", (64, 64)), "JPEG")[:300], Reject.UNREADABLE),
    ]
    for data, reason in cases:
        outcome = decode(data, LIMITS)
        assert isinstance(outcome, Undecoded)
        assert outcome.reason == reason
    assert decode(b"x" * 11, DecodeLimits(max_bytes=10)) == Undecoded(Reject.BYTES, "11 bytes, allowed 10")


@pytest.mark.parametrize(("width", "kept"), [(1280, 1280), (2559, 2559), (2560, 1280), (5200, 1300)])
def test_jpegs_are_halved_while_enough_is_left(width: int, kept: int) -> None:
    data = encoded(Image.new("RGB", (width, 400), "gray"), "JPEG")
    photo, whole = decode(data, LIMITS), decode(data, DecodeLimits(target_px=0))
    assert isinstance(photo, Photo)
    assert isinstance(whole, Photo)
    assert (photo.pixels.shape[1], photo.width, whole.pixels.shape[1]) == (kept, width, width)


def test_a_jpeg_of_a_thousand_passes_is_not_begun(gradient: Image.Image) -> None:
    data = encoded(gradient, "JPEG", progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    bomb = data[:end] + data[start:end] * 1000 + data[end:]
    outcome = decode(bomb, LIMITS)
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.TIMEOUT
    assert isinstance(decode(data, LIMITS), Photo)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "I;16", "RGB"])
def test_the_largest_photo_allowed_stays_within_its_memory(mode: str, tmp_path: Path) -> None:
    """In a process of its own: the peak of this one only ever grows."""
    side = 8000
    source = (
        Image.fromarray(np.zeros((side, side), np.uint16) + 400) if mode == "I;16" else Image.new(mode, (side, side))
    )
    source.save(tmp_path / "large.png", compress_level=1)
    code = (
        "import resource, sys; from pathlib import Path; from facelake.embed.decode import *\n"
        "data = Path(sys.argv[1]).read_bytes()\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); photo = decode(data, DecodeLimits(max_seconds=100))\n"
        "print(type(photo).__name__, peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "large.png"], capture_output=True, text=True, check=True
    )
    kind, grown_kb = done.stdout.split()
    assert kind == "Photo"
    assert int(grown_kb) * 1024 < 512 << 20


def test_time_cap_interrupts_a_slow_decoder() -> None:
    slow = encoded(Image.effect_noise((6000, 6000), 90), "PNG")
    began = time.monotonic()
    outcome = decode(slow, DecodeLimits(max_seconds=0.05))
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.TIMEOUT
    assert time.monotonic() - began < 5


@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF0000WEBP", b"II*\0", b"BM"]),
)
@settings(max_examples=200, deadline=None)
def test_random_bytes_never_raise(tail: bytes, head: bytes) -> None:
    assert isinstance(decode(head + tail, LIMITS), Photo | Undecoded)


@given(st.integers(0, 3000), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_one_flipped_byte_never_raises(position: int, value: int) -> None:
    data = bytearray(encoded(Image.effect_noise((80, 60), 50).convert("RGB"), "JPEG"))
    data[position % len(data)] = value
    assert isinstance(decode(bytes(data), LIMITS), Photo | Undecoded)


def test_hostile_set(shared: Path) -> None:
    files = [
        p for p in sorted((shared / "data/hostile").rglob("*")) if p.is_file() and p.suffix not in (".json", ".md")
    ]
    assert len(files) > 200
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in files:
        began = time.monotonic()
        outcome = decode(path.read_bytes(), LIMITS)
        assert isinstance(outcome, Photo | Undecoded), path
        assert time.monotonic() - began < 1.0 + 4.0, path  # a second, with room for a busy machine
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 512 << 20
