"""One spelling for references of people, photos and sources: Unicode NFC, without invisible characters, with single
spaces for any white space, and none around it.

Tables keep what the custodian delivered; references are normalised wherever two are compared, recorded or hashed.
Upper and lower case stay different.
"""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

# what stands for a space: white space, no-break and wide spaces, and letters without a picture
_BLANK = (
    (0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x115F, 0x1160), (0x1680, 0x1680), (0x2000, 0x200A),
    (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x2800, 0x2800), (0x3000, 0x3000), (0x3164, 0x3164),
    (0xFFA0, 0xFFA0),
)  # fmt: skip
# what nobody sees: control characters, code points that Unicode ignores by default (soft hyphens, joiners, marks of
# direction, variation selectors, tags), which copies from spreadsheets, web pages and dialogs bring along, and numbers
# that are no characters
_INVISIBLE = (
    (0x00, 0x08), (0x0E, 0x1B), (0x7F, 0x84), (0x86, 0x9F), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C),
    (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0xFDD0, 0xFDEF),
    (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFF0, 0xFFFB), (0xFFFE, 0xFFFF), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)  # fmt: skip
_SPELLED = {point: " " for first, last in _BLANK for point in range(first, last + 1)}
_SPELLED |= {point: "" for first, last in _INVISIBLE for point in range(first, last + 1)}


def _class(ranges: tuple[tuple[int, int], ...]) -> str:
    return "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in ranges)


_NOTHING, _SPACES = f"[{_class(_INVISIBLE)}]+", f"[{_class(_BLANK)}]+"
_PLAIN_ASCII = r"^[\x21-\x7E]*( [\x21-\x7E]+)*$"

SEARCHABLE = 6
"""bytes (UTF-8) of a subject reference from which on an erasure searches for it; shorter ones occur by chance"""


def reference(text: str) -> str:
    """Return the spelling under which a reference is compared, recorded and hashed."""
    return " ".join(part for part in unicodedata.normalize("NFC", text.translate(_SPELLED)).split(" ") if part)


def references(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return a column of references in the spelling of `reference`; nulls stay null."""
    texts = column.cast(pa.string())
    if pc.all(pc.match_substring_regex(texts, _PLAIN_ASCII)).as_py() in (True, None):
        return texts
    texts = pc.replace_substring_regex(pc.replace_substring_regex(texts, _NOTHING, ""), _SPACES, " ")
    return pc.utf8_trim(pc.utf8_normalize(texts, "NFC"), " ")


def label(kind: str, text: str, purpose: str | None = None) -> str:
    """Return the label whose keyed hash stands for a reference on the suppression list.

    Args:
        kind: subject, source, image, content or identity.
        text: the reference.
        purpose: the purpose to which the suppression is limited; None: all.
    """
    return f"for:{purpose}:{kind}:{reference(text)}" if purpose else f"{kind}:{reference(text)}"
