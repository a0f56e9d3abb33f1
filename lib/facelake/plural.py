"""Counts with their nouns, and lists that are cut short."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: float, singular: str, plural: str = "") -> str:
    """Return a count with its noun; without `plural`, an s is appended."""
    return f"{count:,.0f} {singular if count == 1 else plural or singular + 's'}"


def first_of(names: Sequence[str], most: int = 5) -> str:
    """Return the first names with commas between them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
