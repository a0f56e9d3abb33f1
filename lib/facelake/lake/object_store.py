"""What the lake needs of its storage: whole objects, conditional creation and replacement, listing.

Keys are relative to the store's root and use `/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow.fs as pafs


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One listed object."""

    key: str
    size_bytes: int
    tag: str = ""
    """ETag, or modification time: changes with the content"""


class ObjectStore(Protocol):
    """What the lake needs of its storage. Errors: FileNotFoundError for a missing key, Retryable for faults."""

    uri: str

    def read(self, key: str) -> bytes: ...
    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes start..start+length-1 of an object, fewer at its end."""
        ...

    def stat(self, key: str) -> StoredObject | None:
        """Size and tag of one object, as `list` gives them; None when there is no such object."""
        ...

    def tag(self, key: str) -> str | None:
        """A tag that changes with the object's content; None when there is no such object."""
        ...

    def write(self, key: str, data: bytes) -> None: ...
    def upload(self, key: str, file: Path) -> None:
        """Write the content of a local file, in parts where it is large."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write only if the key does not exist; False when it did."""
        ...

    def replace(self, key: str, data: bytes, tag: str) -> bool:
        """Write only if the object still has this tag; False when it has not."""
        ...

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Objects whose key starts with prefix (a folder), in key order."""
        ...

    def delete(self, key: str) -> None:
        """Delete; a missing key is no error."""
        ...

    def purge(self, key: str) -> None:
        """Delete an object with every version of it that the bucket keeps; Refused without the rights."""
        ...

    def clear_leftovers(self) -> None:
        """Delete what writers that died left half written; needs exclusive use."""
        ...

    def drop_old_versions(self, prefix: str = "") -> int:
        """Delete what a versioned bucket keeps of replaced and deleted objects under prefix (a folder).

        Returns how many versions and delete markers; Refused without the rights, or if versions cannot be listed.
        """
        ...

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """An Arrow file system and the root path in it, for ranged reads of Parquet."""
        ...

    def storage_options(self) -> dict[str, str]: ...
