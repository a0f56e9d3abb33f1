"""What the tasks of a gallery version need, as it is sent to workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from facelake.contracts import Bool
from facelake.lake.data_files import read_file
from facelake.lake.row_reader import read_some
from facelake.lake.store import cached_store


@dataclass(frozen=True, slots=True)
class Item:
    """Data files of one table that one task reads."""

    table: Literal["faces", "memberships", "identities"]
    paths: tuple[str, ...]


@dataclass(frozen=True)
class RangeWork:
    """Everything that the tasks of a gallery version need; sent to workers.

    Attributes:
        lake: URI of the lake.
        s3: the config's s3 section as JSON.
        work: URI of the work store.
        run: names this version's work, so that a worker's cache is not of another one.
        version: number of the gallery version.
        dim: dimensions of a vector.
        salt: of the face keys.
        hash_salt: key of the lake's hashes.
        bits: of the ranges.
        exemplars: exemplars per identity.
        purpose: of the version.
        model_digest: of the version.
        lineage: withdrawn datasets in the model's reported lineage.
        items: the files to route.
        targets: the ranges to write.
        identity_files: by range the data file of the previous version with its identities, if it has one.
        membership_files: by range the data file with its memberships, if it has one.
    """

    lake: str
    s3: str
    work: str
    run: str
    version: int
    dim: int
    salt: int
    hash_salt: bytes = field(repr=False)
    bits: int
    exemplars: int
    purpose: str
    model_digest: str
    lineage: tuple[str, ...]
    items: tuple[Item, ...]
    targets: tuple[int, ...]
    identity_files: dict[int, str]
    membership_files: dict[int, str]

    def read(self, table: str, path: str, names: list[str]) -> pa.Table:
        """Read columns of a data file of the lake."""
        return read_file(cached_store(self.lake, self.s3), table, path, names)

    def read_some(self, table: str, path: str, take: Bool, names: list[str]) -> pa.Table:
        """Read columns of those rows of a data file for which `take` (rows,) holds."""
        return read_some(cached_store(self.lake, self.s3), table, path, take, names)
