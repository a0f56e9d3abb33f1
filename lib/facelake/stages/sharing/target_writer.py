"""Writes rows of a gallery to a target of a push, and deletes identities of which it proves that they are gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from facelake.contracts import F16, F32
from facelake.errors import Corrupt
from facelake.events import StageProgress
from facelake.lake.read_ahead import read_ahead
from facelake.publish.leases import FeedLease
from facelake.stages.core.context import Context
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.sharing.changes import Outgoing
from facelake.targets import Target, TargetRows
from facelake.vectors import decode_embeddings

_BATCH = 8_192  # ids of one delete
_FIRST_BYTES, _WRITE_BYTES = 8 << 20, 64 << 20  # read for the first write, so that it begins soon, and for later ones
SEARCHED = 256  # deleted identities that are searched for by their former template
_ROWS = ["identity_id", "prototype", "last_version"]
_EXEMPLARS = "exemplars"


@dataclass(slots=True)
class TargetWriter:
    """One push in progress."""

    context: Context
    target: Target
    outgoing: Outgoing
    lease: FeedLease
    exemplars: bool = False
    upserted: int = 0
    deleted: int = 0
    former: dict[str, F32] = field(default_factory=dict)
    """templates of some of the deleted identities"""

    @property
    def columns(self) -> list[str]:
        """The columns of the gallery that go into a row."""
        return [*_ROWS, _EXEMPLARS] if self.exemplars else _ROWS

    def upsert(self, parts: Iterator[pa.Table], *, fresh: bool) -> None:
        """Write tables with the columns above; the next one is prepared meanwhile."""
        for rows in read_ahead(self._prepared(parts)):
            self.target.upsert(rows, fresh=fresh)
            self.upserted += len(rows.ids)
            self.context.check_lease()
            self.context.emit(StageProgress("push", self.upserted))

    def _prepared(self, parts: Iterator[pa.Table]) -> Iterator[TargetRows]:
        tags = self._tags()
        for rows in _gathered(parts):
            dim = len(rows["prototype"][0])
            more = rows[_EXEMPLARS].nbytes // rows.num_rows if self.exemplars else 0
            per_write = max(_WRITE_BYTES // (4 * dim + more), 1)
            for start in range(0, rows.num_rows, per_write):
                part = rows.slice(start, per_write)
                templates = matrix_of(part["prototype"], dim)
                versions = part["last_version"].to_numpy().astype(np.int64)
                own = _exemplars_of(part, dim) if self.exemplars else None
                yield TargetRows(part["identity_id"].to_pylist(), templates, versions, tags, own)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete identities, and check that none of them is left."""
        for start in range(0, len(ids), _BATCH):
            part = ids[start : start + _BATCH]
            present = self.target.templates(part)
            if not present:
                continue
            self.target.delete(list(present))
            if remains := self.target.templates(part):
                what = f"{len(remains)} of {len(present)} deleted identities are still in the target"
                raise Corrupt(what, where=self.lease.target or "", next_step="check the database, then push again")
            self.deleted += len(present)
            self.former |= dict(list(present.items())[: SEARCHED - len(self.former)])

    def _tags(self) -> dict[str, str]:
        return {
            "lease_id": self.lease.lease_id,
            "purpose": self.lease.purpose,
            "expires_at": self.lease.expires_at.isoformat(),
            "model_digest": self.outgoing.gallery.row["model_digest"],
        }


def _exemplars_of(rows: pa.Table, dim: int) -> list[F16]:
    """Return the exemplars (k, dim) of each identity."""
    return [decode_embeddings(own or [], dim).reshape(-1, dim) for own in rows[_EXEMPLARS].to_pylist()]


def _gathered(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of data files together until they fill a write."""
    held: list[pa.Table] = []
    wanted = _FIRST_BYTES
    for rows in (part for part in parts if part.num_rows):
        held.append(rows)
        if sum(part.nbytes for part in held) >= wanted:
            yield pa.concat_tables(held)
            held, wanted = [], min(2 * wanted, _WRITE_BYTES)
    if held:
        yield pa.concat_tables(held)
