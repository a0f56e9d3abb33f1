"""Photos are recognised after they were encoded or resized again, and others are not taken for them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from facelake.contracts import U8
from facelake.embed.decode import DecodeLimits, Photo, decode
from facelake.embed.looks import BANDS, LEAST_EQUAL, SuppressedLooks, bands_of, keyed_bands

KEY = b"key"


def encoded(image: Image.Image, quality: int = 90) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def pixels_of(data: bytes) -> U8:
    photo = decode(data, DecodeLimits())
    assert isinstance(photo, Photo)
    return np.asarray(photo.pixels)


def trimmed(image: Image.Image, share: float) -> Image.Image:
    across, down = int(image.width * share), int(image.height * share)
    return image.crop((across, down, image.width - across, image.height - down))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG at quality 50": lambda image: encoded(image, 50),
    "JPEG at quality 20": lambda image: encoded(image, 20),
    "half the size": lambda image: encoded(image.resize((image.width // 2, image.height // 2))),
    "200 pixels wide": lambda image: encoded(image.resize((200, 200 * image.height // image.width))),
    "contrast + 30 %": lambda image: encoded(ImageEnhance.Contrast(image).enhance(1.3)),
    "brightness - 30 %": lambda image: encoded(ImageEnhance.Brightness(image).enhance(0.7)),
    "grey": lambda image: encoded(image.convert("L").convert("RGB")),
}
LEAST_SEEN = {"200 pixels wide": 0.95}
"""share of the photos that must be recognised; all of them after any other change"""
PASSES: dict[str, Callable[[Image.Image], bytes]] = {
    "5 % cut off each side": lambda image: encoded(trimmed(image, 0.05)),
    "mirrored": lambda image: encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


def equal(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    return sum(x == y for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def portraits(shared: Path) -> list[Image.Image]:
    """Every fifth of 204 portraits with the same pose and background, which are the hardest to tell apart."""
    return [Image.open(path).convert("RGB") for path in sorted((shared / "data/london/images").glob("*.jpg"))[::5]]


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_a_photo_is_recognised_after(change: str, portraits: list[Image.Image]) -> None:
    seen = 0
    for image in portraits:
        own = keyed_bands(bands_of(pixels_of(encoded(image))), KEY)
        seen += SuppressedLooks.of([own], KEY, "p").resembles(pixels_of(CHANGES[change](image)))
    assert seen >= LEAST_SEEN.get(change, 1.0) * len(portraits)


@pytest.mark.parametrize("change", sorted(PASSES))
def test_what_the_documentation_says_passes(change: str, portraits: list[Image.Image]) -> None:
    before = [bands_of(pixels_of(encoded(image))) for image in portraits]
    after = [bands_of(pixels_of(PASSES[change](image))) for image in portraits]
    assert max(map(equal, before, after)) < LEAST_EQUAL


def test_other_people_in_the_same_pose_are_not_taken_for_an_erased_one(portraits: list[Image.Image]) -> None:
    looks = [bands_of(pixels_of(encoded(image))) for image in portraits]
    highest = max(equal(a, b) for at, a in enumerate(looks) for b in looks[:at])
    assert highest <= LEAST_EQUAL - 6


def test_hashes_are_of_the_lake_and_the_purpose() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (90, 60, 3), dtype=np.uint8)
    bands = bands_of(pixels)
    assert len(bands) == len(set(bands)) == BANDS
    hashed = keyed_bands(bands, KEY)
    assert not {value for band in bands for value in hashed if band in value}
    for key, purpose, known in ((KEY, None, True), (b"other", None, False), (KEY, "p", True), (KEY, "q", False)):
        looks = SuppressedLooks.of([keyed_bands(bands, key, purpose)], KEY, "p")
        assert looks.resembles(pixels) == known
    assert not SuppressedLooks.of([], KEY, "p").resembles(pixels)
    mixed = [tuple(hashed[i] if i % 2 else f"{n}{i}" for i in range(BANDS)) for n in (1, 2)]
    assert not SuppressedLooks.of(mixed, KEY, "p").resembles(pixels)  # 16 bands of each: they do not add up
