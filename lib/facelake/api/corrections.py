"""Corrections of the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from facelake.api.access import Access
from facelake.api.values import CorrectionRecord, from_row
from facelake.contracts import Verdict
from facelake.events import Notice
from facelake.stages.clustering.unlike import unlike
from facelake.stages.gallery.corrections import CorrectionRequest, list_corrections, record_correction, undo


@dataclass(frozen=True, slots=True)
class Corrections:
    """Records corrections. Each takes effect with the next run, and every later run respects it.

    Every method returns the record. Each raises ConfigError for an unknown identity or face, Contradiction if earlier
    corrections say otherwise and `supersede` is not set, and Refused if another process still writes the lake.

    Attributes:
        access: opens the lake.
        reviewer: name that is recorded; empty: the user of the process.
    """

    access: Access
    reviewer: str = ""

    def by(self, reviewer: str) -> Corrections:
        """Return the same corrections under a reviewer's name."""
        return Corrections(self.access, reviewer)

    def list(self) -> tuple[CorrectionRecord, ...]:
        """Return every correction, oldest first."""
        return tuple(from_row(CorrectionRecord, row) for row in list_corrections(self.access.read().lake))

    def merge(self, a: str, b: str, *, reason: str = "", supersede: bool = False) -> CorrectionRecord:
        """Record that two identities are the same person."""
        return self.record(CorrectionRequest(Verdict.MERGE, a, b, (), reason, supersede=supersede))

    def distinct(self, a: str, b: str, *, reason: str = "", supersede: bool = False) -> CorrectionRecord:
        """Record that two identities are different people."""
        return self.record(CorrectionRequest(Verdict.DISTINCT, a, b, (), reason, supersede=supersede))

    def split(
        self, identity: str, faces: Sequence[str], *, reason: str = "", supersede: bool = False
    ) -> CorrectionRecord:
        """Record that some faces of an identity are all of one other person."""
        return self.record(CorrectionRequest(Verdict.SPLIT, identity, None, tuple(faces), reason, supersede=supersede))

    def confirm(
        self, identity: str, faces: Sequence[str], *, reason: str = "", supersede: bool = False
    ) -> CorrectionRecord:
        """Record that faces belong to this identity, wherever they are now."""
        return self.record(
            CorrectionRequest(Verdict.CONFIRM, identity, None, tuple(faces), reason, supersede=supersede)
        )

    def reject(self, face: str, *, reason: str = "", supersede: bool = False) -> CorrectionRecord:
        """Record that a face does not belong to the identity that contains it."""
        return self.record(CorrectionRequest(Verdict.REJECT, None, None, (face,), reason, supersede=supersede))

    def not_a_face(self, faces: Sequence[str], *, reason: str = "") -> CorrectionRecord:
        """Record that detections are no faces: no later run has them."""
        return self.record(CorrectionRequest(Verdict.NOT_A_FACE, None, None, tuple(faces), reason))

    def undo(self, seq: int, *, reason: str = "") -> CorrectionRecord:
        """Record that a correction no longer applies.

        Raises:
            ConfigError: no such correction is in force.
        """
        with self.access.write("correct") as context:
            row = undo(context, seq, reason, self.reviewer)
        return from_row(CorrectionRecord, row | {"counts": None})

    def record(self, request: CorrectionRequest) -> CorrectionRecord:
        """Record a correction as a reviewer states it."""
        named = replace(request, reviewer=request.reviewer or self.reviewer)
        with self.access.write("correct") as context:
            row = record_correction(context, named)
            if request.kind is Verdict.MERGE and (text := unlike(context.lake, request.identity, request.other)):
                context.emit(Notice("correct", text))
        return from_row(CorrectionRecord, row | {"counts": True})
