"""Grey levels and planes that Pillow leaves as they are stored: the photo looks as it should, or is refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facelake.contracts import Reject
from facelake.embed.decode import DecodeLimits, Photo, Undecoded, decode

LIMITS = DecodeLimits(target_px=0, brighten=False)
_Y, _X = np.mgrid[0:60, 0:256]
SCENE = np.stack([_X, np.minimum(_Y * 4 + _X // 8, 255), 255 - _X], -1).astype(np.uint8)
GREY = SCENE[..., 0]


def tiff(numbers: np.ndarray[Any, Any], photometric: int, order: str = "<", **options: Any) -> bytes:
    """A TIFF of one strip per plane. `numbers`: (h, w), (h, w, n), or with `planes` (n, h, w).

    Options: bits (of the type), kind (1 unsigned, 2 signed, 3 floating point), planes, deflated, body.
    """
    planes, size = bool(options.get("planes")), numbers.shape[1:] if options.get("planes") else numbers.shape[:2]
    samples = 1 if numbers.ndim == 2 else numbers.shape[0 if planes else 2]
    stored = numbers.astype(numbers.dtype.newbyteorder(order))
    strips = [plane.tobytes() for plane in stored] if planes else [options.get("body") or stored.tobytes()]
    if options.get("deflated"):
        strips = [zlib.compress(strip) for strip in strips]
    bits = options.get("bits", numbers.dtype.itemsize * 8)
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("H", [size[1]]),
        257: ("H", [size[0]]),
        258: ("H", [bits] * samples),
        259: ("H", [8 if options.get("deflated") else 1]),
        262: ("H", [photometric]),
        273: ("L", [0] * len(strips)),
        277: ("H", [samples]),
        278: ("L", [size[0]]),
        279: ("L", [len(strip) for strip in strips]),
        284: ("H", [2 if planes else 1]),
        339: ("H", [options.get("kind", 1)] * samples),
    } | options.get("tags", {})
    behind = 8 + 2 + 12 * len(tags) + 4
    lengths = [{"H": 2, "L": 4, "B": 1}[kind] * len(content) for kind, content in tags.values()]
    body = behind + sum(length for length in lengths if length > 4)
    tags[273] = ("L", [body + sum(map(len, strips[:i])) for i in range(len(strips))])
    head, values = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "LH", 8, len(tags)), b""
    for tag, (kind, content) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(content)}{kind}", *content)
        head += struct.pack(order + "HHL", tag, {"H": 3, "L": 4, "B": 1}[kind], len(content))
        head += packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(order + "L", behind + len(values))
        values += packed if len(packed) > 4 else b""
    return head + bytes(4) + values + b"".join(strips)


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    photo = decode(data, LIMITS)
    assert isinstance(photo, Photo), photo
    return np.asarray(photo.pixels)


def check(data: bytes, wanted: np.ndarray[Any, Any], within: int = 1) -> None:
    wanted = wanted if wanted.ndim == 3 else np.repeat(wanted[..., None], 3, 2)
    assert np.abs(pixels(data).astype(int) - wanted).max() <= within


WIDE = GREY.astype(np.uint16)
GREYS: dict[str, tuple[np.ndarray[Any, Any], int, dict[str, int]]] = {
    "16 bits": (WIDE * 257, 1, {}),
    "16 bits, minimum is white": (65535 - WIDE * 257, 0, {}),
    "8 bits, minimum is white": (255 - GREY, 0, {}),
    "8 bits in 16": (WIDE, 1, {}),
    "10 bits in 16": (WIDE * 4 + 3, 1, {}),
    "12 bits in 16": (WIDE * 16 + 15, 1, {}),
    "12 bits in 16, minimum is white": (4095 - WIDE * 16, 0, {}),
    "14 bits in 16": (WIDE * 64 + 63, 1, {}),
    "32 bits": (GREY.astype(np.uint32) * 16843009, 1, {}),
    "32 bits signed, without a sign": (GREY.astype(np.int32) * 8421504, 1, {"kind": 2}),
    "16 bits signed": ((WIDE.astype(np.int32) * 257 - 32768).astype(np.int16), 1, {"kind": 2}),
    "8 bits signed": ((WIDE.astype(np.int16) - 128).astype(np.int8), 1, {"kind": 2}),
    "floating point 0..1": ((GREY / 255).astype(np.float32), 1, {"kind": 3}),
    "floating point, minimum is white": ((1 - GREY / 255).astype(np.float32), 0, {"kind": 3}),
    "floating point 0..255": (GREY.astype(np.float32), 1, {"kind": 3}),
    "floating point -3..2": ((GREY / 51 - 3).astype(np.float32), 1, {"kind": 3}),
}


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", GREYS)
def test_grey_levels_of_a_tiff_are_those_of_the_photo(name: str, order: str, deflated: bool) -> None:
    numbers, photometric, options = GREYS[name]
    check(tiff(numbers, photometric, order, deflated=deflated, **options), GREY, within=2)


def test_levels_that_are_no_numbers_are_left_out() -> None:
    numbers = (GREY / 255).astype(np.float32)
    numbers[3, 3:6] = np.nan, np.inf, 1e30
    assert np.abs(pixels(tiff(numbers, 1, kind=3))[4:, :, 0].astype(int) - GREY[4:]).max() <= 1
    assert isinstance(decode(tiff(numbers * np.nan, 1, kind=3), LIMITS), Photo)


def test_twelve_bits_that_are_packed() -> None:
    first, second = WIDE[:, ::2].astype(int) * 16, WIDE[:, 1::2].astype(int) * 16
    body = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()
    check(tiff(WIDE, 1, bits=12, body=body), GREY)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("levels", [257, 64, 16, 4, 1])
@pytest.mark.parametrize("deflated", [False, True])
def test_colours_of_16_bits(levels: int, order: str, deflated: bool) -> None:
    numbers = SCENE.astype(np.uint16) * levels
    check(tiff(numbers, 2, order, deflated=deflated), SCENE)
    outcome = decode(tiff(np.moveaxis(numbers, 2, 0), 2, order, deflated=deflated, planes=True), LIMITS)
    if deflated and levels < 257:  # the low bytes cannot be had
        assert isinstance(outcome, Undecoded)
        assert outcome.reason == Reject.FORMAT
    else:
        assert isinstance(outcome, Photo)
        assert np.abs(outcome.pixels.astype(int) - SCENE).max() <= 1


def png(numbers: np.ndarray[Any, Any], colour_type: int) -> bytes:
    """A PNG of 16 bits per sample."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in numbers)
    head = struct.pack(">LLBBBBB", numbers.shape[1], numbers.shape[0], 16, colour_type, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = [struct.pack(">L", len(c)) + kind + c + struct.pack(">L", zlib.crc32(kind + c)) for kind, c in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("levels", [257, 64, 16, 4, 1])
def test_a_png_of_16_bits_of_which_fewer_are_used(levels: int) -> None:
    alpha, colours = np.full(GREY.shape, 65535, np.uint16), SCENE.astype(np.uint16) * levels
    check(png(colours[..., 0], 0), GREY)
    check(png(colours, 2), SCENE)
    check(png(np.dstack([colours[..., 0], alpha]), 4), GREY)
    check(png(np.dstack([colours, alpha]), 6), SCENE)


def test_what_is_decoded_twice_counts_twice() -> None:
    small = DecodeLimits(max_pixels=60 * 256 * 5)
    assert isinstance(decode(png(SCENE.astype(np.uint16) * 257, 2), small), Photo)
    outcome = decode(png(SCENE.astype(np.uint16) * 16, 2), small)
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.PIXELS


def test_premultiplied_alpha_and_a_map_of_bytes() -> None:
    opaque = np.dstack([SCENE, np.full(GREY.shape, 255, np.uint8)])
    tags = {338: ("H", [1])}
    check(tiff(opaque, 2, tags=tags), SCENE)
    check(tiff(np.moveaxis(opaque, 2, 0), 2, tags=tags, planes=True), SCENE)
    check(tiff(opaque.astype(np.uint16) * 16, 2, tags=tags), SCENE)
    check(tiff(opaque[..., [0, 3]], 1, tags=tags), GREY)
    check(tiff(GREY, 3, tags={320: ("H", list(range(256)) * 3)}), GREY)


@pytest.mark.parametrize("subsampling", [{}, {530: ("H", [2, 2])}])
def test_subsampled_ycbcr_that_is_not_compressed_is_refused(subsampling: dict[int, Any]) -> None:
    outcome = decode(tiff(SCENE, 6, tags=subsampling), LIMITS)
    assert isinstance(outcome, Undecoded)
    assert outcome.reason == Reject.FORMAT
    assert "YCbCr" in outcome.detail
    assert isinstance(decode(tiff(SCENE, 6, tags={530: ("H", [1, 1])}), LIMITS), Photo)


def test_a_tiff_that_only_xmp_turns_has_the_size_of_its_pixels() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    photo = decode(tiff(SCENE, 2, tags={700: ("B", list(xmp))}), LIMITS)
    assert isinstance(photo, Photo)
    assert (photo.height, photo.width) == photo.pixels.shape[:2] == (256, 60)


def test_the_primary_image_of_a_heic_file_is_decoded() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = pillow_heif.from_pillow(Image.new("RGB", (96, 96), "red"))
    file.add_from_pillow(Image.new("RGB", (128, 80), "blue"))
    sink = io.BytesIO()
    file.save(sink, primary_index=1)
    photo = decode(sink.getvalue(), LIMITS)
    assert isinstance(photo, Photo)
    assert (photo.width, photo.height, photo.pixels.shape) == (128, 80, (80, 128, 3))
    assert photo.pixels[..., 2].mean() > 200
