"""The rules of the ledger. Pure: events, a purpose and a moment in; one decision per image out.

Fails closed: whatever is not allowed by a recorded, valid basis for the very purpose is refused.

1. An erased image or subject is refused.
2. A standing withdrawal (one not followed by a newer grant of the same scope and key) of the image's source
   or subject refuses it, for the withdrawn purposes or, when none are named, for all.
3. Otherwise it is admitted if its source or its subject has a grant in force for the purpose; of several grants of
   one of them for the purpose the newest that has begun decides.
4. Otherwise it is refused with the nearest miss: another purpose, expired, not yet valid, no basis.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import EventKind, Refusal, Scope


@dataclass(frozen=True, slots=True)
class Event:
    """One legal-basis event of the ledger."""

    seq: int
    kind: EventKind
    scope: Scope
    key: str
    purposes: frozenset[str] = frozenset()
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    destroy_by: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Admitted (no reason) or refused."""

    reason: Refusal | None

    @property
    def admitted(self) -> bool:
        """True when the image may be processed."""
        return self.reason is None


ADMIT = Decision(None)
# nearest miss first: what an operator can most easily put right
_MISSES = (Refusal.OTHER_PURPOSE, Refusal.EXPIRED, Refusal.NOT_YET_VALID, Refusal.NO_BASIS)


class Ledger:
    """The events by scope and key, in order."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._by_key: dict[tuple[Scope, str], list[Event]] = defaultdict(list)
        for event in sorted(events, key=lambda e: e.seq):
            self._by_key[event.scope, event.key].append(event)

    def standing(self, scope: Scope, key: str | None, purpose: str, now: datetime) -> Refusal | None:
        """None when a grant is in force; else why not. Later events override earlier ones of the same key."""
        verdict: Refusal | None = Refusal.NO_BASIS
        for event in self._by_key.get((scope, key or ""), ()):
            if event.kind is EventKind.GRANT:
                verdict = _after_grant(verdict, _grant_verdict(event, purpose, now))
            elif _ends_now(event, purpose, now):
                verdict = Refusal.WITHDRAWN if event.kind is EventKind.WITHDRAW else Refusal.EXPIRED
        return verdict


def _ends_now(event: Event, purpose: str, now: datetime) -> bool:
    """A withdrawal or expiry that speaks about the purpose (or about all) and has begun."""
    return (event.valid_from is None or event.valid_from <= now) and (not event.purposes or purpose in event.purposes)


def _after_grant(verdict: Refusal | None, grant: Refusal | None) -> Refusal | None:
    """The verdict after a newer grant: the newest one that has begun and names the purpose decides.

    So a shorter grant shortens an open-ended one. One that lies ahead or is for something else changes nothing that is
    in force, and only a grant in force lifts a withdrawal.
    """
    if grant is None:
        return None
    if verdict is Refusal.WITHDRAWN or (verdict is None and grant is not Refusal.EXPIRED):
        return verdict
    return grant if verdict is None else min(verdict, grant, key=_MISSES.index)


def _grant_verdict(event: Event, purpose: str, now: datetime) -> Refusal | None:
    ends = [moment for moment in (event.valid_until, event.destroy_by) if moment is not None]
    if purpose not in event.purposes:
        return Refusal.OTHER_PURPOSE
    if event.valid_from is not None and event.valid_from > now:
        return Refusal.NOT_YET_VALID
    if ends and min(ends) <= now:
        return Refusal.EXPIRED
    return None


def decide(ledger: Ledger, source: str | None, subject: str | None, purpose: str, now: datetime) -> Decision:
    """Decide for one (source, subject) pair; the image itself plays no part."""
    of_source = ledger.standing(Scope.SOURCE, source, purpose, now) if source else Refusal.NO_BASIS
    of_subject = ledger.standing(Scope.SUBJECT, subject, purpose, now) if subject else Refusal.NO_BASIS
    if Refusal.WITHDRAWN in (of_source, of_subject):
        return Decision(Refusal.WITHDRAWN)
    if of_source is None or of_subject is None:
        return ADMIT
    return Decision(min(of_source, of_subject, key=_MISSES.index))


def decide_rows(
    rows: pa.Table,
    ledger: Ledger,
    purpose: str,
    now: datetime,
    duplicate: np.ndarray,
    erased: Callable[[str], bool],
    suppression_empty: bool,
) -> pa.Array:
    """Refusal reason per row (null: admitted).

    Args:
        rows: image_id, source_id, subject_ref (strings, nullable).
        duplicate: bool per row: an earlier row of the corpus has the same image_id.
        erased: tells whether `image:`, `subject:` or `source:` with an identifier is on the suppression list.
        suppression_empty: skips asking `erased` at all.
    """
    pairs = rows.select(["source_id", "subject_ref"]).group_by(["source_id", "subject_ref"]).aggregate([])
    verdicts: Mapping[tuple[str | None, str | None], str | None] = {
        (source, subject): decide(ledger, source, subject, purpose, now).reason
        for source, subject in zip(*(column.to_pylist() for column in pairs.columns), strict=True)
    }
    sources, subjects = rows["source_id"].to_pylist(), rows["subject_ref"].to_pylist()
    reasons = [verdicts[pair] for pair in zip(sources, subjects, strict=True)]
    if not suppression_empty:
        gone_subjects = {subject for subject in set(subjects) if subject and erased("subject:" + subject)}
        gone_sources = {source for source in set(sources) if source and erased("source:" + source)}
        everyone = zip(rows["image_id"].to_pylist(), sources, subjects, strict=True)
        for i, (ident, source, subject) in enumerate(everyone):
            if subject in gone_subjects or source in gone_sources or (ident and erased("image:" + ident)):
                reasons[i] = Refusal.ERASED
    blank = pc.fill_null(pc.equal(pc.utf8_length(rows["image_id"]), 0), True).to_numpy(zero_copy_only=False)
    for i in np.flatnonzero(blank).tolist():
        reasons[i] = Refusal.NO_ID
    for i in np.flatnonzero(duplicate & ~blank).tolist():
        reasons[i] = Refusal.DUPLICATE_ID
    return pa.array(reasons, pa.string())
