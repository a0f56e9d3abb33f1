"""What a push needs of a database. Every method may be called again after a crash with the same effect.

A target has a table of identities, and a record: one JSON object that says which gallery version the table holds, under
which lease. Both are named after the table of the URL.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from facelake.contracts import F16, F32, I64

COLUMNS = ("identity_id", "template", "gallery_version", "lease_id", "purpose", "expires_at", "model_digest")
"""columns or payload fields of a row in every target; `expires_at` is ISO 8601, in PostgreSQL a timestamp"""
EXEMPLARS = "exemplars"
"""one more column, in targets that were made with exemplars: float16 vectors in the form of the engine"""


@dataclass(frozen=True, slots=True)
class TargetRows:
    """Identities to insert or replace.

    Attributes:
        ids: identity ids, without repetition.
        templates: (n, dim) float32 of unit norm.
        versions: (n,) the gallery version in which each template was computed.
        tags: lease_id, purpose, expires_at (ISO 8601) and model_digest of all of them.
        exemplars: per identity (k, dim) float16, k at least 0; None: the target has no exemplars.
    """

    ids: Sequence[str]
    templates: F32
    versions: I64
    tags: dict[str, str]
    exemplars: Sequence[F16] | None = None


def as_text(exemplars: F16) -> str:
    """Return exemplars (k, dim) as base64 of their little-endian float16 values, for engines without such a type."""
    return base64.b64encode(exemplars.astype("<f2").tobytes()).decode()


def from_text(text: str, dim: int) -> F16:
    """Return the exemplars (k, dim) of `as_text`."""
    return np.frombuffer(base64.b64decode(text), "<f2").reshape(-1, dim)


class Target(Protocol):
    """A database with one table of identities."""

    def read_record(self) -> dict[str, Any] | None:
        """Return the record; None if there is none."""
        ...

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace the record."""
        ...

    def exists(self) -> bool:
        """Return whether there is a table of the name, by whomever it was made."""
        ...

    def create(self, dim: int, *, exemplars: bool = False) -> None:
        """Create the table for templates of `dim` values, with or without exemplars, unless it exists."""
        ...

    def dim(self) -> int:
        """Return the number of values of a template, as the table has it."""
        ...

    def upsert(self, rows: TargetRows, *, fresh: bool) -> None:
        """Insert or replace rows.

        Args:
            rows: the rows.
            fresh: whether none of the ids is in the table, so that a faster way may be taken.
        """
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Delete identities; those that do not exist are no error."""
        ...

    def versions(self) -> Iterator[dict[str, int]]:
        """Yield the `gallery_version` of every row by identity id, in batches."""
        ...

    def templates(self, ids: Sequence[str]) -> dict[str, F32]:
        """Return the templates of those identities that are in the table."""
        ...

    def exemplars(self, ids: Sequence[str]) -> dict[str, F16]:
        """Return the exemplars (k, dim) of those identities that are in a table with exemplars."""
        ...

    def count_other_ends(self, expires_at: str) -> int:
        """Return the exact number of rows whose `expires_at` is another one."""
        ...

    def set_end(self, expires_at: str) -> None:
        """Set `expires_at` (ISO 8601) of all rows."""
        ...

    def count(self, lease_id: str | None = None) -> int:
        """Return the exact number of rows, or of those under a lease."""
        ...

    def search(self, probe: F32, k: int) -> list[tuple[str, float]]:
        """Return the k identities of the highest cosine, best first, as a matcher would get them."""
        ...

    def drop(self) -> None:
        """Delete the table with all rows; the record is kept."""
        ...

    def drop_record(self) -> None:
        """Delete the record."""
        ...

    def compact(self) -> str | None:
        """Remove deleted and replaced rows from the files; returns what the engine still keeps and until when."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
