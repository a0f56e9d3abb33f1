"""One spelling for references of people, photos and sources: Unicode NFC, without invisible characters, and without
white space around it.

Tables keep what the custodian delivered; references are normalised wherever two are compared, recorded or hashed.
Upper and lower case stay different.
"""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

_AROUND = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\x00"
)
# soft hyphens, joiners, marks of direction, variation selectors and tags, which copies from spreadsheets, web pages and
# dialogs bring along: nobody sees that two references differ in them
_INVISIBLE = (
    (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x180E, 0x180E), (0x200B, 0x200F), (0x202A, 0x202E),
    (0x2060, 0x206F), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB), (0xE0000, 0xE0FFF),
)  # fmt: skip
_REMOVED = {point: None for first, last in _INVISIBLE for point in range(first, last + 1)}
_PATTERN = "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _INVISIBLE) + "]"

SEARCHABLE = 6
"""characters of a subject reference from which on an erasure searches bytes for it; shorter ones occur by chance"""


def reference(text: str) -> str:
    """Return the spelling under which a reference is compared, recorded and hashed."""
    return unicodedata.normalize("NFC", text if text.isascii() else text.translate(_REMOVED)).strip(_AROUND)


def references(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return a column of references in the spelling of `reference`; nulls stay null."""
    texts = column.cast(pa.string())
    if pc.all(pc.string_is_ascii(texts)).as_py() is False:
        texts = pc.replace_substring_regex(texts, _PATTERN, "")
    return pc.utf8_trim(pc.utf8_normalize(texts, "NFC"), _AROUND)


def label(kind: str, text: str, purpose: str | None = None) -> str:
    """Return the label whose keyed hash stands for a reference on the suppression list.

    Args:
        kind: subject, source, image, content or identity.
        text: the reference.
        purpose: the purpose to which the suppression is limited; None: all.
    """
    return f"for:{purpose}:{kind}:{reference(text)}" if purpose else f"{kind}:{reference(text)}"
