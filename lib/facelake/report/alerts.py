"""Rules that turn the figures of a run into alerts, each with a next step. Pure functions.

A rule that needs a usual value compares with the median of the earlier runs, and is silent while there are fewer than
two of them. The thresholds of all rules are the constants below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from facelake.contracts import Refusal
from facelake.plural import counted
from facelake.report.histograms import format_share, median
from facelake.report.lost_faces import LOST_BY_REQUEST, REFUSED, VANISHED, lost_in_words
from facelake.report.model import Alert, RunFigures, StageCost

ACT, LOOK, KNOW = "act", "look", "know"
BY_REQUEST = (Refusal.WITHDRAWN, Refusal.ERASED)
"""reasons for refusing photos that people asked for: their number is no sign of a mistake"""
_MIN_EARLIER_RUNS = 2  # needed to know what is usual
_MIN_RISE = 10  # identities or faces by which a share must rise: in a small gallery a few are a large share
_RISE_ABSOLUTE, _RISE_FACTOR = 0.05, 2.0  # a share is unusual when it exceeds the usual one by both
_MIN_COUNT = 20  # photos or faces below which a share is not significant
_MAX_LOST_SHARE = 0.1  # of the faces, from one run to the next
_MAX_CHANGED_SHARE = 0.02  # of the identities merged or split in one run
_MIN_CHANGED = 5
_MAX_REVIEWS_PER_IDENTITY = 0.05
_MIN_REVIEWS = 50
_SLOW_FACTOR = 2.0  # times the expected seconds
_SLOW_MIN_S = 60.0
_MEMORY_FACTOR = 1.5  # times the usual memory
_SOON_DAYS = 30
_DRIFT_WARNING_SHARE = 0.8  # of the drift at which a full clustering becomes due


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The figures that the rules examine."""

    read: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    without_basis: Mapping[str, int] = field(default_factory=dict)
    """photos refused for want of a legal basis, by source; the sources of most photos are enough"""
    granted_without_photo: Sequence[str] = ()
    """sources that a grant names and no photo does"""
    refused_before: Sequence[float] = ()
    """shares of photos refused in earlier runs, without those of BY_REQUEST"""
    tried: int = 0
    """photos embedded or rejected in this run"""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """rejects of this run by reason"""
    rejected_before: Sequence[float] = ()
    """shares of photos rejected in earlier runs"""
    history: Sequence[RunFigures] = ()
    """oldest first, this run last; for the keys see stages/reporting/history.py"""
    full_at_drift: float = 0.5
    conflicts: int = 0
    """corrections that are no longer satisfied"""
    overdue: int = 0
    """grants past their date of destruction whose photos are still in the corpus"""
    overdue_photos: int = 0
    erased_in_corpus: int = 0
    """photos of erased people that are still in the corpus, or in it again"""
    due_soon: int = 0
    """grants that reach their date of destruction within 30 days"""
    owed: Mapping[str, str] = field(default_factory=dict)
    """by recipient and lease, what the recipient has not done yet"""
    leases_ending: int = 0
    """leases that end within 30 days"""
    ungrouped: int = 0
    """faces that are in no identity of the gallery"""
    lost_faces: Mapping[str, int] = field(default_factory=dict)
    """faces removed since the previous run, by cause (lost_faces.py)"""
    joined_subjects: int = 0
    """identities whose photos of one face name several subjects"""
    divided_subjects: int = 0
    """subjects whose photos of one face are in several identities"""
    stages: Sequence[StageCost] = ()
    lineage: Sequence[str] = ()
    budget: float | None = None
    spent: float | None = None


def find_alerts(facts: RunFacts) -> list[Alert]:
    """Return all alerts that apply, the most severe first."""
    alerts = [alert for rule in _RULES for alert in rule(facts)]
    return sorted(alerts, key=lambda alert: (ACT, LOOK, KNOW).index(alert.level))


def _admission_alerts(facts: RunFacts) -> Iterator[Alert]:
    refused = sum(facts.refused.values())
    by_request = sum(facts.refused.get(reason, 0) for reason in BY_REQUEST)
    others = refused - by_request
    mistyped = _mistyped_grants(facts)
    if not facts.read:
        yield Alert(
            LOOK, "The corpus contains no photo.", "Check `corpus` in the config, or `facelake import` a folder."
        )
    elif refused == facts.read:
        message = "Every photo was refused; no photo may be processed."
        yield Alert(ACT, message, f"Check the reasons below and `facelake ledger list`; record grants.{mistyped}")
    elif _is_unusually_high(others / facts.read, facts.refused_before) and others >= _MIN_COUNT:
        usual = format_share(median(facts.refused_before) or 0, 1)
        besides = f" for other reasons than withdrawal and erasure ({by_request:,} photos)" if by_request else ""
        message = f"{format_share(others, facts.read)} of the photos were refused{besides}; usual is {usual}."
        next_step = "Check the reasons below: a grant may have expired, or a source may be missing in the ledger."
        yield Alert(ACT, message, next_step)
    elif refused > facts.read / 2:
        message = f"More than half of the photos ({format_share(refused, facts.read)}) were refused."
        yield Alert(LOOK, message, "If this is not intended, check `facelake ledger list`.")
    if without_basis := facts.refused.get("no_basis", 0):
        message = f"{counted(without_basis, 'photo')} without a recorded legal basis; not opened."
        next_step = f"Record a basis with `facelake ledger grant`, or leave them out of the corpus.{mistyped}"
        yield Alert(KNOW, message, next_step)


def _mistyped_grants(facts: RunFacts) -> str:
    """Return a sentence on grants whose source no photo has, where photos of other sources have no grant."""
    if not facts.granted_without_photo or not facts.without_basis:
        return ""
    named = [", ".join(map(repr, names[:3])) for names in (facts.granted_without_photo, list(facts.without_basis))]
    one = len(facts.granted_without_photo) == 1
    granted = f"{'grant' if one else 'grants'} for {named[0]} {'covers' if one else 'cover'} no photo"
    return f" The {granted}; the corpus has {named[1]}."


def _reject_alerts(facts: RunFacts) -> Iterator[Alert]:
    rejected = sum(facts.rejected.values())
    if facts.tried >= _MIN_COUNT and _is_unusually_high(rejected / facts.tried, facts.rejected_before):
        usual = format_share(median(facts.rejected_before) or 0, 1)
        reason = max(facts.rejected, key=lambda reason: facts.rejected[reason]).replace("_", " ")
        message = (
            f"{format_share(rejected, facts.tried)} of the new photos were rejected; usual is {usual}. "
            f"Most frequent reason: {reason}."
        )
        next_step = "Check `rejects` by reason and corpus file; a source may have delivered damaged files."
        yield Alert(ACT, message, next_step)
    if crashed := facts.rejected.get("worker_died", 0):
        message = f"{counted(crashed, 'photo')} crashed the worker that decoded them."
        yield Alert(
            LOOK, message, "They were left out. Inspect them on an isolated machine; keep them for a bug report."
        )


def _gallery_alerts(facts: RunFacts) -> Iterator[Alert]:
    if facts.ungrouped:
        message = f"{counted(facts.ungrouped, 'face')} in no identity yet."
        yield Alert(LOOK, message, "A run ended early: run `facelake nightly` again; it continues where it stopped.")
    if facts.conflicts:
        message = f"{counted(facts.conflicts, 'correction')} no longer satisfied: later corrections contradict them."
        yield Alert(LOOK, message, "Check `facelake correct list`; undo the wrong correction.")
    if len(facts.history) < 2:
        return
    figures = facts.history[-1].figures
    identities = figures.get("identities") or 0
    for kind, event in (("merged", "merged into others"), ("split", "split off others")):
        count = figures.get(kind) or 0
        usual = median([run.figures.get(kind) or 0 for run in facts.history[:-1]]) or 0
        if count >= max(_MIN_CHANGED, _MAX_CHANGED_SHARE * identities, _RISE_FACTOR * usual):
            changed = counted(count, "identity", "identities")
            message = f"{changed} {event} in one run ({format_share(count, identities)} of all)."
            next_step = "Check them below; correct a wrong one with `facelake review` or `facelake correct`."
            yield Alert(LOOK, message, next_step)


def _loss_alerts(facts: RunFacts) -> Iterator[Alert]:
    if len(facts.history) < 2:
        return
    faces, before = (facts.history[at].figures.get("faces") or 0 for at in (-1, -2))
    if before < _MIN_COUNT or faces >= (1 - _MAX_LOST_SHARE) * before:
        return
    causes, by_request = facts.lost_faces, sum(facts.lost_faces.get(cause, 0) for cause in LOST_BY_REQUEST)
    message = f"The gallery lost {format_share(before - faces, before)} of its faces since the previous run"
    if words := lost_in_words(causes):
        message += f"{', of which' if sum(causes.values()) < before - faces else ':'} {words}."
    else:
        message += "; no erasure, withdrawal or missing photo is recorded."
    if before - faces - by_request <= _MAX_LOST_SHARE * before:
        next_step = "This is what erasures and withdrawals do; if you did not expect them, see `facelake ledger list`."
        yield Alert(KNOW, message, next_step)
        return
    steps = {
        VANISHED: "If these photos were not meant to go, check `corpus` in the config.",
        REFUSED: "Check the dates of grants in `facelake ledger list`.",
    }
    known = [step for cause, step in steps.items() if causes.get(cause)]
    otherwise = "Check `corpus` in the config, and the dates of grants in `facelake ledger list`."
    yield Alert(ACT, message, " ".join(known) or otherwise)


def _subject_alerts(facts: RunFacts) -> Iterator[Alert]:
    next_step = "`facelake gallery subjects` lists them; correct them with `facelake review` or `facelake correct`."
    if count := facts.joined_subjects:
        message = f"{counted(count, 'identity', 'identities')} with photos of several subject references: several"
        message += " people in one identity, or wrong references."
        yield Alert(LOOK, message, next_step)
    if count := facts.divided_subjects:
        message = f"{counted(count, 'subject reference')} with photos in several identities: one person in several"
        message += " identities, or wrong references."
        yield Alert(KNOW, message, next_step)


def _distribution_alerts(facts: RunFacts) -> Iterator[Alert]:
    if not facts.history or (facts.history[-1].figures.get("identities") or 0) < _MIN_COUNT:
        return
    figures = facts.history[-1].figures
    for key, whole, subject, next_step in (
        ("single_share", "identities", "identities of a single face",
         "Many strangers or poor photos: check the newest source."),
        ("largest_share", "faces", "faces in the largest identity",
         "Check its faces: several people may have been merged."),
    ):  # fmt: skip
        value, earlier = figures.get(key), _earlier_values(facts, key)
        if value is not None and _is_unusually_high(value, earlier):
            if (value - (median(earlier) or 0)) * (figures.get(whole) or 0) < _MIN_RISE:
                continue
            usual = format_share(median(earlier) or 0, 1)
            message = f"The share of {subject} rose to {format_share(value, 1)}; usual is {usual}."
            yield Alert(ACT, message, next_step)
    drift = figures.get("drift_sds")
    if drift is not None and drift >= _DRIFT_WARNING_SHARE * facts.full_at_drift:
        message = (
            f"New faces differ from those of the last full clustering: drift {drift:.2f} sds, "
            f"{facts.full_at_drift:.2f} allowed."
        )
        next_step = "If cameras or sources changed, run a full clustering: `facelake nightly --rebase`."
        yield Alert(LOOK, message, next_step)
    reviews, identities = figures.get("reviews") or 0, figures.get("identities") or 1
    usual_reviews = median(_earlier_values(facts, "reviews")) or 0
    if reviews >= max(_MIN_REVIEWS, _MAX_REVIEWS_PER_IDENTITY * identities, _RISE_FACTOR * usual_reviews):
        message = f"{counted(reviews, 'question')} in the review queue."
        yield Alert(LOOK, message, "`facelake review` shows them in a browser, the most valuable first.")


def _governance_alerts(facts: RunFacts) -> Iterator[Alert]:
    if facts.overdue:
        photos = counted(facts.overdue_photos, "photo")
        message = (
            f"{counted(facts.overdue, 'grant')} past the date of destruction or expired; {photos} still in the corpus."
        )
        next_step = (
            "The faces are already deleted. Renew the grant if there is a new one; else delete the photos, in your"
        )
        next_step += " own store or by `facelake erase`, which also bars them, and people it names, for good."
        yield Alert(ACT, message, next_step)
    if count := facts.erased_in_corpus:
        verb = "is" if count == 1 else "are"
        message = f"{counted(count, 'photo')} of erased people {verb} still in the corpus."
        next_step = "No run processes them. Delete them in your store; `facelake erase --restored` does so in the"
        next_step += " lake's own corpus, and in your store with `corpus.on_erase: delete` (docs/image-stores.md)."
        yield Alert(ACT, message, next_step)
    if facts.due_soon:
        message = f"{counted(facts.due_soon, 'grant')} within {_SOON_DAYS} days of the date of destruction."
        yield Alert(KNOW, message, "Renew them (a new grant with a later contact), or plan the deletion.")
    if facts.owed:
        first = "; ".join(f"{lease} {duty}" for lease, duty in sorted(facts.owed.items())[:3])
        message = f"{counted(len(facts.owed), 'export')} with an overdue answer: {first}."
        yield Alert(ACT, message, "Remind the recipients; see `facelake feed leases`.")
    if facts.leases_ending:
        message = f"{counted(facts.leases_ending, 'export')} within {_SOON_DAYS} days of the end of the lease."
        yield Alert(KNOW, message, "Export again, or have the copies returned; see `facelake feed leases`.")
    if facts.lineage:
        message = f"The model's reported training lineage contains withdrawn data sets: {', '.join(facts.lineage)}."
        yield Alert(KNOW, message, "See its card (`facelake models show`) and the page on models in the documentation.")


def _cost_alerts(facts: RunFacts) -> Iterator[Alert]:
    for stage in facts.stages:
        if stage.expected_s and stage.seconds > max(_SLOW_FACTOR * stage.expected_s, _SLOW_MIN_S):
            message = f"{stage.stage} took {stage.seconds:,.0f} s; {stage.expected_s:,.0f} s were expected."
            yield Alert(LOOK, message, "Check for other load on the machines, and the latency of the store.")
        if stage.usual_bytes and stage.memory_bytes > _MEMORY_FACTOR * stage.usual_bytes:
            mib, usual_mib = stage.memory_bytes / 2**20, stage.usual_bytes / 2**20
            message = f"The driver of {stage.stage} used {mib:,.0f} MiB; usual is {usual_mib:,.0f}."
            next_step = "Memory grows with the corpus; give the driver more before it runs out."
            yield Alert(LOOK, message, next_step)
    if facts.budget is not None and facts.spent is not None and facts.spent > facts.budget:
        message = f"Embedding cost {facts.spent:,.2f}; the budget is {facts.budget:,.2f}."
        next_step = "Calibrate again with `facelake plan --calibrate`; raise `plan.budget` or embed less."
        yield Alert(LOOK, message, next_step)


_RULES: tuple[Callable[[RunFacts], Iterator[Alert]], ...] = (
    _admission_alerts,
    _reject_alerts,
    _gallery_alerts,
    _loss_alerts,
    _subject_alerts,
    _distribution_alerts,
    _governance_alerts,
    _cost_alerts,
)


def _earlier_values(facts: RunFacts, key: str) -> list[float]:
    values = (run.figures.get(key) for run in facts.history[:-1])
    return [value for value in values if value is not None]


def _is_unusually_high(value: float, earlier: Sequence[float]) -> bool:
    if len(earlier) < _MIN_EARLIER_RUNS:
        return False
    usual = median(earlier) or 0.0
    return value >= usual + _RISE_ABSOLUTE and value >= _RISE_FACTOR * usual
