"""Says what new events do: a grant may lift a withdrawal, and grants that have ended already, expiries and withdrawals
of sources do less, or more, than somebody who records one may think.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from facelake.admit.rules import Ledger
from facelake.contracts import EventKind, Refusal, Scope, reference
from facelake.lake.lake import Lake
from facelake.plural import counted
from facelake.stages.admission.known_references import Known, also_ended, without_photos
from facelake.stages.admission.ledger import Entry, ledger_of
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.lifted_withdrawals import has_ended, lifted, lifted_in_words
from facelake.stages.admission.shared_references import of_several_sources


def effects(lake: Lake, known: Known | None, entries: Sequence[Entry], now: datetime) -> Iterator[str]:
    """Yield what somebody who records events should know: withdrawals that a grant lifts, grants that end nothing or
    come before their photos, other references that are nearly those that are named, and subjects of several sources.

    Args:
        lake: the lake, before the events are recorded.
        known: what it has, with the sources of the subjects; None: the references are not compared with it.
        entries: the new events.
        now: the time.
    """
    rows = ledger_rows(lake)[0]
    ledger = ledger_of(rows)
    for entry, at in lifted(rows, entries, now).items():
        yield lifted_in_words(entry, at)
    if known is not None:
        yield from also_ended(known, entries)
        yield from (text for _, text in without_photos(known, entries))
        yield from of_several_sources(known)
        yield from _of_withdrawn_sources(ledger, known, entries, now)
    yield from (text for _, text in what_ends(ledger, entries, now))


def _of_withdrawn_sources(ledger: Ledger, known: Known, entries: Iterable[Entry], now: datetime) -> Iterator[str]:
    """Yield a sentence for each new grant of a subject that the withdrawal of a source leaves without effect."""
    for entry in entries:
        if entry.kind is not EventKind.GRANT or entry.scope is not Scope.SUBJECT:
            continue
        for source in sorted(known.sources_of.get(reference(entry.key), ())):
            reasons = {ledger.standing(Scope.SOURCE, source, purpose, now).reason for purpose in entry.purposes}
            if Refusal.WITHDRAWN in reasons:
                yield (
                    f"the source {source!r} is withdrawn: its photos of {entry.key!r} stay refused, whatever is "
                    f"granted to this subject; `facelake ledger grant --source {source}` lifts that for everyone"
                )


def what_ends(ledger: Ledger, entries: Iterable[Entry], now: datetime) -> Iterator[tuple[Entry, str]]:
    """Yield each new event that ends a basis at once, except withdrawals of subjects, with a sentence on its effect.

    Args:
        ledger: before the events are recorded.
        entries: the new events.
        now: the time.
    """
    for entry in entries:
        if entry.kind is not EventKind.GRANT and entry.valid_from and entry.valid_from > now:
            what = f"this {entry.kind} of the {entry.scope} {entry.key!r} takes effect on {entry.valid_from:%F} only"
            yield entry, f"{what}: until then its photos are processed"
        elif entry.kind is EventKind.EXPIRE and (entry.valid_from is None or entry.valid_from <= now):
            yield entry, f"the expiry of the {entry.scope} {entry.key!r} {_effect(ledger, entry, now)}"
        elif entry.kind is EventKind.GRANT and has_ended(entry, now):
            start = f"this grant of the {entry.scope} {entry.key!r} ended on {entry.valid_until:%F}: it"
            yield entry, f"{start} {_effect(ledger, entry, now)}"
        elif entry.kind is EventKind.WITHDRAW and (own := _with_own_grants(ledger, entry, now)):
            what = f"the withdrawal of the source {entry.key!r} holds for all its photos, also those of people with a"
            instead = f"`facelake ledger expire --source {entry.key}` ends the grant of the source only"
            yield entry, f"{what} grant of their own (the ledger has {counted(own, 'person', 'people')}); {instead}"


def _with_own_grants(ledger: Ledger, entry: Entry, now: datetime) -> int:
    if entry.scope is not Scope.SOURCE:
        return 0
    purposes = entry.purposes or sorted(ledger.purposes())
    return len(set[str]().union(*(ledger.granted_subjects(purpose, now) for purpose in purposes)))


def _effect(ledger: Ledger, entry: Entry, now: datetime) -> str:
    purposes = entry.purposes or sorted(ledger.purposes())
    standing = [ledger.standing(entry.scope, entry.key, purpose, now) for purpose in purposes]
    stands = any(verdict.admitted for verdict in standing)
    if not stands and any(verdict.reason is Refusal.WITHDRAWN for verdict in standing):
        return f"changes nothing: the withdrawal of this {entry.scope} stays in force"
    if entry.scope is Scope.SOURCE:
        if stands:
            return "ends the earlier one, and the next run refuses the photos but for those of subjects with a grant"
        return "changes nothing: there was no grant of this source in force"
    what = "ends the earlier grant of this subject" if stands else "changes nothing: this subject had no grant in force"
    withdraw = f"`facelake ledger withdraw --subject {entry.key}` ends their use too"
    return f"{what}. Photos of a source whose grant covers everyone stay; {withdraw}"
