"""Checks of the header of a CSV file that an operator made."""

from __future__ import annotations

from collections.abc import Sequence


def other_separator(names: Sequence[str]) -> str | None:
    """Return what is wrong with the column names if they were not separated by commas; None if they were."""
    for mark, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and mark in names[0]:
            return f"the columns are separated by {called}"
    return None
