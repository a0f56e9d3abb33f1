"""TIFFs as Pillow 13 misreads them: it is told how their numbers are laid out, or the photo is refused.

Uncompressed planes of more than 8 bits are read as bytes; what libtiff has decompressed is in this host's byte order,
not in the file's; the colour maps of old programs have 8 bits; subsampled YCbCr is read as whole pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image, ImagePalette
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import TiffImageFile

from facelake.contracts import Reject
from facelake.embed.containers import TooCostly

_LARGEST_BYTE = 255
_SUBSAMPLED_BY_DEFAULT = (2, 2)  # TIFF 6.0, section 21
_YCBCR, _SEPARATE = 6, 2
_NATIVE = {
    "F;32BF": "F;32NF",
    "F;32F": "F;32NF",
    "I;32BS": "I;32NS",
    "I;32S": "I;32NS",
    "I;32B": "I;32N",
    "I;16BS": "I;16NS",
    "I;16S": "I;16NS",
}


def correct_layout(image: Image.Image) -> None:
    """Correct how an opened TIFF will be read; does nothing to other photos.

    Raises:
        TooCostly: its samples are laid out in a way that is not decoded.
    """
    if not isinstance(image, TiffImageFile):
        return
    if image.mode in ("P", "PA"):
        _use_map_of_bytes(image)
    compressed = any(tile.codec_name == "libtiff" for tile in image.tile)
    if compressed:
        _read_as(image, lambda raw_mode: _NATIVE.get(raw_mode, raw_mode))
    elif in_planes(image) and len(image.getbands()) > 1:
        _read_planes(image)
    elif image.tag_v2.get(Tag.PhotometricInterpretation) == _YCBCR:
        _check_subsampling(image)
    # divided by alpha, levels of fewer than 16 bits could not be told from others
    _read_as(image, lambda raw_mode: raw_mode.replace("RGBa;16", "RGBA;16"))


def _use_map_of_bytes(image: TiffImageFile) -> None:
    colours = image.tag_v2[Tag.ColorMap]
    if max(colours) <= _LARGEST_BYTE:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def _check_subsampling(image: TiffImageFile) -> None:
    if image.tag_v2.get(Tag.YCbCrSubSampling, _SUBSAMPLED_BY_DEFAULT) != (1, 1):
        raise TooCostly(Reject.FORMAT, "a TIFF of YCbCr with fewer chroma samples that is not compressed: not decoded")


def _read_planes(image: TiffImageFile) -> None:
    """Read each plane as what it is: a band, in which a premultiplied alpha channel is one like others."""
    bits, large = image.tag_v2.get(Tag.BitsPerSample, (1,))[0], image.tag_v2.prefix == b"MM"
    if image.mode not in (("RGB", "RGBA") if bits > 8 else ("RGB", "RGBA", "CMYK")):
        what = f"a TIFF in planes of {bits} bits that are not compressed ({image.mode}): not decoded"
        raise TooCostly(Reject.FORMAT, what)
    order = "" if bits <= 8 else ";16B" if large else ";16L"
    _read_as(image, lambda band: band.upper() + order)
    known = {band + order for band in image.getbands()}
    image.tile = [tile for tile in image.tile if raw_mode_of(tile) in known]  # others are extra samples


def in_planes(image: Image.Image) -> bool:
    """Whether it is a TIFF that stores each band on its own."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(Tag.PlanarConfiguration) == _SEPARATE


def raw_mode_of(tile: Any) -> str:
    """How a part of an opened photo is stored, as Pillow names it."""
    return tile.args if isinstance(tile.args, str) else str(tile.args[0])


def _read_as(image: TiffImageFile, change: Callable[[str], str]) -> None:
    """Change the raw mode of all parts of a TIFF."""
    image.tile = [tile._replace(args=(change(raw_mode_of(tile)), *(tile.args or ())[1:])) for tile in image.tile]
