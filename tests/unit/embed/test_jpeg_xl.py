"""JPEG XL: decoded upright and small, from the codestream alone, within limits that are checked before."""

from __future__ import annotations

import base64
import io
import resource
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from facelake.contracts import Reject
from facelake.embed import decode as decode_module
from facelake.embed import jpeg_xl
from facelake.embed.decode import DecodeLimits, Photo, Undecoded, decode
from facelake.embed.jpeg_xl import codestream_of, header_of

LIMITS = DecodeLimits(target_px=0, brighten=False)
BROTLI_BOX = struct.pack(">L", 20) + b"brob" + b"Exif" + b"\xff" * 8
FILE_TYPE = b"\x00\x00\x00\x14ftypjxl \x00\x00\x00\x00jxl "


def encoded(image: Image.Image | np.ndarray, *, boxed: bool = False) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(np.asarray(image), lossless=True, effort=1, usecontainer=boxed))


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", 8 + len(body)) + kind + body


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    coarse = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_a_photo_is_decoded(scene: Image.Image, mode: str) -> None:
    image = scene.convert(mode)
    photo = decode(encoded(image), LIMITS)
    assert isinstance(photo, Photo), photo
    np.testing.assert_array_equal(photo.pixels, np.asarray(image.convert("RGB")))
    assert (photo.width, photo.height, photo.damaged) == (160, 120, False)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_a_photo_of_more_bits_is_decoded(channels: int, kind: type) -> None:
    levels = (np.arange(64 * 48 * channels).reshape(48, 64, channels) * 7).astype(np.uint16)
    stored = levels if kind is np.uint16 else levels / np.float32(65535)
    photo = decode(encoded(stored.squeeze()), LIMITS)
    assert isinstance(photo, Photo), photo
    np.testing.assert_allclose(photo.pixels, np.broadcast_to(levels / 257, (48, 64, 3)), atol=0.51)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_samples_of_so_many_bits_use_the_whole_range(bits: int) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    levels = np.linspace(0, (1 << bits) - 1, 48 * 64).reshape(48, 64).astype(kind)
    photo = decode(bytes(imagecodecs.jpegxl_encode(levels, lossless=True, bitspersample=bits)), LIMITS)
    assert isinstance(photo, Photo), photo
    expected = (levels / ((1 << bits) - 1) * 255)[:, :, None]
    np.testing.assert_allclose(photo.pixels, np.broadcast_to(expected, (48, 64, 3)), atol=0.51)


def test_a_photo_is_reduced_to_the_wanted_size(scene: Image.Image) -> None:
    photo = decode(encoded(scene), DecodeLimits(target_px=40, brighten=False))
    assert isinstance(photo, Photo)
    assert photo.pixels.shape == (30, 40, 3)
    assert (photo.width, photo.height) == (160, 120)


def test_only_the_codestream_is_read(scene: Image.Image) -> None:
    """Metadata are left out: they may be compressed without a limit, and their orientation does not count."""
    bare = encoded(scene)
    start, half = jpeg_xl._BOXED + FILE_TYPE, len(bare) // 2
    pieces = [struct.pack(">L", 0) + bare[:half], struct.pack(">L", 1 << 31 | 1) + bare[half:]]
    in_pieces = b"".join(box(b"jxlp", piece) for piece in pieces)
    to_the_end = struct.pack(">L", 0) + b"jxlc" + bare
    long = struct.pack(">L4sQ", 1, b"jxlc", 16 + len(bare)) + bare
    for body in (box(b"jxlc", bare), in_pieces, to_the_end, long):
        for data in (start + body, start + BROTLI_BOX + body):
            photo = decode(data, LIMITS)
            assert isinstance(photo, Photo), photo
            np.testing.assert_array_equal(photo.pixels, np.asarray(scene))
    photo = decode(encoded(scene, boxed=True), LIMITS)
    assert isinstance(photo, Photo), photo


def test_the_orientation_of_the_codestream_is_applied_once() -> None:
    """A transcoded JPEG takes its EXIF orientation into the codestream."""
    coarse = Image.fromarray(np.random.default_rng(1).integers(0, 256, (5, 8, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    sink = io.BytesIO()
    coarse.resize((64, 40)).save(sink, "JPEG", quality=95, exif=exif)
    photo = decode(bytes(imagecodecs.jpegxl_encode_jpeg(sink.getvalue(), usecontainer=True)), LIMITS)
    upright = decode(sink.getvalue(), LIMITS)
    assert isinstance(photo, Photo), photo
    assert isinstance(upright, Photo)
    assert photo.pixels.shape == upright.pixels.shape == (64, 40, 3)
    assert np.abs(photo.pixels.astype(int) - upright.pixels).mean() < 4


@given(st.integers(1, 700), st.integers(1, 700))
@example(256, 256)
@example(160, 120)
@example(240, 160)
@example(640, 360)
@example(250, 200)
@example(120, 100)
@example(600, 300)
@example(65_000, 1)
def test_the_header_states_the_size(width: int, height: int) -> None:
    data = encoded(Image.new("L", (width, height), 90))
    header = header_of(codestream_of(data))
    assert (header.width, header.height, header.animated) == (width, height, False)


def _stream(*fields: tuple[int, int]) -> bytes:
    """A codestream that begins with these (value, bits)."""
    bits = at = 0
    for value, length in fields:
        bits |= value << at
        at += length
    return jpeg_xl._BARE + bits.to_bytes(60, "little")


SMALL = ((1, 1), (3, 5), (1, 3))  # 32 x 32


def test_an_animation_is_rejected() -> None:
    extra = ((0, 1), (1, 1), (0, 3))
    preview = ((1, 1), (1, 1), (2, 2), (7, 5), (1, 3))
    intrinsic = ((1, 1), *SMALL)
    for fields in (
        (*SMALL, *extra, (0, 1), (0, 1), (1, 1)),
        (*SMALL, *extra, *intrinsic, (0, 1), (1, 1)),
        (*SMALL, *extra, (0, 1), *preview, (1, 1)),
        (*SMALL, *extra, *intrinsic, *preview, (1, 1)),
    ):
        outcome = decode(_stream(*fields), LIMITS)
        assert isinstance(outcome, Undecoded)
        assert (outcome.reason, outcome.detail) == (Reject.FORMAT, "an animation in JPEG XL")


def _not_decoded(stream: bytes, bits: int, seconds: float) -> np.ndarray:
    raise ValueError("decoded")


def test_a_header_of_too_many_pixels_is_rejected_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_xl._PROCESS, "decode", _not_decoded)
    huge = _stream((0, 1), (3, 2), ((1 << 30) - 1, 30), (7, 3))
    outcome = decode(huge, LIMITS)
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.PIXELS
    assert outcome.detail.startswith("2147483648x1073741824, which count as")
    at_limit = _stream((0, 1), (3, 2), (4095, 30), (1, 3))  # 4096 x 4096
    for most, reason in ((4096**2 * 5 // 2, Reject.UNREADABLE), (4096**2 * 5 // 2 - 1, Reject.PIXELS)):
        outcome = decode(at_limit, DecodeLimits(max_pixels=most))
        assert isinstance(outcome, Undecoded)
        assert outcome.reason == reason, outcome


@given(st.data())
def test_damaged_files_have_one_outcome(data: st.DataObject) -> None:
    whole = encoded(Image.fromarray(np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)), boxed=True)
    body = bytearray(whole[: data.draw(st.integers(2, len(whole)))])
    for _ in range(data.draw(st.integers(0, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    outcome = decode(bytes(body), LIMITS)
    assert isinstance(outcome, Photo | Undecoded)


def test_boxes_without_end() -> None:
    many = decode(jpeg_xl._BOXED + box(b"free", b"") * 2000, LIMITS)
    assert isinstance(many, Undecoded)
    assert many.reason == Reject.TIMEOUT
    for data in (jpeg_xl._BOXED, jpeg_xl._BOXED + struct.pack(">L", 4) + b"jxlc", jpeg_xl._BOXED + box(b"jxlc", b"")):
        outcome = decode(data, LIMITS)
        assert isinstance(outcome, Undecoded)
        assert outcome.reason == Reject.UNREADABLE


def test_without_the_extra_the_reason_names_it(scene: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "FORMATS", ["JPEG", "PNG"])
    outcome = decode(encoded(scene), LIMITS)
    assert isinstance(outcome, Undecoded)
    assert (outcome.reason, outcome.detail) == (Reject.FORMAT, decode_module.NEEDS_JXL)


# imagecodecs.jpegxl_encode(np.zeros((128, 1024, 1024), np.uint8), effort=1, planar=True, photometric="gray")
MANY_CHANNELS = (
    "eNpjYGDg8YrwUeDlaudiYGAQSSupLMiqyFEAshmgNCeQzgFKMi4BMpL/c/2SZ/zObNXAt4D5BcMwpQLucHAw4AcNBOQZBBgEGBkYHBhYsCIG7ciJ"
    "TU2HbK0bi6ee2c/iOqv5+onr5js3lh91/nN892+T7Jj1cm9fva82MPsevqDm3U37r1Xbpv+q+q/6KaCl03dTrbW3EB8DMxoAAOpRf9s="
)


def test_many_channels_do_not_take_the_workers_memory() -> None:
    """Of one megapixel each; the process that decodes ends, and the next photo has another one."""
    data = zlib.decompress(base64.b64decode(MANY_CHANNELS))
    assert len(data) == 461
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = decode(data, LIMITS)
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.UNREADABLE
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < 64 << 20
    assert isinstance(decode(encoded(Image.new("L", (20, 20), 9)), LIMITS), Photo)


def test_a_photo_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread too, where no signal arrives; the process does not answer late."""
    slow = encoded(np.random.default_rng(0).integers(0, 256, (2500, 2500, 3), dtype=np.uint8))
    quick = encoded(Image.new("RGB", (20, 20), (9, 8, 7)))
    limits = DecodeLimits(target_px=0, brighten=False, max_seconds=0.05)
    assert isinstance(decode(quick, LIMITS), Photo)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda data: decode(data, limits), [slow]))
        assert isinstance(outcomes[0], Undecoded)
        assert outcomes[0].reason == Reject.TIMEOUT
        for photo in pool.map(lambda data: decode(data, LIMITS), [quick] * 20):
            assert isinstance(photo, Photo)
            assert photo.pixels[0, 0].tolist() == [9, 8, 7]


def test_the_process_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-worker")
    jpeg_xl._PROCESS.close()
    assert isinstance(decode(encoded(Image.new("L", (20, 20), 9)), LIMITS), Photo)
    child = jpeg_xl._PROCESS._child
    assert child is not None
    assert b"a-secret-of-the-worker" not in Path(f"/proc/{child.pid}/environ").read_bytes()
