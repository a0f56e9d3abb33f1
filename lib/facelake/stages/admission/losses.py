"""Stops a run that would remove a large share of what it has because of a slip in purpose or dates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit import Ledger
from facelake.contracts import Refusal
from facelake.errors import Refused
from facelake.stages.admission.shrinking import hashed
from facelake.stages.core.context import Context

_DELIBERATE = pa.array([None, Refusal.WITHDRAWN, Refusal.ERASED, Refusal.NO_ID, Refusal.EMPTIED], pa.string())


@dataclass(slots=True)
class Losses:
    """Photos that were admitted before and are refused now, except by a withdrawal or an erasure.

    Those two are decisions about people that must take effect. The others are as likely a slip: a mistyped purpose, a
    grant whose end lies in the past. Photos are compared by id, since they may lie in other files than before.
    """

    _photos: list[np.ndarray] = field(default_factory=list)
    _reasons: list[str] = field(default_factory=list)
    _sources: list[str] = field(default_factory=list)

    def refused(self, rows: pa.Table, decided: pa.Table) -> None:
        """Add the refused photos of a corpus file whose decisions changed.

        Args:
            rows: source_id and image_id of the file.
            decided: the decisions, in the same order.
        """
        lost = pc.invert(pc.is_in(decided["reason"], _DELIBERATE))
        own = rows.filter(lost)
        self._photos.append(hashed(own["image_id"]))
        self._reasons += decided["reason"].filter(lost).to_pylist()
        self._sources += own["source_id"].to_pylist()

    def check(self, context: Context, ledger: Ledger, before: Iterable[pa.Table], admitted: int) -> None:
        """Stop a run that would remove a large share of what it has.

        Args:
            context: of the run.
            ledger: for the error.
            before: image_id and admitted of the decisions that are replaced.
            admitted: number of photos that are admitted now.

        Raises:
            Refused: the share is above the config's; it says why the photos would be lost.
        """
        refused = np.concatenate([np.zeros(0, np.uint64), *self._photos])
        known = [hashed(rows["image_id"].filter(rows["admitted"])) for rows in before]
        lost = np.flatnonzero(np.isin(refused, np.concatenate([np.zeros(0, np.uint64), *known])))
        config = context.config
        if not len(lost) or len(lost) <= config.most_lost * (len(lost) + admitted):
            return
        counted = Counter(self._reasons[i] for i in lost)
        reasons = ", ".join(f"{reason} {count}" for reason, count in counted.most_common())
        source, _ = Counter(self._sources[i] for i in lost).most_common(1)[0]
        purposes = ", ".join(sorted(ledger.purposes())) or "none"
        total = len(lost) + admitted
        what = f"this run would remove the faces of {len(lost)} of {total} admitted photos: {reasons}; most of them "
        what += f"of source {source!r}. Its purpose is {config.purpose!r}; the ledger has grants for: {purposes}"
        check = "the classes (`source_class`)" if counted[Refusal.SOURCE_CLASS] else "`purpose` and the dates"
        next_step = f"check {check} in `facelake ledger list`; nothing was removed. If the loss is "
        next_step += "intended, run `facelake nightly --accept-loss` with the same other options"
        raise Refused(what, where="admit", next_step=next_step)
