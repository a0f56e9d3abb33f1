"""What the methods of the Python API return: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from facelake.api.tables import Rows
from facelake.publish.leases import FeedLease
from facelake.stages.admission.ledger_import import RejectedLine
from facelake.stages.core.context import StageResult
from facelake.stages.operations.verify import Finding

T = TypeVar("T")


def from_row(kind: type[T], row: Mapping[str, Any]) -> T:
    """Return a value of a dataclass whose fields are columns of the row; lists become tuples, null lists empty ones."""
    values = {field.name: row[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    lists = {field.name for field in fields(kind) if str(field.type).startswith("tuple")}  # type: ignore[arg-type]
    return kind(**values | {name: tuple(values[name] or ()) for name in lists})


@dataclass(frozen=True, slots=True)
class GalleryInfo:
    """A published gallery version.

    Attributes:
        version: its number.
        identities: number of active identities.
        faces: number of faces in them.
        purpose: purpose of the gallery.
        model_digest: of the model whose embeddings it was made from.
        created_at: when it was published.
        withdrawn_lineage: withdrawn datasets in the reported training lineage of the model.
        readable: whether its tables can still be read; erasures and withdrawals purge earlier versions.
    """

    version: int
    identities: int
    faces: int
    purpose: str
    model_digest: str
    created_at: datetime
    withdrawn_lineage: tuple[str, ...] = ()
    readable: bool = True

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> GalleryInfo:
        """Return the version of a row of the table `galleries`, taken to be readable."""
        return from_row(cls, {**row, "version": row["gallery_version"], "readable": True})


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The outcome of a run.

    Attributes:
        lake: URI of the lake.
        stages: the result of each stage, in the order in which they ran.
        gallery: the newest gallery after the run; None if nothing was ever published.
    """

    lake: str
    stages: tuple[StageResult, ...]
    gallery: GalleryInfo | None

    def stage(self, name: str) -> StageResult:
        """Return the last result of a stage.

        Raises:
            KeyError: the stage did not run.
        """
        return {result.stage: result for result in self.stages}[name]


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a check of the lake.

    Attributes:
        findings: inconsistencies.
        residual: number of hits of the searched identifiers, by object key.
        residual_inside: hits in other objects, only inside of longer words: of a longer name, or by chance in a digest.
        counts: what was checked.
        never_erased: searched identifiers that nothing has and no erasure named: mistyped, or of another lake.
    """

    findings: tuple[Finding, ...]
    residual: Mapping[str, int]
    residual_inside: Mapping[str, int]
    counts: Mapping[str, int]
    never_erased: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the lake is consistent and nothing of the searched identifiers remains."""
        return not self.findings and not self.residual


@dataclass(frozen=True, slots=True)
class Gallery:
    """The tables of a gallery version.

    Attributes:
        info: the version.
        identities: one row per identity, the largest first, without templates: those leave a lake under a lease only.
        faces: one row per face, with its identity and photo.
    """

    info: GalleryInfo
    identities: Rows
    faces: Rows


@dataclass(frozen=True, slots=True)
class IdentityFace:
    """A face of an identity.

    Attributes:
        face_id: its id.
        image_id: the photo that shows it.
        score: cosine to the identity's template when the face was assigned.
        how: grouped, joined or corrected.
    """

    face_id: str
    image_id: str
    score: float | None
    how: str


@dataclass(frozen=True, slots=True)
class Identity:
    """An active identity of a gallery version.

    Attributes:
        identity_id: its id, stable across versions.
        gallery_version: the version that was read.
        members: its faces, by id.
    """

    identity_id: str
    gallery_version: int
    members: tuple[IdentityFace, ...]

    def faces(self) -> tuple[IdentityFace, ...]:
        """Return its faces, by id."""
        return self.members

    def images(self) -> tuple[str, ...]:
        """Return the ids of the photos that show it, sorted."""
        return tuple(sorted({face.image_id for face in self.members}))


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why two faces or identities are together or apart.

    Attributes:
        together: whether the last clustering put them into one group.
        sentences: the reasons in words.
        figures: the measures, as `facelake explain --json` prints them.
    """

    together: bool
    sentences: tuple[str, ...]
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a lake; the mappings are those of `facelake status --json`.

    Attributes:
        lake: URI of the lake.
        holder: the writer; None if nobody writes.
        work: the stage in progress with its ETA; None if none is.
        gallery: version, identities and faces of the newest gallery; version 0 if none was published.
        stages: the last run of each stage.
        tables: version, rows, files and bytes of each table.
        last_commit: time of the newest commit, ISO 8601; None in a new lake.
        unfinished_erasures: ids.
    """

    lake: str
    holder: Mapping[str, Any] | None
    work: Mapping[str, Any] | None
    gallery: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    tables: Mapping[str, Mapping[str, Any]]
    last_commit: str | None
    unfinished_erasures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CorrectionRecord:
    """A correction in the lake. `counts`: whether it is in force; None for an undo."""

    seq: int
    kind: str
    identity_a: str | None
    identity_b: str | None
    faces_a: tuple[str, ...]
    faces_b: tuple[str, ...]
    undoes: tuple[int, ...]
    reason: str | None
    reviewer: str
    gallery_version: int
    recorded_at: datetime
    counts: bool | None


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """An event in the ledger; docs/tables.md explains the columns."""

    seq: int
    kind: str
    scope: str
    key: str
    purposes: tuple[str, ...]
    basis: str | None
    exemption: str | None
    covers: str | None
    source_class: str | None
    valid_from: datetime | None
    valid_until: datetime | None
    destroy_by: datetime | None
    recorded_at: datetime
    recorded_by: str


@dataclass(frozen=True, slots=True)
class LedgerImport:
    """The outcome of an import of ledger events.

    Attributes:
        recorded: number of events recorded.
        present: number of events that the ledger already had.
        rejected: the lines that were not recorded.
        questioned: recorded lines that may be mistyped: the lake does not have their source or purpose, or has a
            similar subject.
        without_photos: subjects of recorded grants that no photo names, if photos name subjects.
    """

    recorded: int
    present: int
    rejected: tuple[RejectedLine, ...]
    questioned: tuple[RejectedLine, ...] = ()
    without_photos: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseState:
    """A lease and what its recipient owes.

    Attributes:
        lease: the lease.
        owes: the action that is due, in words; None if none is.
    """

    lease: FeedLease
    owes: str | None
