"""Decodes untrusted images: an allow-list of formats, limits on bytes, pixels and seconds, EXIF orientation."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

from facelake.contracts import U8, Reject
from facelake.embed.containers import HEIC_BRANDS, TooCostly, is_raw, without_video
from facelake.embed.formats import FORMATS, NEEDS_HEIF, NEEDS_JXL, PILLOW_FORMATS
from facelake.embed.headers import MOST_METADATA, MeteredFile, check_bytes, check_image
from facelake.embed.high_depth import with_used_bits
from facelake.embed.jpeg_markers import RESOURCES, JpegExtent, jpeg_extent, without_stray_bytes
from facelake.embed.jpeg_xl import decode_jpeg_xl, is_jpeg_xl
from facelake.embed.jpegs import decode_jpeg, scaled_size
from facelake.embed.raw_previews import full_size_preview
from facelake.embed.relight import relighting
from facelake.embed.repairs import repaired, why_not
from facelake.embed.tiff_layouts import correct_layout
from facelake.embed.to_rgb import to_rgb


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Limits for one photo."""

    max_bytes: int = 64 << 20
    max_pixels: int = 64_000_000
    max_seconds: float = 10.0
    target_px: int = 1280
    """JPEGs are decoded at 1/2, 1/4 or 1/8 scale if the longer side keeps this many pixels; 0: always at full size"""
    brighten: bool = True
    """whether dark and flat photos are brightened"""


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded photo: `pixels` (h, w, 3) uint8 RGB; `width` and `height` of the full photo; all after orientation."""

    pixels: Any
    """a numpy array, or a tensor if a device decodes or detects"""
    width: int
    height: int
    damaged: bool = False
    """whether the file is damaged in a way that leaves most of the photo intact"""
    brightened: bool = False
    """whether grey levels were stretched because the photo is dark or flat"""


@dataclass(frozen=True, slots=True)
class Undecoded:
    """Why a photo could not be decoded."""

    reason: Reject
    detail: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The result of decoding one photo, with the SHA-256 of its encoded bytes."""

    sha256: str
    photo: Photo | Undecoded


class Opener:
    """Decodes photos within the limits, except photos of withdrawn data sets. May run in a process of its own."""

    ahead = 0
    """number of batches that may be decoded ahead while an earlier one is embedded"""

    def __init__(self, limits: DecodeLimits, retracted: Mapping[str, str] | None = None) -> None:
        """`retracted`: names of withdrawn data sets by the SHA-256 of photos that must not be decoded."""
        self._limits, self._retracted = limits, retracted or {}

    def begin(self, photos: Sequence[bytes]) -> Any:
        """Start decoding photos of one batch; returns a handle for `end`. This implementation decodes in `end`."""
        return photos

    def end(self, handle: Any) -> list[Opened]:
        """The decoded photos of a batch, in order."""
        return self.open_all(handle)

    def open_all(self, photos: Sequence[bytes]) -> list[Opened]:
        """Decode the photos of one batch, in order; invalid bytes give `Undecoded`, never an exception."""
        digests, allowed = self._sorted(photos)
        return self._opened(digests, [decode(data, self._limits) for data in allowed])

    def _sorted(self, photos: Sequence[bytes]) -> tuple[list[str], list[bytes]]:
        """The SHA-256 of all photos, and the photos that may be decoded."""
        digests = [hashlib.sha256(data).hexdigest() for data in photos]
        return digests, [data for digest, data in zip(digests, photos, strict=True) if digest not in self._retracted]

    def _opened(self, digests: Sequence[str], decoded: Sequence[Photo | Undecoded]) -> list[Opened]:
        """The results for all photos, from the results of those that may be decoded."""
        rest = iter(decoded)
        return [Opened(digest, self._closed(digest) or next(rest)) for digest in digests]

    def _closed(self, digest: str) -> Undecoded | None:
        if digest not in self._retracted:
            return None
        return Undecoded(Reject.RETRACTED, f"a photo of {self._retracted[digest]}, which was withdrawn")


def decode(data: bytes, limits: DecodeLimits) -> Photo | Undecoded:
    """Decode one photo; invalid bytes give `Undecoded`, never an exception."""
    if not data:
        return Undecoded(Reject.EMPTY, "no bytes")
    if len(data) > limits.max_bytes:
        return Undecoded(Reject.BYTES, f"{len(data)} bytes, allowed {limits.max_bytes}")
    try:
        with _time_limit(limits.max_seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, limits)
    except TooCostly as err:
        return Undecoded(err.reason, err.detail)
    except UnidentifiedImageError:
        return Undecoded(Reject.FORMAT, NEEDS_HEIF) if _is_heic(data) else Undecoded(*why_not(data))
    except MemoryError:
        return Undecoded(Reject.PIXELS, "not enough memory to decode")
    except Exception as err:  # noqa: BLE001  decoders raise arbitrary errors on malformed bytes, which must not fail the batch
        return Undecoded(Reject.UNREADABLE, f"{type(err).__name__}: {' '.join(str(err).split())}"[:200])


def _is_heic(data: bytes) -> bool:
    """Whether the bytes begin as those of an HEIC file, and the decoder of such files is not installed."""
    return "HEIF" not in FORMATS and data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS


class _Stored(NamedTuple):
    """A photo as it is stored: pixels (h, w, 3), size of the full photo, EXIF orientation."""

    pixels: U8
    width: int
    height: int
    orientation: int
    damaged: bool


def _decode(data: bytes, limits: DecodeLimits) -> Photo:
    """Decode a photo.

    Raises:
        TooCostly: the photo exceeds a limit, or most of it is missing, or it is a raw file without a full photo.
        Exception: whatever the decoders raise.
    """
    stored = _decode_xl(data, limits) if is_jpeg_xl(data) else _decode_by_pillow(data, limits)
    width, height = stored.width, stored.height
    if stored.orientation >= 5:
        width, height = height, width
    table = relighting(stored.pixels) if limits.brighten else None
    pixels = stored.pixels if table is None else table[stored.pixels]
    pixels = np.ascontiguousarray(upright(pixels, stored.orientation))
    return Photo(pixels, width, height, stored.damaged, brightened=table is not None)


def _decode_xl(data: bytes, limits: DecodeLimits) -> _Stored:
    if "JXL" not in FORMATS:
        raise TooCostly(Reject.FORMAT, NEEDS_JXL)
    image = decode_jpeg_xl(data, limits.max_pixels, limits.max_seconds)
    return _Stored(to_rgb(image, limits.target_px), *image.size, orientation=1, damaged=False)


def _decode_by_pillow(data: bytes, limits: DecodeLimits) -> _Stored:
    try:
        return _decode_undamaged(data, limits)
    except UnidentifiedImageError:
        mended = repaired(data)
        if mended is None:
            raise
    return _decode_undamaged(mended, limits)._replace(damaged=True)


def _decode_undamaged(data: bytes, limits: DecodeLimits) -> _Stored:
    data, jpeg, stated = _photo_alone(data)
    check_bytes(data)
    damaged = False
    with Image.open(MeteredFile(data), formats=PILLOW_FORMATS) as image:
        check_image(image, data, limits.max_pixels, jpeg, limits.target_px)
        width, height = image.size
        correct_layout(image)
        parts = list(getattr(image, "tile", ()))
        orientation = _orientation(image)  # loads a PNG
        if jpeg and image.mode in ("RGB", "L", "CMYK"):
            size = scaled_size(jpeg, width, height, limits.target_px, limits.max_pixels)
            pixels, damaged = decode_jpeg(data, jpeg, size, cmyk=image.mode == "CMYK")
        else:
            pixels = to_rgb(with_used_bits(image, parts, data, limits.max_pixels), limits.target_px)
            width, height = image.size  # Pillow applies a TIFF's orientation to pixels and size
    return _Stored(pixels, width, height, stated if orientation == 1 else orientation, damaged)


def _photo_alone(data: bytes) -> tuple[bytes, JpegExtent | None, int]:
    """The bytes of the first image without what phones append to it, the extent of a JPEG, and the orientation that
    the file around it states.

    Raises:
        TooCostly: a camera's raw file, of which only smaller previews could be decoded, or a TIFF that Pillow misreads.
    """
    orientation = 1
    if data[:4] == b"MM\0+":
        raise TooCostly(Reject.FORMAT, "a BigTIFF in big-endian byte order: not decoded")
    if data[:2] in (b"II", b"MM") and is_raw(data):
        preview = full_size_preview(data)
        if preview is None:
            what = "a raw file of a camera without a JPEG of full size, or a reduced image: convert it to JPEG or TIFF"
            raise TooCostly(Reject.FORMAT, what)
        data, orientation = preview.jpeg, preview.orientation
    if data[:3] == b"\xff\xd8\xff":
        jpeg = jpeg_extent(data)
        if jpeg.resources > MOST_METADATA // 2:  # Pillow would read them
            data = without_stray_bytes(data, left_out=RESOURCES)
            jpeg = jpeg_extent(data)
        return data[: jpeg.end], jpeg, orientation
    return (without_video(data) if data[4:8] == b"ftyp" else data), None, orientation


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """Width and height of a JPEG as stored, and its EXIF orientation (1..8)."""

    width: int
    height: int
    orientation: int


def plain_jpeg(data: bytes, limits: DecodeLimits) -> JpegHeader | None:
    """The header of a photo that every decoder supports: a sequential colour JPEG within the limits, with an end
    marker.

    None for any other photo, which `decode` decodes or rejects with a reason.
    """
    if not 0 < len(data) <= limits.max_bytes or not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        return None
    try:
        jpeg = jpeg_extent(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(MeteredFile(data), formats=["JPEG"]) as image:
                check_image(image, data, limits.max_pixels, jpeg, target_px=0)
                plain = image.format == "JPEG" and image.mode == "RGB" and not image.info.get("progressive")
                if not plain or _stored_as_rgb(image) or jpeg.arithmetic or jpeg.lacks_components:
                    return None
                return JpegHeader(*image.size, _orientation(image))
    except (Exception, TooCostly):  # noqa: BLE001  Pillow raises arbitrary errors on malformed headers
        return None


def _stored_as_rgb(image: Image.Image) -> bool:
    """Whether a JPEG's three components are RGB, not YCbCr; decoders recognise this by different markers."""
    names = bytes(layer[0] for layer in getattr(image, "layer", ()))
    return image.info.get("adobe_transform") == 0 or names == b"RGB"


def _orientation(image: Image.Image) -> int:
    if any(len(image.info.get(name) or b"") > MOST_METADATA for name in ("exif", "Raw profile type exif")):
        return 1
    if image.format == "TIFF":
        return 1  # Pillow applies it to a TIFF's pixels and size itself
    try:
        value = image.getexif().get(Tag.Orientation, 1)
    except Exception:  # noqa: BLE001  a photo with a damaged EXIF block is still usable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: U8, orientation: int) -> U8:
    """Apply an EXIF orientation (1..8) to (h, w, 3) pixels."""
    if orientation in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    quarter_turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.rot90(pixels, quarter_turns)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TooCostly after some seconds. Signals reach the main thread only, in which Ray runs an actor's tasks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(signum: int, frame: object) -> None:
        raise TooCostly(Reject.TIMEOUT, f"not decoded within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
