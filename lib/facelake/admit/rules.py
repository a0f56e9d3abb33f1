"""The admission rules: from ledger events, a purpose and a moment to one decision per image. Pure functions.

Fails closed: an image without a recorded, valid basis for exactly this purpose is refused.

1. An erased image or subject is refused; so is an image of a withdrawn data set or of a source that is a web scrape,
   CCTV or of unknown origin, regardless of grants. A source that any event stated to be of such a class stays refused.
2. A withdrawal in force (one not followed by a newer grant of the same scope and key) of the image's source
   or subject refuses it, for the withdrawn purposes or, if none are named, for all. An expiry lifts no withdrawal.
   The withdrawal of a subject refuses every photo with the same bytes too, whomever that names.
3. Otherwise it is admitted if its source or its subject has a grant in force for the purpose; of several grants for
   the same key and purpose the newest that has begun decides. If no such grant covers everyone depicted, only the named
   subject may be encoded; an image without a subject_ref is refused then.
4. Otherwise it is refused with the reason nearest to admission: another purpose, expired, not yet valid, no basis.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import REFUSED_CLASSES, Covers, EventKind, Refusal, Scope, SourceClass, label, reference


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
    covers: Covers | None = None
    source_class: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Admitted (no reason) or refused, and whose faces in the photo an admission covers."""

    reason: Refusal | None
    covers: Covers = Covers.EVERYONE

    @property
    def admitted(self) -> bool:
        """True when the image may be processed."""
        return self.reason is None


_DEFAULT_COVERS = {Scope.SOURCE: Covers.EVERYONE, Scope.SUBJECT: Covers.NAMED}
# nearest to admission first: the reason that an operator can most easily resolve is reported
_NEAREST_FIRST = (Refusal.OTHER_PURPOSE, Refusal.EXPIRED, Refusal.NOT_YET_VALID, Refusal.NO_BASIS)


class Ledger:
    """The events by scope and key, in order of their sequence numbers."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._by_key: dict[tuple[Scope, str], list[Event]] = defaultdict(list)
        for event in sorted(events, key=lambda e: e.seq):
            self._by_key[event.scope, reference(event.key)].append(event)

    def standing(self, scope: Scope, key: str | None, purpose: str, now: datetime) -> Decision:
        """The decision from the events of one key alone. Later events override earlier ones."""
        verdict: Refusal | None = Refusal.NO_BASIS
        covers = Covers.EVERYONE
        for event in self._by_key.get((scope, reference(key or "")), ()):
            if event.kind is EventKind.GRANT:
                grant = _grant_verdict(event, purpose, now)
                verdict = _after_grant(verdict, grant)
                covers = covers if grant else event.covers or _DEFAULT_COVERS[scope]
            elif _ends_now(event, purpose, now) and verdict is not Refusal.WITHDRAWN:  # only a newer grant lifts one
                verdict = Refusal.WITHDRAWN if event.kind is EventKind.WITHDRAW else Refusal.EXPIRED
        return Decision(verdict, covers)

    def withdrawn_subjects(self, purpose: str, now: datetime) -> set[str]:
        """The subjects with a withdrawal in force for the purpose."""
        subjects = [key for scope, key in self._by_key if scope is Scope.SUBJECT]
        return {key for key in subjects if self.standing(Scope.SUBJECT, key, purpose, now).reason is Refusal.WITHDRAWN}

    def withdrawing_subjects(self, purposes: Iterable[str], now: datetime) -> set[str]:
        """The subjects with a withdrawal, in force or beginning later, for one of the purposes or one that it names."""
        found = set()
        for (scope, key), events in self._by_key.items():
            named = [event.purposes for event in events if event.kind is EventKind.WITHDRAW]
            if scope is Scope.SUBJECT and named:
                asked, moments = {*purposes}.union(*named), self.moments(scope, key, now)
                verdicts = (self.standing(scope, key, purpose, at).reason for purpose in asked for at in moments)
                found |= {key} if Refusal.WITHDRAWN in verdicts else set()
        return found

    def moments(self, scope: Scope, key: str, now: datetime) -> list[datetime]:
        """Now, and the later moments at which recorded withdrawals of a key begin."""
        events = self._by_key.get((scope, reference(key)), ())
        begins = (event.valid_from for event in events if event.kind is EventKind.WITHDRAW)
        return [now, *sorted({moment for moment in begins if moment is not None and moment > now})]

    def granted_subjects(self, purpose: str, now: datetime) -> set[str]:
        """The subjects with a grant of their own in force for the purpose."""
        subjects = [key for scope, key in self._by_key if scope is Scope.SUBJECT]
        return {key for key in subjects if self.standing(Scope.SUBJECT, key, purpose, now).admitted}

    def purposes(self) -> set[str]:
        """The purposes that any grant names."""
        events = (event for events in self._by_key.values() for event in events)
        return {purpose for event in events if event.kind is EventKind.GRANT for purpose in event.purposes}

    def source_class(self, source: str | None) -> str | None:
        """The first class stated for the source that is refused, else the newest one; None if no event states one."""
        events = self._by_key.get((Scope.SOURCE, reference(source or "")), ())
        stated = [event.source_class for event in events if event.source_class]
        return next(filter(is_refused_class, stated), stated[-1] if stated else None)


def is_refused_class(name: str) -> bool:
    """Whether photos of a source of this class are never processed: scraped, CCTV, unknown or not a known class."""
    return name not in set(SourceClass) - REFUSED_CLASSES


def _ends_now(event: Event, purpose: str, now: datetime) -> bool:
    """Whether a withdrawal or expiry applies to the purpose (or to all purposes) and has begun."""
    return (event.valid_from is None or event.valid_from <= now) and (not event.purposes or purpose in event.purposes)


def _after_grant(verdict: Refusal | None, grant: Refusal | None) -> Refusal | None:
    """The verdict after a newer grant: the newest one that has begun and names the purpose decides.

    So a shorter grant shortens an open-ended one. A grant that begins later or is for another purpose does not change
    the verdict, and only a grant in force lifts a withdrawal.
    """
    if grant is None:
        return None
    if verdict is Refusal.WITHDRAWN or (verdict is None and grant is not Refusal.EXPIRED):
        return verdict
    return grant if verdict is None else min(verdict, grant, key=_NEAREST_FIRST.index)


def _grant_verdict(event: Event, purpose: str, now: datetime) -> Refusal | None:
    ends = [moment for moment in (event.valid_until, event.destroy_by) if moment is not None]
    if purpose not in event.purposes:
        return Refusal.OTHER_PURPOSE
    if event.valid_from is not None and event.valid_from > now:
        return Refusal.NOT_YET_VALID
    if ends and min(ends) <= now:
        return Refusal.EXPIRED
    return None


def decide(
    ledger: Ledger,
    source: str | None,
    subject: str | None,
    purpose: str,
    now: datetime,
    source_class: str | None = None,
) -> Decision:
    """Decide for one (source, subject) pair; all images of the pair share the decision.

    Args:
        source_class: as stated in the corpus, if it is.
    """
    classes = [name for name in (source_class, ledger.source_class(source)) if name]
    if any(map(is_refused_class, classes)):
        return Decision(Refusal.SOURCE_CLASS)
    no_basis = Decision(Refusal.NO_BASIS)
    of_source = ledger.standing(Scope.SOURCE, source, purpose, now) if source else no_basis
    of_subject = ledger.standing(Scope.SUBJECT, subject, purpose, now) if subject else no_basis
    reasons = [of_source.reason, of_subject.reason]
    if Refusal.WITHDRAWN in reasons:
        return Decision(Refusal.WITHDRAWN)
    granted = [standing.covers for standing in (of_source, of_subject) if standing.admitted]
    if not granted:
        return Decision(min((reason for reason in reasons if reason), key=_NEAREST_FIRST.index))
    if Covers.EVERYONE in granted:
        return Decision(None)
    return Decision(None, Covers.NAMED) if subject else no_basis


@dataclass(frozen=True, slots=True)
class Decisions:
    """Per row of a corpus file the refusal reason (null: admitted) and what an admission covers (null: refused)."""

    reasons: pa.Array
    covers: pa.Array


def decide_rows(
    rows: pa.Table,
    ledger: Ledger,
    purpose: str,
    now: datetime,
    *,
    duplicate: np.ndarray,
    erased: Callable[[str], bool] | None,
    retracted: Sequence[str | None] | None = None,
    withdrawn: np.ndarray | None = None,
) -> Decisions:
    """Decide for every row of a corpus file.

    Args:
        rows: image_id, source_id, subject_ref, source_class (strings, nullable).
        duplicate: bool per row, true if an earlier row of the corpus has the same image_id.
        erased: whether `image:`, `subject:` or `source:` followed by an identifier is on the suppression list; None if
            the list is empty.
        retracted: per row the withdrawn data set that it is recognised as, or None.
        withdrawn: bool per row, true if a photo with the same bytes is of a subject who has withdrawn.
    """
    names = ["source_id", "subject_ref", "source_class"]
    triples = list(zip(*(rows[name].to_pylist() for name in names), strict=True))
    verdicts = {(a, b, c): decide(ledger, a, b, purpose, now, c) for a, b, c in set(triples)}
    reasons: list[Refusal | None] = [verdicts[triple].reason for triple in triples]
    for i in np.flatnonzero(withdrawn).tolist() if withdrawn is not None else ():
        reasons[i] = reasons[i] or Refusal.WITHDRAWN
    for i, name in enumerate(retracted or ()):
        if name:
            reasons[i] = Refusal.RETRACTED
    if erased:
        for i in _erased_rows(rows["image_id"].to_pylist(), triples, erased):
            reasons[i] = Refusal.ERASED
    blank = pc.fill_null(pc.equal(pc.utf8_length(rows["image_id"]), 0), True).to_numpy(zero_copy_only=False)
    for i in np.flatnonzero(blank).tolist():
        reasons[i] = Refusal.NO_ID
    for i in np.flatnonzero(duplicate & ~blank).tolist():
        reasons[i] = Refusal.DUPLICATE_ID
    covers = [None if why else verdicts[triple].covers for why, triple in zip(reasons, triples, strict=True)]
    return Decisions(pa.array(reasons, pa.string()), pa.array(covers, pa.string()))


def _erased_rows(
    idents: Sequence[str | None],
    triples: Sequence[tuple[str | None, str | None, str | None]],
    erased: Callable[[str], bool],
) -> Iterator[int]:
    """Rows whose image, subject or source is on the suppression list."""
    sources = {source for source, _, _ in triples if source and erased(label("source", source))}
    subjects = {subject for _, subject, _ in triples if subject and erased(label("subject", subject))}
    for i, (ident, (source, subject, _)) in enumerate(zip(idents, triples, strict=True)):
        if subject in subjects or source in sources or (ident and erased(label("image", ident))):
            yield i
