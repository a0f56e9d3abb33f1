"""Why a gallery has fewer faces than the one before, in words."""

from __future__ import annotations

from collections.abc import Mapping

ERASED, WITHDRAWN, VANISHED, REFUSED, CHANGED = "erased", "withdrawn", "vanished", "refused", "changed"
LOST_BY_REQUEST = (ERASED, WITHDRAWN)
"""causes that people asked for: they are no sign of a mistake"""
_WORDS = {
    ERASED: "erased",
    WITHDRAWN: "withdrawn",
    VANISHED: "in photos that are no longer in the corpus",
    REFUSED: "in photos that are refused now",
    CHANGED: "in photos with other content or another cover now",
}


def lost_in_words(lost: Mapping[str, int]) -> str:
    """Return numbers of faces by cause as a list; empty without any."""
    return ", ".join(f"{lost[cause]:,} {words}" for cause, words in _WORDS.items() if lost.get(cause))
