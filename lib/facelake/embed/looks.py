"""Recognises photos by how they look, so that an erased photo is refused after it was encoded or resized again.

A perceptual hash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010) of 256 bits: the
signs of the low frequencies of the grey photo. Only keyed hashes of it are stored, between which there is no distance;
so the bits are divided into 32 bands of 8, each band is hashed on its own, and photos match if 18 bands are equal.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from facelake.contracts import F32, U8

BANDS, LEAST_EQUAL = 32, 18
_SIZE, _FREQUENCIES = 32, 16
_DIGITS = 16  # hex digits of a stored hash

_COSINES = np.cos(np.pi * np.outer(np.arange(1, _FREQUENCIES + 1), 2 * np.arange(_SIZE) + 1) / (2 * _SIZE)).astype(
    "<f4"
)
"""rows of the discrete cosine transform (DCT-II) without the constant one: (frequencies, size)"""


def bands_of(pixels: U8) -> tuple[str, ...]:
    """Return the bands of a photo's perceptual hash, each as its number and its 8 bits.

    Args:
        pixels: (h, w, 3) uint8 RGB, upright; the result hardly depends on the scale.
    """
    grey = Image.fromarray(pixels).convert("L").resize((_SIZE, _SIZE), Image.Resampling.BOX)
    values: F32 = np.asarray(grey, np.float32)
    frequencies = (_COSINES @ values @ _COSINES.T).ravel()
    bits = np.packbits(frequencies > np.median(frequencies))
    return tuple(f"{number}:{value:02x}" for number, value in enumerate(bits.tolist()))


def keyed_bands(bands: Iterable[str], key: bytes, purpose: str | None = None) -> tuple[str, ...]:
    """Return the keyed hash of each band, as it is stored; for one purpose, or for all."""
    scope = f"for:{purpose}:look:" if purpose else "look:"
    return tuple(hmac.new(key, (scope + band).encode(), hashlib.sha256).hexdigest()[:_DIGITS] for band in bands)


@dataclass(frozen=True, slots=True)
class SuppressedLooks:
    """The looks of erased photos.

    Attributes:
        photos: by keyed hash of a band, the numbers of the photos that have it.
        key: of the hashes.
        purpose: of the run, to which a look may be limited.
    """

    photos: dict[str, tuple[int, ...]]
    key: bytes
    purpose: str

    @classmethod
    def of(cls, looks: Sequence[Sequence[str]], key: bytes, purpose: str) -> SuppressedLooks:
        """From the keyed bands of each photo."""
        photos: dict[str, list[int]] = {}
        for number, bands in enumerate(looks):
            for band in bands:
                photos.setdefault(band, []).append(number)
        return cls({band: tuple(numbers) for band, numbers in photos.items()}, key, purpose)

    def __len__(self) -> int:
        return len(self.photos)

    def resembles(self, pixels: U8) -> bool:
        """Whether a photo looks like an erased one."""
        bands = bands_of(pixels)
        for purpose in (None, self.purpose):
            hashed = keyed_bands(bands, self.key, purpose)
            equal = Counter(number for band in hashed for number in self.photos.get(band, ()))
            if max(equal.values(), default=0) >= LEAST_EQUAL:
                return True
        return False
