"""A second residual scan, written from the list of forms in docs/consent.md and not from the library's needles.

It decodes what it finds (base64, hex, escapes, archives, Parquet) and looks for the plain values, whereas the library
encodes the values and looks for the encoded bytes.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import html
import io
import lzma
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Person:
    """What must not be left of erased people: names, float16 embeddings, encoded photos."""

    names: frozenset[str]
    embeddings: frozenset[bytes]
    photos: frozenset[bytes]


def remains(lake: Path, person: Person) -> set[str]:
    """Files of a lake in which something of the person is left."""
    files = {str(path.relative_to(lake)): path for path in lake.rglob("*") if path.is_file()}
    return {
        name
        for name, path in files.items()
        if any(_is_in(layer, person) for layer in _layers(name.encode(), path.read_bytes(), _DEPTH))
    }


def _layers(name: bytes, data: bytes, depth: int) -> Iterator[bytes]:
    """The name and content of an object, and of everything packed in it."""
    yield name
    if data[:4] == b"PAR1":
        yield from _parquet(data)
        return
    yield data
    for unpack in (gzip.decompress, zlib.decompress, bz2.decompress, lzma.decompress, _zstd, _lz4) if depth else ():
        try:
            inside = unpack(data)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
            continue
        yield from _layers(b"", inside, depth - 1)
    if data[:2] == b"PK" and depth:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from _layers(member.encode(), archive.read(member), depth - 1)


def _arrow(codec: str) -> Callable[[bytes], bytes]:
    def unpack(data: bytes) -> bytes:
        with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
            return bytes(stream.read())

    return unpack


_zstd, _lz4 = _arrow("zstd"), _arrow("lz4")


def _parquet(data: bytes) -> Iterator[bytes]:
    table = pq.read_table(io.BytesIO(data))
    for column in table.columns:
        for value in column.to_pylist():
            yield from _plain(value)
    for key, value in (table.schema.metadata or {}).items():
        yield from (key, value)


def _plain(value: Any) -> Iterator[bytes]:
    if isinstance(value, str):
        yield value.encode()
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _plain(part)
    elif isinstance(value, list) and value and all(isinstance(part, float) for part in value):
        yield np.array(value, "<f4").tobytes()
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _plain(part)


def _is_in(data: bytes, person: Person) -> bool:
    return _in_bytes(data, person) or _in_text(data, person) or _encoded(data, person)


@lru_cache(maxsize=8)
def _bytes_of(person: Person) -> tuple[bytes, ...]:
    """What is looked for in bytes that are not text: vectors as numbers of three sizes, half of each photo, UTF-16."""
    vectors = [np.frombuffer(blob, "<f2") for blob in person.embeddings]
    numbers = [vector.astype(kind).tobytes() for vector in vectors for kind in ("<f2", "<f4", "<f8")]
    wide = [name.encode(code) for name in person.names for code in ("utf-16-le", "utf-16-be")]
    return (*numbers, *_halves(person), *wide)


@lru_cache(maxsize=8)
def _halves(person: Person) -> tuple[bytes, ...]:
    return tuple(photo[len(photo) // 4 : 3 * len(photo) // 4] for photo in person.photos)


@lru_cache(maxsize=8)
def _words_of(person: Person) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Each name, and the name where it is a word of its own."""
    composed = [unicodedata.normalize("NFC", name) for name in person.names]
    return tuple((name, re.compile(rf"(?<![0-9A-Za-z_./-]){re.escape(name)}(?![0-9A-Za-z_-])")) for name in composed)


@lru_cache(maxsize=8)
def _starts_of(person: Person) -> tuple[str, ...]:
    """The first four numbers of each vector, as JSON, CSV and numpy write them."""
    vectors = [np.frombuffer(blob, "<f2")[:4] for blob in person.embeddings]
    starts = [[repr(float(value)) for value in vector] for vector in vectors]
    starts += [[str(np.float32(value)) for value in vector] for vector in vectors]
    starts += [[str(value) for value in vector] for vector in vectors]
    starts += [[f"{value:.18e}" for value in vector] for vector in vectors]
    separators = (",", ", ", ";", "; ", " ", "\t", "\n", "\r\n")
    return tuple(between.join(start) for start in starts for between in separators)


def _in_bytes(data: bytes, person: Person) -> bool:
    return any(wanted in data for wanted in _bytes_of(person))


def _in_text(data: bytes, person: Person) -> bool:
    text = data.decode("utf-8", "replace")
    unescaped = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text).replace("\\/", "/")
    for written in {text, html.unescape(text), unquote(text), unescaped}:
        composed = unicodedata.normalize("NFC", written)
        if any(name in composed and word.search(composed) for name, word in _words_of(person)):
            return True
    return any(start in text for start in _starts_of(person))


def _encoded(data: bytes, person: Person) -> bool:
    for match in re.finditer(rb"[0-9A-Za-z+/_-]{12,}", data):
        run = match[0].translate(bytes.maketrans(b"-_", b"+/"))
        for shift in range(4):
            part = run[shift:]
            decoded = base64.b64decode(part[: len(part) // 4 * 4] + _padded(part[len(part) // 4 * 4 :]))
            if _decoded(decoded, person):
                return True
    for match in re.finditer(rb"[0-9a-fA-F]{16,}", data):
        for shift in range(2):
            digits = match[0][shift:]
            if _decoded(bytes.fromhex(digits[: len(digits) // 2 * 2].decode()), person):
                return True
    return False


def _padded(rest: bytes) -> bytes:
    return rest + b"=" * (4 - len(rest)) if len(rest) > 1 else b""


@lru_cache(maxsize=8)
def _decoded_of(person: Person) -> tuple[bytes, ...]:
    return (*_halves(person), *person.embeddings, *(name.encode() for name in person.names))


def _decoded(data: bytes, person: Person) -> bool:
    return any(wanted in data for wanted in _decoded_of(person))
