"""The forms in which an identifier or an embedding may be stored, for the residual scan."""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from contextlib import suppress
from urllib.parse import quote, quote_plus

import numpy as np
import numpy.typing as npt

_PLAIN = re.compile(r"[0-9A-Za-z_.-]+")  # written the same way in JSON, URLs and HTML
_ESCAPED = re.compile(r"\\u[0-9a-f]{4}")
_LEAST_BYTES = 8  # shorter encoded forms occur by chance
_PIECE, _PIECES, _LEAST_DIFFERENT = 48, 256, 20  # bytes of a piece; pieces that are looked at; different bytes in one
_OLDER = ("cp1252", "cp1250", "cp1251", "mac_roman", "shift_jis", "gb18030", "big5", "euc_kr")  # of IPTC and EXIF
_BETWEEN = (",", ", ", ";", "; ", " ", "\t", "\n", "\r\n")  # numbers in a text
_NUMBERS = 4  # values of an embedding that identify it when they stand next to each other in a text

SEARCHED = (
    "names as stored, in Unicode NFC and NFD, JSON, URL, HTML and CSV escapes, UTF-16, UTF-32, base64 and hex, and, if "
    "of 8 bytes or more there, in Windows-1252, -1250, -1251, Mac Roman, Shift JIS, GB 18030, Big5 and EUC-KR",
    "embeddings as little-endian float16, float32 and float64, base64, hex, and decimal numbers in a text that are "
    "separated by commas, semicolons, tabs, spaces or ends of lines",
    "parts of the encoded photos, as stored, in base64 and hex",
    "inside gzip, zlib, bzip2, xz, zstd, lz4 and zip, in the metadata of PNG and JPEG XL images, and in every column, "
    "footer and statistic of Parquet",
)
NOT_SEARCHED = (
    "encrypted data",
    "photos that were decoded and encoded again",
    "base64 and hex that are broken into lines",
    "embeddings that were rotated, quantised or averaged with others, as big-endian numbers, and as decimal numbers in "
    "indented lines or rounded",
    "values in archives of other formats, raw deflate streams, and extended attributes of files",
    "names that are part of the file name of another photo, and ids of photos at the end of a longer path (`facelake "
    "verify --residual` finds both)",
)


def text_forms(text: str) -> set[bytes]:
    """Return the spellings of an identifier that stand between word boundaries: JSON, URLs, HTML, NFC, NFD, and older
    encodings.
    """
    forms: set[bytes] = set()
    for spelled in {text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)}:
        raw = spelled.encode(errors="surrogateescape")  # command-line arguments need not be UTF-8
        forms.add(raw)
        if _PLAIN.fullmatch(spelled):
            continue
        forms |= _in_older_encodings(spelled)
        escaped = {json.dumps(spelled)[1:-1], json.dumps(spelled, ensure_ascii=False)[1:-1]}
        escaped |= {_ESCAPED.sub(lambda match: match[0].upper().replace("U", "u", 1), form) for form in escaped}
        escaped |= {form.replace("/", "\\/") for form in escaped}
        escaped |= _in_html(spelled) | {spelled.replace('"', '""')}  # as in HTML and in CSV
        urls = {quote(raw), quote(raw, safe=""), quote_plus(raw), quote_plus(raw, safe="/")}
        urls |= {re.sub(r"%..", lambda match: match[0].lower(), url) for url in urls}
        forms |= {form.encode(errors="surrogateescape") for form in escaped | urls}
    return forms


def _in_older_encodings(text: str) -> set[bytes]:
    """Return a text in the encodings that cameras and picture agencies wrote before Unicode."""
    forms = set()
    for encoding in _OLDER if not text.isascii() else ():
        with suppress(UnicodeEncodeError):
            forms.add(text.encode(encoding))
    return {form for form in forms if len(form) >= _LEAST_BYTES}


def _in_html(text: str) -> set[str]:
    """Return a text as HTML: with names or numbers for marks and for letters outside of ASCII."""
    forms = set()
    for quoted in ("&#x27;", "&#39;", "&apos;"):
        marked = html.escape(text, quote=False).replace('"', "&quot;").replace("'", quoted)
        for number in ("&#{};", "&#x{:x};", "&#x{:X};"):
            forms |= {marked, "".join(c if c.isascii() else number.format(ord(c)) for c in marked)}
    return forms | {form.replace("&quot;", "&#34;") for form in forms}


def text_blobs(text: str) -> set[bytes]:
    """Return the encoded forms of an identifier, which may stand anywhere: base64, hex, UTF-16, UTF-32."""
    raw = text.encode(errors="surrogateescape")
    wide = {text.encode(f"utf-{bits}-{order}", errors="surrogatepass") for bits in (16, 32) for order in ("le", "be")}
    return {form for form in _hex(raw) | _base64(raw) | wide if len(form) >= _LEAST_BYTES}


def embedding_forms(blob: bytes) -> set[bytes]:
    """Return the forms of a stored embedding (little-endian float16)."""
    if len(blob) < _LEAST_BYTES:
        return set()
    forms = {blob, *_hex(blob), *_base64(blob)}
    if len(blob) % 2 == 0:
        half = np.frombuffer(blob, "<f2")
        forms |= {half.astype(kind).tobytes() for kind in ("<f4", "<f8")}
        forms |= _numbers(half)
    return forms


def photo_forms(data: bytes) -> set[bytes]:
    """Return a few pieces of an encoded photo that do not occur in others; none if it has no such piece.

    Of compressed photos nearly every piece is one; of plain pixels, those with the most different bytes are taken.
    """
    starts = range(len(data) // 3, len(data) - _PIECE, max((len(data) * 2 // 3) // _PIECES, _PIECE))
    pieces = [data[at : at + _PIECE] for at in starts]
    pieces.sort(key=lambda piece: -len(set(piece)))  # stable: of equal ones the first
    return {piece for piece in pieces[:2] if len(set(piece)) >= _LEAST_DIFFERENT}


def piece_forms(piece: bytes) -> set[bytes]:
    """Return the forms of a piece of an encoded photo, such as those in a page that contains its images."""
    return {piece, *_hex(piece), *_base64(piece)}


def _hex(raw: bytes) -> set[bytes]:
    """Return the digits in lower and in upper case."""
    return {raw.hex().encode(), raw.hex().upper().encode()}


def _base64(raw: bytes) -> set[bytes]:
    """Return base64 and base64 for URLs in three alignments, without the characters that depend on the neighbours."""
    forms = set()
    for shift in range(3):
        first, last = -(-shift * 8 // 6), (shift + len(raw)) * 8 // 6
        forms |= {encode(bytes(shift) + raw)[first:last] for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    return forms


def _numbers(half: npt.NDArray[np.float16]) -> set[bytes]:
    """Return the first values of an embedding as JSON, CSV and `numpy.savetxt` write them."""
    values = half[:_NUMBERS]
    if not np.isfinite(values).all() or len(set(values.tolist())) < _NUMBERS:
        return set()
    forms = (lambda value: repr(float(value))), (lambda value: str(np.float32(value))), str, "{:.18e}".format
    written = [[form(value) for value in values] for form in forms]
    return {between.join(numbers).encode() for numbers in written for between in _BETWEEN}
