"""Unpacks stored objects for the residual scan: compressed streams, zip archives, and metadata of PNG and JPEG XL."""

from __future__ import annotations

import bz2
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from facelake.contracts import Bool

_MOST_BYTES = 1 << 28  # that one object may unpack to
_BLOCK = 1 << 16
_ARROW = ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x04\x22\x4d\x18", "lz4"))
_GZIP, _BZIP2, _XZ, _PNG = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x89PNG\r\n\x1a\n"
_JPEG_XL = b"\0\0\0\x0cJXL \r\n\x87\n"  # in a container; a bare stream has no metadata
_ZIP_MEMBER, _ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
_ZLIB = bytes(window << 4 | 8 for window in range(8))  # first bytes: deflate with a window of 256 B to 32 KiB
_IMAGES = (_PNG, _JPEG_XL)
_MAGICS = (_GZIP, _BZIP2, _XZ, *_IMAGES, _ZIP_MEMBER, *dict(_ARROW))
_FAULTS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, OSError, ValueError)


class Unsearchable(Exception):
    """An object of which nobody can say what is in it: it unpacks to too much, or cannot be unpacked."""


class Budget:
    """How many bytes something may still unpack to."""

    def __init__(self, most: int | None = None) -> None:
        """Begin with so many bytes; None: the most that is searched of one object, 256 MiB."""
        self._left = _MOST_BYTES if most is None else most

    def joined(self, blocks: Iterable[bytes]) -> bytes:
        """Return the blocks together; raises Unsearchable if they are more than what is left."""
        kept = []
        for block in blocks:
            self.charge(len(block))
            kept.append(block)
        return b"".join(kept)

    def charge(self, size: int) -> None:
        """Take bytes away; raises Unsearchable if there are not as many left."""
        self._left -= size
        if self._left < 0:
            raise Unsearchable


def packed_heads() -> Bool:
    """Return with which pairs of bytes (65,536,), as numbers with the first byte high, a packed object may begin."""
    heads = np.zeros(1 << 16, bool)
    heads[[int.from_bytes(magic[:2], "big") for magic in _MAGICS]] = True
    zlib_heads = np.arange(1 << 16)
    heads |= np.isin(zlib_heads >> 8, list(_ZLIB)) & (zlib_heads % 31 == 0)
    return heads


def is_archive(data: bytes) -> bool:
    """Return whether an object says of itself that it is compressed."""
    return data.startswith(tuple(magic for magic in _MAGICS if magic not in _IMAGES))


def unpacked(data: bytes, budget: Budget) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the members of a packed object; nothing if it is of another type.

    What follows the last stream of a compressed object is a member too. Of a stream that is damaged or cut off, the
    readable part is yielded.

    Raises:
        Unsearchable: it unpacks to too much; or a zip archive has a member that cannot be read, whose content another
            program may know.
    """
    if data.startswith(_PNG):
        yield from (("", budget.joined(_inflated(text, _deflate)[0])) for text in _packed_texts(data))
    elif data.startswith(_JPEG_XL):
        yield from (("", budget.joined(_by_arrow(box, "brotli"))) for box in _packed_boxes(data))
    elif data.startswith(_GZIP):
        yield from _streams(data, lambda: zlib.decompressobj(31), lambda rest: rest.startswith(_GZIP), budget)
    elif data[:1] and data[0] in _ZLIB and int.from_bytes(data[:2], "big") % 31 == 0:
        yield from _streams(data, _deflate, lambda rest: rest[:1] == data[:1], budget)
    elif data.startswith(_BZIP2):
        yield from _streams(data, bz2.BZ2Decompressor, lambda rest: rest.startswith(_BZIP2), budget)
    elif data.startswith(_XZ):
        yield from _streams(data, lzma.LZMADecompressor, lambda rest: rest.startswith(_XZ), budget)
    for magic, codec in _ARROW:
        if data.startswith(magic):
            yield "", budget.joined(_by_arrow(data, codec))
    if data.startswith(_ZIP_MEMBER) or _ZIP_END in data[-(1 << 16) - 22 :]:  # other data may stand before an archive
        yield from _zip_members(data, budget)


def _deflate() -> Any:
    return zlib.decompressobj()


def _streams(
    data: bytes, start: Callable[[], Any], goes_on: Callable[[bytes], bool], budget: Budget
) -> Iterator[tuple[str, bytes]]:
    """Yield the content of streams one after another, as appending writes them, with zeros between, and the rest."""
    parts = []
    while data and goes_on(data):
        blocks, rest = _inflated(data, start)
        parts.append(budget.joined(blocks))
        data = rest().lstrip(b"\0")
    yield "", b"".join(parts)
    if data:
        yield "", data


def _inflated(data: bytes, start: Callable[[], Any]) -> tuple[Iterator[bytes], Callable[[], bytes]]:
    """Return the blocks of one stream, up to the first damage, and what follows it once they were read."""
    stream = start()

    def blocks() -> Iterator[bytes]:
        waiting = data
        try:
            while waiting and not stream.eof:
                yield stream.decompress(waiting, _BLOCK)
                # zlib returns what it has not used; the others keep it, and say when they need more
                waiting = getattr(stream, "unconsumed_tail", b"")
                while not getattr(stream, "needs_input", True) and not stream.eof:
                    yield stream.decompress(b"", _BLOCK)
        except _FAULTS:
            return

    return blocks(), lambda: stream.unused_data if stream.eof else b""


def _by_arrow(data: bytes, codec: str) -> Iterator[bytes]:
    """Yield the content of compressed streams, up to the first damage."""
    with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
        try:
            while block := stream.read(_BLOCK):
                yield block
        except (pa.ArrowException, OSError):
            return


def _zip_members(data: bytes, budget: Budget) -> Iterator[tuple[str, bytes]]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except _FAULTS as err:
        if data.startswith(_ZIP_MEMBER):
            raise Unsearchable from err
        return  # the bytes that end an archive, by chance
    unreadable = False
    with archive:
        for member in archive.infolist():
            try:
                with archive.open(member) as file:
                    content = budget.joined(iter(lambda file=file: file.read(_BLOCK), b""))  # type: ignore[misc]
            except _FAULTS:  # damaged, encrypted, or of a method that Python lacks
                unreadable = True
                continue
            yield member.filename, content
    if unreadable:
        raise Unsearchable


def _packed_texts(data: bytes) -> Iterator[bytes]:
    """Yield the compressed texts and profiles of a PNG image (chunks zTXt, iTXt, iCCP), as zlib streams."""
    at = len(_PNG)
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size] if kind in (b"zTXt", b"iTXt", b"iCCP") else b""
        at += size + 12
        _, _, rest = body.partition(b"\0")  # the keyword
        if kind == b"iTXt" and rest[:1] == b"\1":  # a flag, the method, language and translated keyword, the text
            yield rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        elif kind in (b"zTXt", b"iCCP") and rest:
            yield rest[1:]


def _packed_boxes(data: bytes) -> Iterator[bytes]:
    """Yield the compressed metadata of a JPEG XL image (boxes `brob`, ISO/IEC 18181-2), as Brotli streams."""
    at = 0
    while at + 8 <= len(data):
        size, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = at + max(size, head) if size else len(data)  # no size: to the end of the file
        if kind == b"brob":
            yield data[at + head + 4 : end]  # the kind of the box that it was comes first
        at = end
