"""What the admissions do not know yet: photos added to the corpus, and events of the ledger, since `admit` last ran."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from facelake.admit.rules import decide
from facelake.contracts import Refusal
from facelake.lake.corpora.opening import INDEX
from facelake.lake.lake import Lake
from facelake.plural import counted
from facelake.stages.admission.ledger import ledger_of, present_time
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.core.context import last_run
from facelake.stages.embedding.corpus_size import CorpusSize

_BY_LEDGER = (Refusal.NO_BASIS, Refusal.EXPIRED, Refusal.NOT_YET_VALID, Refusal.OTHER_PURPOSE, Refusal.WITHDRAWN)
_GROUP = ["source_id", "subject_ref", "admitted", "reason"]
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
        erased = json.loads((last_run(lake, "admit") or {}).get("counts") or "{}").get("left_out_erased", 0)
        known = lake["admissions"].snapshot().rows + erased
        listed = sum(1 for file in lake[INDEX].snapshot().files if file.rows)
        files = max(0, corpus.files - listed) if corpus.by_index else 0
        return cls(max(0, corpus.images - known), *_other_decisions(lake, purpose, now), files)

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


def _other_decisions(lake: Lake, purpose: str, now: datetime) -> tuple[int, int]:
    """Return how many refused photos the present ledger allows, and how many admitted ones it refuses."""
    rows, _ = ledger_rows(lake)
    ledger, now = ledger_of(rows), present_time(lake, rows, now)
    allowed = ended = 0
    for _, part in lake["admissions"].parts(_GROUP):
        for row in part.group_by(_GROUP).aggregate([([], "count_all")]).to_pylist():
            may = decide(ledger, row["source_id"], row["subject_ref"], purpose, now).admitted
            ended += 0 if may or not row["admitted"] else row["count_all"]
            allowed += row["count_all"] if may and row["reason"] in _BY_LEDGER else 0
    return allowed, ended
