"""Malformed and unusual images: always one outcome, never an exception, limits checked before decoding."""

from __future__ import annotations

import atexit
import io
import resource
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from facelake.contracts import Reject
from facelake.embed.decode import DecodeLimits, Photo, Undecoded, decode, upright

LIMITS = DecodeLimits()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    if kind == "JXL":
        return bytes(imagecodecs.jpegxl_encode(np.asarray(image), effort=1))
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


def test_a_cmyk_jpeg_is_as_pillow_decodes_it(gradient: Image.Image) -> None:
    data = encoded(gradient.convert("CMYK"), "JPEG", quality=95)
    photo = decode(data, LIMITS)
    assert isinstance(photo, Photo)
    assert np.array_equal(photo.pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert not photo.damaged


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_of_which_a_little_is_missing_is_damaged_and_one_of_which_much_is_is_not_decoded(mode: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (160, 240, 3), np.uint8)
    data = encoded(Image.fromarray(pixels).convert(mode), "JPEG", quality=90)
    photo = decode(data[: len(data) * 97 // 100], LIMITS)
    assert isinstance(photo, Photo)
    assert photo.damaged
    lost = decode(data[: len(data) * 60 // 100], LIMITS)
    assert isinstance(lost, Undecoded)
    assert "of the photo is missing" in lost.detail


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


def test_limits_on_bytes_pixels_and_formats() -> None:
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
def test_jpegs_are_halved_down_to_the_target_size(width: int, kept: int) -> None:
    data = encoded(Image.new("RGB", (width, 400), "gray"), "JPEG")
    photo, whole = decode(data, LIMITS), decode(data, DecodeLimits(target_px=0))
    assert isinstance(photo, Photo)
    assert isinstance(whole, Photo)
    assert (photo.pixels.shape[1], photo.width, whole.pixels.shape[1]) == (kept, width, width)


@pytest.mark.parametrize(("progressive", "target", "kept"), [(True, 6400, 3200), (False, 6400, 6400), (True, 0, 6400)])
def test_a_large_progressive_jpeg_is_halved(progressive: bool, target: int, kept: int) -> None:
    data = encoded(Image.new("RGB", (6400, 6400), "gray"), "JPEG", progressive=progressive)
    photo = decode(data, DecodeLimits(target_px=target))
    assert isinstance(photo, Photo)
    assert (photo.width, photo.pixels.shape[1]) == (6400, kept)


def test_a_jpeg_of_a_thousand_scans_is_rejected_undecoded(gradient: Image.Image) -> None:
    data = encoded(gradient, "JPEG", progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    bomb = data[:end] + data[start:end] * 1000 + data[end:]
    outcome = decode(bomb, LIMITS)
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.TIMEOUT
    assert isinstance(decode(data, LIMITS), Photo)


# Format, mode, and pixels of a JPEG that one of its pixels counts for.
LARGEST = [
    ("PNG", "RGBA", 5 / 3),
    ("PNG", "LA", 5 / 4),
    ("PNG", "P", 5 / 4),
    ("PNG", "I;16", 5 / 4),
    ("PNG", "RGB", 5 / 4),
    ("TIFF", "RGB", 1),
    ("TIFF", "CMYK", 4 / 3),
    ("TIFF", "I", 4 / 3),
    ("WEBP", "RGB", 2),
    ("AVIF", "RGB", 1.3),
    ("HEIF", "RGB", 5 / 4),
    ("JXL", "RGB", 5 / 2),
    ("JXL", "RGBA", 5 / 2),
    ("JPEG", "CMYK", 5 / 4),
    ("JPEG", "RGB", 1),
    ("GIF", "P", 5 / 4),
]
_MEASURE = """
import gc, os, resource, sys
from pathlib import Path
from facelake.embed.decode import *
gc.freeze()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for line in sys.stdin:
    if process := os.fork():
        _, status = os.waitpid(process, 0)
        print("" if status == 0 else f"ended {status}", flush=True)
        continue
    data = Path(line[:-1]).read_bytes()
    before = peak()
    photo = decode(data, DecodeLimits(max_seconds=100))
    print(getattr(photo, "reason", "photo"), (peak() - before) * 1024, end="", flush=True)
    os._exit(0)
"""


@lru_cache
def _measuring() -> subprocess.Popen[str]:
    """A process that has imported the decoders and forks one for each photo, whose peak only ever grows."""
    command = [sys.executable, "-c", _MEASURE]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)  # its stdin is closed
    return process


def measured(data: bytes, folder: Path) -> tuple[str, int]:
    """What became of a photo, and bytes it took, in a process of its own."""
    (folder / "photo").write_bytes(data)
    process = _measuring()
    assert process.stdin
    assert process.stdout
    print(folder / "photo", file=process.stdin, flush=True)
    kind, grown = process.stdout.readline().split()
    return kind, int(grown)


def large(mode: str, side: int) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.full((side, side), 400, np.uint16))
    return Image.new(mode, (side, side))


_SAVED: dict[str, dict[str, object]] = {
    "PNG": {"compress_level": 1},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"method": 0},
    "AVIF": {"speed": 10},
    "HEIF": {"enc_params": {"preset": "ultrafast"}},
    "JPEG": {"progressive": True},
}


@pytest.mark.parametrize(("kind", "mode", "weight"), LARGEST)
def test_the_largest_photo_allowed_stays_within_its_memory(kind: str, mode: str, weight: float, tmp_path: Path) -> None:
    side = int((LIMITS.max_pixels / weight) ** 0.5)
    outcome, grown = measured(encoded(large(mode, side), kind, **_SAVED.get(kind, {})), tmp_path)
    assert outcome == "photo"
    assert grown < 512 << 20


@pytest.mark.parametrize(("kind", "mode", "weight"), LARGEST)
def test_one_row_more_than_the_largest_is_rejected(kind: str, mode: str, weight: float) -> None:
    side = 120
    limits = DecodeLimits(max_pixels=int(side * side * weight) + 1)
    whole, larger = (encoded(large(mode, n), kind, **_SAVED.get(kind, {})) for n in (side, side + 1))
    assert isinstance(decode(whole, limits), Photo)
    outcome = decode(larger, limits)
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.PIXELS


@given(
    st.integers(1, 3000),
    st.integers(1, 40),
    st.sampled_from(["RGB", "L", "LA", "P", "RGBA", "1", "I;16"]),
    st.sampled_from([0, 20, 500]),
)
@settings(max_examples=60, deadline=None)
def test_conversion_in_strips_equals_conversion_at_once(height: int, width: int, mode: str, target: int) -> None:
    random = np.random.default_rng(height)
    if mode == "I;16":
        source = Image.fromarray(random.integers(0, 65536, (height, width), dtype=np.uint16))
    else:
        whole = Image.fromarray(random.integers(0, 256, (height, width, 4), np.uint8))
        source = (whole.convert("RGB") if mode in ("P", "1") else whole).convert(mode)
    photo = decode(encoded(source, "PNG"), DecodeLimits(target_px=target, brighten=False))
    assert isinstance(photo, Photo)
    whole = Image.fromarray((np.asarray(source) // 257).astype(np.uint8)) if mode == "I;16" else source
    shrink = max(1, max(source.size) // target) if target else 1
    whole = whole.convert("RGB") if mode in ("P", "1") else whole
    small = (whole.reduce(shrink) if shrink > 1 else whole).convert("RGB")
    np.testing.assert_array_equal(photo.pixels, np.asarray(small))


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


def test_malformed_files_never_raise(shared: Path) -> None:
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
