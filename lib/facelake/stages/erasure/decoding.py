"""Decodes photos that no worker has decoded yet, in a process that may die of them."""

from __future__ import annotations

from facelake.child_process import ChildProcess, serve_lines
from facelake.embed.decode import DecodeLimits, Photo, decode
from facelake.embed.looks import bands_of


def look_of(data: bytes) -> tuple[str, ...] | None:
    """Return the bands of a photo's perceptual hash (embed/looks.py); None if it cannot be decoded."""
    photo = decode(data, DecodeLimits())
    return bands_of(photo.pixels) if isinstance(photo, Photo) else None


_PROCESS = ChildProcess(__name__)


def look_of_unseen(data: bytes) -> tuple[str, ...] | None:
    """As `look_of`, in the other process; a photo that ends it has no look."""
    bands = _PROCESS.ask(data)
    return tuple(bands.decode().split()) if bands else None


def serve() -> None:
    """Answer with the bands, separated by spaces; with nothing for a photo that cannot be decoded."""
    serve_lines(lambda photo: " ".join(look_of(photo) or ()).encode())
