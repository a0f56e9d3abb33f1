"""What the admissions do not know yet: photos added to the corpus, and events of the ledger, since `admit` last ran."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit.rules import decide
from facelake.contracts import Refusal
from facelake.lake.corpora.opening import INDEX
from facelake.lake.lake import Lake
from facelake.plural import counted
from facelake.stages.admission.ledger import ledger_of, present_time
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.same_photos import CONTENT, withdrawn_contents
from facelake.stages.embedding.corpus_size import CorpusSize

_BY_LEDGER = (Refusal.NO_BASIS, Refusal.EXPIRED, Refusal.NOT_YET_VALID, Refusal.OTHER_PURPOSE, Refusal.WITHDRAWN)
_GROUP = ["source_id", "subject_ref", "admitted", "reason"]
_OWNER = ["subject_ref", CONTENT]
_SAME = "same_as_withdrawn"
_NEXT = "`facelake admit`, the first stage of `facelake nightly`, lists and checks them; then ask again"


@dataclass(frozen=True, slots=True)
class Pending:
    """What the next `admit` has to do.

    Attributes:
        photos: photos of the corpus that were not checked against the ledger.
        allowed: photos that it refused and that the present ledger allows.
        ended: photos that it admitted and that the present ledger refuses.
        files: corpus files that were not listed, where their photos cannot be counted without reading them.
    """

    photos: int = 0
    allowed: int = 0
    ended: int = 0
    files: int = 0

    @classmethod
    def of(cls, lake: Lake, corpus: CorpusSize, purpose: str, now: datetime) -> Pending:
        """Compare the admissions with the corpus and the ledger as they are.

        By numbers of photos: as many photos added as removed are not noticed, nor is new content of a known photo.
        """
        decisions = _Decisions.of(lake, purpose, now)
        # of listed photos that were erased, rows may be gone: they are left out on both sides
        known = decisions.photos - (decisions.erased if corpus.listed else 0)
        listed = sum(1 for file in lake[INDEX].snapshot().files if file.rows)
        files = max(0, corpus.files - listed) if corpus.by_index else 0
        new = max(0, corpus.images - corpus.erased - known)
        return cls(new, decisions.allowed, decisions.ended, files)

    def texts(self) -> list[str]:
        """Return sentences for the operator; none if nothing is pending."""
        new = "new since the last `facelake admit`, and not in `to embed`"
        counts = (
            (self.photos, "photo", new),
            (self.files, "corpus file", new),
            (self.allowed, "photo", "refused by it, allowed by the present ledger, and not in `to embed`"),
            (self.ended, "photo", "admitted by it, and refused by the present ledger"),
        )
        said = [f"{text}: {counted(count, noun)}" for count, noun, text in counts if count]
        return [*said, _NEXT] if said else []


@dataclass(frozen=True, slots=True)
class _Decisions:
    """The decisions of the last `admit`, compared with the present ledger.

    Attributes:
        photos: all photos.
        erased: those that it refused as erased.
        allowed: those that it refused and the ledger allows.
        ended: those that it admitted and the ledger refuses.
    """

    photos: int
    erased: int
    allowed: int
    ended: int

    @classmethod
    def of(cls, lake: Lake, purpose: str, now: datetime) -> _Decisions:
        """Decide again for the photos of each source and subject; see LedgerState.barred_images, which does so too."""
        rows, _ = ledger_rows(lake)
        ledger, now = ledger_of(rows), present_time(lake, rows, now)
        table, photos, erased, allowed, ended = lake["admissions"], 0, 0, 0, 0
        withdrawn = withdrawn_contents((part for _, part in table.parts(_OWNER)), ledger, purpose, now)
        for _, part in table.parts([*_GROUP, *([CONTENT] if len(withdrawn) else [])]):
            for row in _grouped(part, withdrawn):
                count, reason = row["count_all"], row["reason"]
                may = not row[_SAME] and decide(ledger, row["source_id"], row["subject_ref"], purpose, now).admitted
                photos += count
                erased += count if reason == Refusal.ERASED else 0
                ended += count if row["admitted"] and not may else 0
                allowed += count if may and reason in _BY_LEDGER else 0
        return cls(photos, erased, allowed, ended)


def _grouped(rows: pa.Table, withdrawn: pa.Array) -> list[dict[str, Any]]:
    """Return the number of photos by _GROUP, and by whether their bytes are those of a withdrawn photo."""
    same = pc.is_in(rows[CONTENT], withdrawn) if len(withdrawn) else pa.array(np.zeros(rows.num_rows, bool))
    names = [*_GROUP, _SAME]
    found = rows.select(_GROUP).append_column(_SAME, same).group_by(names).aggregate([([], "count_all")])
    return list(found.to_pylist())
