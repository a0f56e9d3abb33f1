"""Counts with their nouns."""

from __future__ import annotations


def counted(count: float, singular: str, plural: str = "") -> str:
    """Return a count with its noun; without `plural`, an s is appended."""
    return f"{count:,.0f} {singular if count == 1 else plural or singular + 's'}"
