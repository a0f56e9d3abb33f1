"""Stops a run that would remove a large share of what it has because of a slip in purpose or dates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit import Ledger
from facelake.contracts import I32, I64, Refusal
from facelake.distinct import among, union
from facelake.errors import Refused
from facelake.stages.core.context import Context
from facelake.stages.core.known_ids import U64, hashed

# of a repeated id the first photo counts, which has a reason of its own if it is refused; repeated ids, also those that
# only have one hash (decision_tasks.Hashed), are in the run's counts as refused_duplicate_id
_NO_LOSS = (Refusal.ERASED, Refusal.NO_ID, Refusal.EMPTIED, Refusal.DUPLICATE_ID)
_DELIBERATE = pa.array([None, *_NO_LOSS], pa.string())


@dataclass(frozen=True, slots=True)
class Lost:
    """Photos of a corpus file that are refused for a reason that may be a slip.

    Attributes:
        photos: (n,) hashes of their ids.
        reasons: (n,) positions of their reasons in the first list of `names`.
        sources: (n,) positions of their sources in the second.
        names: two lists as JSON.
    """

    photos: U64
    reasons: I32
    sources: I32
    names: str

    @classmethod
    def none(cls) -> Lost:
        """Return no photos."""
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int32), "[[], []]")

    @classmethod
    def of(cls, rows: pa.Table, decided: pa.Table) -> Lost:
        """Return the refused photos of a corpus file whose decisions changed.

        Args:
            rows: source_id and image_id of the file.
            decided: the decisions, in the same order.
        """
        lost = pc.invert(pc.is_in(decided["reason"], _DELIBERATE))
        own = rows.filter(lost)
        reasons, whys = _coded(decided["reason"].filter(lost))
        sources, names = _coded(own["source_id"])
        return cls(hashed(own["image_id"]), reasons, sources, json.dumps([whys, names]))


def _coded(column: pa.ChunkedArray) -> tuple[I32, list[str | None]]:
    coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return coded.indices.to_numpy().astype(np.int32), coded.dictionary.to_pylist()


def has_grants(ledger: Ledger, purpose: str) -> bool:
    """Return whether any grant names a purpose: else it is mistyped, and no withdrawal was decided for it."""
    return purpose in ledger.purposes()


@dataclass(slots=True)
class Losses:
    """Photos that were admitted before and are refused now, except by a withdrawal or an erasure.

    Those two are decisions about people that must take effect. The others are as likely a slip: a mistyped purpose, a
    grant whose end lies in the past. A withdrawal counts as a slip, too, for a purpose that no grant names: a
    withdrawal for all purposes stays in force there, though a later grant lifted it for the right one. Photos are
    compared by id, since they may lie in other files than before.
    """

    _photos: list[U64] = field(default_factory=list)
    _reasons: list[I32] = field(default_factory=list)
    _sources: list[I32] = field(default_factory=list)
    _names: dict[tuple[int, str | None], int] = field(default_factory=dict)
    """number of each reason (0) and source (1)"""

    def add(self, lost: Lost) -> None:
        """Add the photos of a corpus file."""
        if not len(lost.photos):
            return
        self._photos.append(lost.photos)
        kinds = ((lost.reasons, self._reasons), (lost.sources, self._sources))
        for kind, (names, (codes, all_codes)) in enumerate(zip(json.loads(lost.names), kinds, strict=True)):
            numbers = [self._names.setdefault((kind, name), len(self._names)) for name in names]
            all_codes.append(np.array(numbers, np.int32)[codes])

    def _counted(self, codes: list[I32], lost: I64) -> list[tuple[str | None, int]]:
        """Return names and numbers of photos, most first."""
        name_of = {number: name for (_, name), number in self._names.items()}
        counts = Counter(np.concatenate(codes)[lost].tolist())
        return [(name_of[number], count) for number, count in counts.most_common()]

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
        counts = among(refused, union(np.zeros(0, np.uint64), *known))
        if (code := self._names.get((0, Refusal.WITHDRAWN))) is not None and has_grants(ledger, context.config.purpose):
            counts &= np.concatenate(self._reasons) != code
        lost = np.flatnonzero(counts)
        config = context.config
        if not len(lost) or len(lost) <= config.most_lost * (len(lost) + admitted):
            return
        counted = self._counted(self._reasons, lost)
        reasons = ", ".join(f"{reason} {count}" for reason, count in counted)
        source, _ = self._counted(self._sources, lost)[0]
        purposes = ", ".join(sorted(ledger.purposes())) or "none"
        total = len(lost) + admitted
        what = f"this run would remove the faces of {len(lost)} of {total} admitted photos: {reasons}; most of them "
        what += f"of source {source!r}. Its purpose is {config.purpose!r}; the ledger has grants for: {purposes}"
        check = "the classes (`source_class`)" if Refusal.SOURCE_CLASS in dict(counted) else "`purpose` and the dates"
        next_step = f"check {check} in `facelake ledger list`; nothing was removed. If the loss is "
        next_step += "intended, run `facelake nightly --accept-loss` with the same other options"
        raise Refused(what, where="admit", next_step=next_step)
