"""Photos as phones, scanners and cameras write them: what is appended, damaged, or only a preview."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from facelake.contracts import Reject
from facelake.embed import decode as decode_module
from facelake.embed.containers import is_raw, without_video
from facelake.embed.decode import DecodeLimits, Photo, Undecoded, decode
from facelake.embed.jpeg_markers import jpeg_extent

LIMITS = DecodeLimits(target_px=0, brighten=False)
VIDEO = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(1 << 20)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    random = np.random.default_rng(3)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return coarse.resize((640, 480), Image.Resampling.BICUBIC)


def pixels(data: bytes) -> np.ndarray:
    photo = decode(data, LIMITS)
    assert isinstance(photo, Photo), photo
    return np.asarray(photo.pixels)


WAYS: dict[str, dict[str, object]] = {
    "sequential": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 20},
    "gray": {},
}


@pytest.fixture(params=list(WAYS))
def jpeg(request: pytest.FixtureRequest, scene: Image.Image) -> bytes:
    image = scene.convert("L") if request.param == "gray" else scene
    return encoded(image, quality=92, **WAYS[request.param])


def test_the_extent_is_that_of_the_first_image(jpeg: bytes) -> None:
    assert jpeg_extent(jpeg + VIDEO) == jpeg_extent(jpeg + jpeg) == jpeg_extent(jpeg)
    assert jpeg_extent(jpeg).end == len(jpeg)
    assert jpeg_extent(jpeg).complete
    assert jpeg_extent(jpeg).detailed


@given(st.binary(max_size=300))
def test_the_walk_ends_on_any_bytes(data: bytes) -> None:
    extent = jpeg_extent(b"\xff\xd8" + data)
    assert 2 <= extent.end <= len(data) + 2
    assert without_video(b"\0\0\0\x08ftyp" + data)
    assert is_raw(b"II*\0" + data) in (True, False)


def test_what_is_appended_is_not_read(jpeg: bytes) -> None:
    np.testing.assert_array_equal(pixels(jpeg + VIDEO), pixels(jpeg))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_video_behind_heic_is_cut_off(scene: Image.Image, kind: str) -> None:
    data = encoded(scene, kind)
    box = struct.pack(">L", 8 + len(VIDEO)) + b"mpvd" + VIDEO
    assert without_video(data + box) == without_video(data + VIDEO) == data
    large = data + box * 40
    np.testing.assert_array_equal(pixels(large), pixels(data))


def test_heic_without_its_decoder_says_what_to_install(scene: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(scene, "HEIF")
    for name in ("FORMATS", "PILLOW_FORMATS"):
        monkeypatch.setattr(decode_module, name, ["JPEG", "PNG"])
    outcome = decode(data, LIMITS)
    assert isinstance(outcome, Undecoded)
    assert (outcome.reason, outcome.detail) == (Reject.FORMAT, decode_module.NEEDS_HEIF)


@pytest.mark.parametrize("cut", [0.93, 0.97, 0.999])
def test_a_jpeg_whose_end_is_missing_is_decoded_and_marked(jpeg: bytes, cut: float) -> None:
    photo = decode(jpeg[: int(len(jpeg) * cut)], LIMITS)
    assert isinstance(photo, Photo), photo
    assert photo.damaged
    upper = slice(0, 400)
    assert np.abs(photo.pixels[upper].astype(int) - pixels(jpeg)[upper]).mean() < 4


@pytest.mark.parametrize("cut", [0.2, 0.5])
def test_a_jpeg_of_which_much_is_missing_is_rejected(jpeg: bytes, cut: float) -> None:
    outcome = decode(jpeg[: int(len(jpeg) * cut)], LIMITS)
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.UNREADABLE
    assert "missing" in outcome.detail


@pytest.mark.parametrize("target", [0, 100])
def test_stray_bytes_before_the_end_are_harmless(scene: Image.Image, target: int) -> None:
    data = encoded(scene, quality=92)
    limits = DecodeLimits(target_px=target, brighten=False)
    photo, intact = decode(data[:-2] + b"\x12" * 9 + data[-2:], limits), decode(data, limits)
    assert isinstance(photo, Photo)
    assert isinstance(intact, Photo)
    assert (photo.damaged, intact.damaged) == (True, False)
    np.testing.assert_array_equal(photo.pixels, intact.pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(scene: Image.Image, orientation: int) -> None:
    data = encoded(scene, "TIFF", tiffinfo={274: orientation})
    wanted = np.asarray(ImageOps.exif_transpose(_tagged(scene, orientation)))
    photo = decode(data, LIMITS)
    assert isinstance(photo, Photo)
    np.testing.assert_array_equal(photo.pixels, wanted)
    assert (photo.height, photo.width) == wanted.shape[:2]


def _tagged(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[274] = orientation
    return Image.open(io.BytesIO(encoded(image, "PNG", exif=exif)))


RAW = {
    "reduced image first": {254: 1, 271: "NIKON CORPORATION"},
    "DNG": {50706: b"\x01\x04\0\0"},
}


@pytest.mark.parametrize("name", list(RAW))
def test_the_preview_of_a_raw_file_is_not_taken_for_the_photo(scene: Image.Image, name: str) -> None:
    outcome = decode(encoded(scene, "TIFF", tiffinfo=RAW[name]), LIMITS)
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.FORMAT
    assert "raw file" in outcome.detail


def test_raw_data_in_a_sub_directory_are_seen() -> None:
    body = struct.pack("<HHHLL", 1, 262, 3, 1, 32803) + bytes(4)
    main = struct.pack("<HHHLL", 1, 330, 4, 1, 8 + 18) + bytes(4)
    assert is_raw(b"II*\0" + struct.pack("<L", 8) + main + body)
    assert not is_raw(b"II*\0" + struct.pack("<L", 8) + main + body.replace(struct.pack("<L", 32803), bytes(4)))


def test_a_jpeg_of_two_hundred_megapixels_is_decoded_small() -> None:
    photo = decode(encoded(Image.new("L", (16_000, 12_500), 90), quality=50), DecodeLimits())
    assert isinstance(photo, Photo)
    assert (photo.width, photo.height, photo.pixels.shape[:2]) == (16_000, 12_500, (1563, 2000))
    finest = decode(encoded(Image.new("L", (16_000, 12_500), 90), quality=50), DecodeLimits(target_px=16_000))
    assert isinstance(finest, Photo)
    assert finest.pixels.shape[1] == 8000, "not more than 64 megapixels in memory"
    too_large = decode(encoded(Image.new("L", (16_000, 12_600), 90), quality=50), DecodeLimits())
    assert isinstance(too_large, Undecoded)
    assert too_large.reason == Reject.PIXELS
