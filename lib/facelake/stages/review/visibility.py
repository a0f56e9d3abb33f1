"""Which faces may be shown to a person for a purpose, at this moment: what the ledger says now, not last night."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from facelake.admit import Ledger
from facelake.admit.rules import Decision, decide
from facelake.contracts import Bool, Covers
from facelake.lake.lake import Lake
from facelake.stages.admission.ledger import read_ledger


@dataclass(frozen=True, slots=True)
class Standing:
    """The ledger and the suppression list as they were read at one moment."""

    lake: Lake
    purpose: str
    ledger: Ledger
    version: int
    """of the ledger"""
    suppressed: frozenset[str]

    @classmethod
    def of(cls, lake: Lake, purpose: str, before: Standing | None = None) -> Standing:
        """Read both anew; the ledger only if it moved."""
        snapshot, suppressed = lake["ledger"].snapshot(), lake.suppressed()
        if before and before.version == snapshot.version:
            if before.suppressed == suppressed:
                return before
            return cls(lake, purpose, before.ledger, before.version, suppressed)
        return cls(lake, purpose, read_ledger(lake, snapshot), snapshot.version, suppressed)

    def may_show(self, faces: pa.Table, admitted: pa.Table) -> Bool:
        """Per face (n,) whether it may be shown. Fails closed.

        A face is shown if its photo was admitted for the very purpose, a basis for it is in force now, neither the
        photo nor its subject or source was erased, and the basis speaks of everybody in the photo or did not when the
        face was encoded either.

        Args:
            faces: image_id, covers; admitted: the photos' admissions in the same order, nulls where there is none.
        """
        now = datetime.now(UTC)
        verdicts: dict[tuple[str | None, str | None], Decision] = {}
        out = np.zeros(faces.num_rows, bool)
        columns = [admitted[name].to_pylist() for name in ("admitted", "purpose", "source_id", "subject_ref")]
        known = zip(faces["image_id"].to_pylist(), faces["covers"].to_pylist(), *columns, strict=True)
        for i, (image, covers, was, purpose, source, subject) in enumerate(known):
            if not was or purpose != self.purpose:
                continue
            pair = source, subject
            if pair not in verdicts:
                verdicts[pair] = decide(self.ledger, source, subject, self.purpose, now)
            verdict = verdicts[pair]
            narrower = verdict.covers is Covers.NAMED and covers != Covers.NAMED
            out[i] = verdict.admitted and not narrower and not self._erased(image, source, subject)
        return out

    def _erased(self, image: str, source: str | None, subject: str | None) -> bool:
        """For every purpose, or for this one."""
        if not self.suppressed:
            return False
        named = (("image", image), ("source", source), ("subject", subject))
        labels = [f"{kind}:{name}" for kind, name in named if name]
        labels += [f"for:{self.purpose}:{label}" for label in labels]
        return any(self.lake.keyed_hash(label) in self.suppressed for label in labels)
