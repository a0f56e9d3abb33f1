"""The formats that are decoded on this host, and what is missing for others."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec

from PIL import AvifImagePlugin, Image, TiffImagePlugin

_BIG_ENDIAN_GREY = {(0, 16): ("I;16B", "I;16B"), (0, 32): ("I", "I;32B"), (1, 32): ("I", "I;32B")}
"""Modes of TIFFs that Pillow 13 reads in the other byte order only, by photometric interpretation and bits"""


def _set_up_pillow() -> list[str]:
    """Set Pillow's process-wide options, which are globals of its modules; returns the formats that it decodes.

    The formats are those whose decoders are maintained against malicious input; all others are rejected. Decoders get
    one thread, because there is a worker per core.
    """
    Image.MAX_IMAGE_PIXELS = None  # headers.py limits pixels by format
    Image.init()  # loads the plugins that the `formats` argument of Image.open refers to
    formats = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    for (photometric, bits), modes in _BIG_ENDIAN_GREY.items():
        TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, photometric, (1,), 1, (bits,), ()), modes)
    with contextlib.suppress(ImportError):  # the extra `heic`: photos of mobile phones
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
        pillow_heif.options.DECODE_THREADS = 1
        formats.append("HEIF")
    return formats


PILLOW_FORMATS = _set_up_pillow()
FORMATS = [*PILLOW_FORMATS, *(["JXL"] if find_spec("imagecodecs") else [])]
"""All that are decoded; JPEG XL by the extra `jxl`, whose decoder is called directly (jpeg_xl.py)."""
NEEDS_HEIF = "HEIC, which needs `pip install pillow-heif` on the hosts that embed; the next run then decodes it"
NEEDS_JXL = "JPEG XL, which needs `pip install imagecodecs` on the hosts that embed; the next run then decodes it"
