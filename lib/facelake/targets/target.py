"""What a push needs of a database. Every method may be called again after a crash with the same effect.

A target has a table of identities, and a record: one JSON object that says which gallery version the table holds, under
which lease. Both are named after the table of the URL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from facelake.contracts import F32, I64

COLUMNS = ("identity_id", "template", "gallery_version", "lease_id", "purpose", "expires_at", "model_digest")
"""columns or payload fields of a row in every target; `expires_at` is ISO 8601, in PostgreSQL a timestamp"""


@dataclass(frozen=True, slots=True)
class TargetRows:
    """Identities to insert or replace.

    Attributes:
        ids: identity ids, without repetition.
        templates: (n, dim) float32 of unit norm.
        versions: (n,) the gallery version in which each template was computed.
        tags: lease_id, purpose, expires_at (ISO 8601) and model_digest of all of them.
    """

    ids: Sequence[str]
    templates: F32
    versions: I64
    tags: dict[str, str]


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

    def create(self, dim: int) -> None:
        """Create the table for templates of `dim` values, unless it exists."""
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
