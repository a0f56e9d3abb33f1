"""Files that Pillow does not recognise because of harmless damage, and the true reason if one is not decoded."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL.ExifTags import Base as Tag

from facelake.contracts import Reject
from facelake.embed.containers import HEIC_BRANDS, TooCostly, tiff_entries
from facelake.embed.formats import FORMATS

_PNG, _JPEG, _START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd8"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_STRAY = 64  # bytes before a JPEG, or behind its start, that are not part of it
_MOST_CHUNKS, _BYTES_A_CHUNK = 20_000, 256
_ANCILLARY = 0x20  # bit in the first letter of a chunk that decoders may ignore
_OTHERS = {b"RIFF": "WEBP", b"GIF8": "GIF", b"BM": "BMP"}
_KINDS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_SHORT = 3  # type of a TIFF's tag
_MOST_BOXES, _LEAST_BOX = 1000, 8


def repaired(data: bytes) -> bytes | None:
    """The photo without what is damaged and not needed; None if there is nothing to leave out."""
    if data.startswith(_PNG):
        chunks = [piece for piece, needed in _chunks(data) if needed]
        mended = b"".join((_PNG, *chunks))
        return mended if len(mended) < len(data) else None
    if data.startswith((*_TIFF, *_OTHERS)) or data[4:8] == b"ftyp":
        return None
    if data.startswith(_START) and not data.startswith(_JPEG):
        segment = data.find(b"\xff", 2, _MOST_STRAY)
        return _START + data[segment:] if segment > 0 else None
    at = data.find(_JPEG, 1, _MOST_STRAY)
    return data[at:] if at > 0 else None


def _chunks(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the chunks of a PNG, and whether each is needed: not one that may be ignored and has a wrong checksum."""
    at = len(_PNG)
    for _ in range(_MOST_CHUNKS + len(data) // _BYTES_A_CHUNK):
        if at + 12 > len(data):
            break
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        checksum = int.from_bytes(data[end - 4 : end], "big")
        wrong = data[at + 4] & _ANCILLARY and end <= len(data) and zlib.crc32(data[at + 4 : end - 4]) != checksum
        yield data[at:end], not wrong
        at = end
    yield data[at:], True


def why_not(data: bytes) -> tuple[Reject, str]:
    """Say why no decoder takes the bytes."""
    if data.startswith(_JPEG):
        what = "a JPEG that the decoder does not take: 12 bits per sample, lossless, or damaged in its header"
        return Reject.FORMAT, what
    if data.startswith(_TIFF):
        return _why_no_tiff(data)
    if data[4:8] == b"ftyp":
        return _why_no_boxes(data)
    name = "PNG" if data.startswith(_PNG) else next((_OTHERS[head] for head in _OTHERS if data.startswith(head)), "")
    if name == "WEBP" and data[8:12] != b"WEBP":
        name = ""
    if name:
        return Reject.UNREADABLE, f"{name} that is truncated, damaged in its header, or of a kind that is not decoded"
    return Reject.FORMAT, "not one of " + ", ".join(FORMATS)


def _why_no_tiff(data: bytes) -> tuple[Reject, str]:
    """Say what a TIFF has that is not decoded."""
    order = "<" if data[:2] == b"II" else ">"
    absent = (Tag.SamplesPerPixel, Tag.BitsPerSample, Tag.Compression, Tag.SampleFormat)
    tags: dict[int, int] = dict.fromkeys(absent, 1)  # their defaults
    try:
        for tag, kind, count, value in tiff_entries(data):
            apart = kind == _SHORT and count * 2 > (8 if data[2:3] == b"+" else 4)  # the values are elsewhere
            tags[tag] = struct.unpack_from(order + "H", data, value)[0] if apart else value
    except (struct.error, OverflowError):
        return Reject.UNREADABLE, "a TIFF that is truncated or damaged in its header"
    except TooCostly as err:
        return err.reason, err.detail
    numbers = _KINDS.get(tags[Tag.SampleFormat], "")
    samples = f"{tags[Tag.SamplesPerPixel]} {numbers} sample(s) of {tags[Tag.BitsPerSample]} bits".replace("  ", " ")
    colours = f"photometric interpretation {tags.get(Tag.PhotometricInterpretation, 'missing')}"
    kind_of = f"{samples}, {colours}, compression {tags[Tag.Compression]}"
    return Reject.FORMAT, f"a TIFF that is damaged in its header or of a kind that is not decoded: {kind_of}"


def _why_no_boxes(data: bytes) -> tuple[Reject, str]:
    """Say what is wrong with an AVIF or HEIC file."""
    if data[8:12] not in (b"avif", b"avis", *HEIC_BRANDS):
        return Reject.FORMAT, "not one of " + ", ".join(FORMATS)
    at = 0
    for _ in range(_MOST_BOXES):
        size = int.from_bytes(data[at : at + 4], "big")
        if size < _LEAST_BOX or at + size > len(data):
            break
        at += size
    if at < len(data) and size >= _LEAST_BOX:
        return Reject.UNREADABLE, f"an AVIF or HEIC file that is truncated: {len(data)} of {at + size} bytes"
    return Reject.UNREADABLE, "an AVIF or HEIC file that is damaged or of a kind that is not decoded"
