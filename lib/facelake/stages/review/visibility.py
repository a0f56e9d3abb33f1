"""Which faces may be shown to a reviewer for a purpose, by the present ledger and not by that of the last run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from facelake.admit import Ledger
from facelake.admit.rules import Decision, decide
from facelake.contracts import Bool
from facelake.lake.lake import Lake
from facelake.stages.admission.ledger import ledger_of, newest_moment
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.same_photos import CONTENT, withdrawn_contents
from facelake.stages.admission.withdrawals import still_allows, was_erased


@dataclass(frozen=True, slots=True)
class DisplayRights:
    """The ledger and the suppression list, as read at one time."""

    lake: Lake
    purpose: str
    ledger: Ledger
    version: int
    """of the ledger"""
    suppressed: frozenset[str]
    newest: datetime | None
    """when the newest event of the ledger was recorded or the newest stage began"""
    withdrawn: frozenset[str] = frozenset()
    """digests of the photos of people who had withdrawn then"""

    @classmethod
    def of(cls, lake: Lake, purpose: str, before: DisplayRights | None = None) -> DisplayRights:
        """Read both; the ledger only if it changed since `before`."""
        snapshot, suppressed = lake["ledger"].snapshot(), lake.suppressed()
        if before and before.version == snapshot.version:
            if before.suppressed == suppressed:
                return before
            return cls(lake, purpose, before.ledger, before.version, suppressed, before.newest, before.withdrawn)
        rows, snapshot = ledger_rows(lake)
        ledger, newest = ledger_of(rows), newest_moment(lake, rows)
        now = max(filter(None, (datetime.now(UTC), newest)))
        named = (part for _, part in lake["admissions"].parts(["subject_ref", CONTENT]))
        withdrawn = frozenset(withdrawn_contents(named, ledger, purpose, now).to_pylist())
        return cls(lake, purpose, ledger, snapshot.version, suppressed, newest, withdrawn)

    def may_show(self, faces: pa.Table, admitted: pa.Table) -> Bool:
        """Return per face (n,) whether it may be shown; faces without an admission may not.

        All of these must hold: the photo was admitted for this purpose; a legal basis is in force now; photo, subject
        and source were not erased; no photo with the same bytes is of somebody who has withdrawn; and the basis now
        covers everybody in the photo, or already covered only the named subject when the face was encoded.

        Args:
            faces: columns image_id and covers.
            admitted: the admissions of the photos in the same order, nulls where there is none.
        """
        now = max(filter(None, (datetime.now(UTC), self.newest)))  # a clock that was set back is not believed
        decisions: dict[tuple[str | None, str | None], Decision] = {}
        out = np.zeros(faces.num_rows, bool)
        columns = [admitted[name].to_pylist() for name in ("admitted", "purpose", "source_id", "subject_ref", CONTENT)]
        rows = zip(faces["image_id"].to_pylist(), faces["covers"].to_pylist(), *columns, strict=True)
        for i, (image, covers, was_admitted, purpose, source, subject, content) in enumerate(rows):
            if not was_admitted or purpose != self.purpose or content in self.withdrawn:
                continue
            pair = source, subject
            if pair not in decisions:
                decisions[pair] = decide(self.ledger, source, subject, self.purpose, now)
            names = (("image", image), ("source", source), ("subject", subject))
            erased = was_erased(self.lake, self.suppressed, names, self.purpose)
            out[i] = still_allows(decisions[pair], covers) and not erased
        return out
