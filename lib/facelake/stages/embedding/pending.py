"""What the admissions do not know yet: photos added to the corpus, and events of the ledger, since `admit` last ran."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit.rules import decide
from facelake.config import Config
from facelake.contracts import Covers, Refusal
from facelake.lake.corpora.opening import INDEX
from facelake.lake.lake import Lake
from facelake.plural import counted
from facelake.stages.admission.ledger import ledger_of, present_time
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.losses import has_grants
from facelake.stages.admission.same_photos import CONTENT, withdrawn_contents
from facelake.stages.embedding.corpus_size import CorpusSize
from facelake.stages.embedding.not_faces import Marks

_BY_LEDGER = (Refusal.NO_BASIS, Refusal.EXPIRED, Refusal.NOT_YET_VALID, Refusal.OTHER_PURPOSE, Refusal.WITHDRAWN)
_GROUP = ["source_id", "subject_ref", "admitted", "reason", "covers"]
_OWNER = ["subject_ref", CONTENT]
_SAME = "same_as_withdrawn"
_AGAIN = "the ledger covers other people in them now, or a mark of what is no face changed"
_NOT_EMBEDDED = "without a legal basis or with the bytes of a known photo are not embedded"
_SLIP = "check `purpose` and the dates in `facelake ledger list`, or see `facelake nightly --accept-loss`"
_NEXT = "`facelake admit`, the first stage of `facelake nightly`, lists and checks them; then ask again"


@dataclass(frozen=True, slots=True)
class Pending:
    """What the next `admit` has to do.

    Attributes:
        photos: photos of the corpus that were not checked against the ledger.
        allowed: photos that it refused and that the present ledger allows.
        ended: photos that it admitted and that the present ledger refuses.
        again: photos that it admitted and that are embedded again: the present ledger covers other people in them than
            before, or a mark of what is not a face changed.
        files: corpus files that were not listed, where their photos cannot be counted without reading them.
        emptied: rows of the lake's own corpus that an erasure or a replacement left behind.
        stops: whether the next run stops because so many are refused for another reason than a withdrawal.
    """

    photos: int = 0
    allowed: int = 0
    ended: int = 0
    again: int = 0
    files: int = 0
    emptied: int = 0
    stops: bool = False

    @classmethod
    def of(cls, lake: Lake, corpus: CorpusSize, config: Config, now: datetime, done: int) -> Pending:
        """Compare the admissions with the corpus and the ledger as they are.

        By numbers of photos: as many photos added as removed are not noticed, nor is new content of a known photo.

        Args:
            lake: the lake.
            corpus: as it is.
            config: the config.
            now: moment of the decisions.
            done: admitted photos with an outcome; others are not embedded again.
        """
        decisions = _Decisions.of(lake, config.purpose, now)
        # of listed photos that were erased, rows may be gone: they are left out on both sides
        known = decisions.photos - (decisions.erased if corpus.listed else 0)
        listed = sum(1 for file in lake[INDEX].snapshot().files if file.rows)
        files = max(0, corpus.files - listed) if corpus.by_index else 0
        new = max(0, corpus.images - corpus.erased - known)
        lost, kept = decisions.ended - decisions.withdrawn, decisions.kept + decisions.allowed
        return cls(
            new,
            decisions.allowed,
            decisions.ended,
            min(decisions.other_cover + Marks.of(lake).photos_to_reopen(lake), done),
            files,
            decisions.emptied,
            stops=lost > config.most_lost * (lost + kept),
        )

    def texts(self) -> list[str]:
        """Return sentences for the operator; none if nothing is pending."""
        last, aside = "the last `facelake admit`", "`to embed` does not count them"
        counts = (
            (self.photos, "photo", f"new since {last}; {aside}, and those {_NOT_EMBEDDED}"),
            (self.files, "corpus file", f"new since {last}; {aside}"),
            (self.allowed, "photo", f"refused by {last}, allowed by the ledger now; {aside}"),
            (self.again, "photo", f"to embed again: {_AGAIN}; {aside}"),
            (self.ended, "photo", f"admitted by {last}, refused by the ledger now: the next run removes their faces"),
        )
        said = [f"{counted(count, noun)} {text}" for count, noun, text in counts if count]
        if self.stops:
            said += [f"so many that the next run stops before it removes any of them; {_SLIP}"]
        return [*said, _NEXT] if said else []


@dataclass(slots=True)
class _Decisions:
    """The decisions of the last `admit`, compared with the present ledger.

    Attributes:
        photos: all photos.
        erased: those that it refused as erased.
        allowed: those that it refused and the ledger allows.
        ended: those that it admitted and the ledger refuses.
        withdrawn: those of them that are withdrawn.
        kept: those that it admitted and the ledger allows.
        other_cover: those of them in which the ledger covers other people than it did.
        emptied: rows that are no photo any more.
    """

    photos: int = 0
    erased: int = 0
    allowed: int = 0
    ended: int = 0
    withdrawn: int = 0
    kept: int = 0
    other_cover: int = 0
    emptied: int = 0

    @classmethod
    def of(cls, lake: Lake, purpose: str, now: datetime) -> _Decisions:
        """Decide again for the photos of each source and subject; see LedgerState.barred_images, which does so too."""
        rows, _ = ledger_rows(lake)
        ledger, now = ledger_of(rows), present_time(lake, rows, now)
        known_purpose = has_grants(ledger, purpose)
        table, found = lake["admissions"], cls()
        withdrawn = withdrawn_contents((part for _, part in table.parts(_OWNER)), ledger, purpose, now)
        for _, part in table.parts([*_GROUP, *([CONTENT] if len(withdrawn) else [])]):
            for row in _grouped(part, withdrawn):
                count, reason = row["count_all"], row["reason"]
                decision = decide(ledger, row["source_id"], row["subject_ref"], purpose, now)
                may = decision.admitted and not row[_SAME]
                ended_by_person = row[_SAME] or (decision.reason is Refusal.WITHDRAWN and known_purpose)
                found.photos += count
                found.erased += count if reason == Refusal.ERASED else 0
                found.emptied += count if reason == Refusal.EMPTIED else 0
                found.allowed += count if may and reason in _BY_LEDGER else 0
                if row["admitted"]:
                    found.kept += count if may else 0
                    same = decision.covers == (row["covers"] or Covers.EVERYONE)
                    found.other_cover += count if may and not same else 0
                    found.ended += 0 if may else count
                    found.withdrawn += count if ended_by_person else 0
        return found


def _grouped(rows: pa.Table, withdrawn: pa.Array) -> list[dict[str, Any]]:
    """Return the number of photos by _GROUP, and by whether their bytes are those of a withdrawn photo."""
    same = pc.is_in(rows[CONTENT], withdrawn) if len(withdrawn) else pa.array(np.zeros(rows.num_rows, bool))
    names = [*_GROUP, _SAME]
    found = rows.select(_GROUP).append_column(_SAME, same).group_by(names).aggregate([([], "count_all")])
    return list(found.to_pylist())
