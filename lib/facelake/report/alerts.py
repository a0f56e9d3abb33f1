"""Was last night good? Rules in plain words, each with what to do next. Pure.

A rule compares with the median of the nights before where there are at least two; on the first nights only what is
wrong by itself is said. Numbers behind the rules are few and stand here, to be argued about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from facelake.report.histograms import median, several, share
from facelake.report.model import Concern, Night, StageCost

ACT, LOOK, KNOW = "act", "look", "know"
_NIGHTS = 2  # before this one, from which on "usual" means something
_MORE, _TIMES = 0.05, 2.0  # a share has jumped when it is so much higher than usual, and so many times
_FEW = 20  # photos or faces under which a share says nothing
_SHRUNK = 0.1  # of the faces gone in one night
_UPSET = 0.02  # of the identities merged or split in one night
_UPSET_LEAST = 5
_REVIEWS = 0.05  # questions per identity
_REVIEWS_LEAST = 50
_SLOW = 2.0  # times the expected seconds
_SLOW_LEAST_S = 60.0
_FAT = 1.5  # times the usual memory
_SOON_DAYS = 30
_CLOSE = 0.8  # of the drift at which all faces are grouped anew


@dataclass(frozen=True, slots=True)
class NightFacts:
    """What the rules look at."""

    read: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    refused_before: Sequence[float] = ()
    """shares of photos refused in earlier nights"""
    tried: int = 0
    """photos embedded or rejected this night"""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """this night"""
    rejected_before: Sequence[float] = ()
    """shares in earlier nights"""
    nights: Sequence[Night] = ()
    """oldest first, this one last; figures: see stages/reporting/history.py"""
    full_at_drift: float = 0.5
    conflicts: int = 0
    """corrections that no longer hold"""
    overdue: int = 0
    """grants past their date of destruction whose photos are still in the corpus"""
    overdue_photos: int = 0
    due_soon: int = 0
    """grants that reach it within 30 days"""
    owed: Mapping[str, str] = field(default_factory=dict)
    """by lease, what its recipient owes"""
    leases_ending: int = 0
    """within 30 days"""
    ungrouped: int = 0
    """faces that are in no identity of the gallery"""
    stages: Sequence[StageCost] = ()
    lineage: Sequence[str] = ()
    budget: float | None = None
    spent: float | None = None


def concerns(facts: NightFacts) -> list[Concern]:
    """All that apply, the gravest first."""
    found = [concern for rule in _RULES for concern in rule(facts)]
    return sorted(found, key=lambda concern: (ACT, LOOK, KNOW).index(concern.level))


def _admitted(facts: NightFacts) -> Iterator[Concern]:
    refused = sum(facts.refused.values())
    if not facts.read:
        yield Concern(
            LOOK, "No photo is in the corpus.", "Check `corpus` in the config, or `facelake import` a folder."
        )
    elif refused == facts.read:
        said = "Every photo was refused: nothing may be processed."
        yield Concern(ACT, said, "Look at the reasons below and at `facelake ledger list`; record grants.")
    elif _jumped(refused / facts.read, facts.refused_before) and refused >= _FEW:
        usual = share(median(facts.refused_before) or 0, 1)
        said = f"{share(refused, facts.read)} of the photos were refused; usual is {usual}."
        next_step = "Look at the reasons below: a grant may have run out or a source be missing in the ledger."
        yield Concern(ACT, said, next_step)
    elif refused > facts.read / 2:
        said = f"More than half of the photos ({share(refused, facts.read)}) were refused."
        yield Concern(LOOK, said, "If that is not meant, see `facelake ledger list`.")
    if nobody := facts.refused.get("no_basis", 0):
        said = f"{several(nobody, 'photo')} without a recorded legal basis, not opened."
        yield Concern(KNOW, said, "Record one with `facelake ledger grant`, or leave them out of the corpus.")


def _rejected(facts: NightFacts) -> Iterator[Concern]:
    rejected = sum(facts.rejected.values())
    if facts.tried >= _FEW and _jumped(rejected / facts.tried, facts.rejected_before):
        usual = share(median(facts.rejected_before) or 0, 1)
        worst = max(facts.rejected, key=lambda reason: facts.rejected[reason]).replace("_", " ")
        said = f"{share(rejected, facts.tried)} of the new photos gave no face; usual is {usual}. Most: {worst}."
        yield Concern(ACT, said, "Look at `rejects` by reason and corpus file; a source may have sent broken files.")
    if died := facts.rejected.get("worker_died", 0):
        said = f"{several(died, 'photo')} killed the worker that decoded them."
        yield Concern(LOOK, said, "They were left out. Look at them apart from the rest; keep them for a bug report.")


def _gallery(facts: NightFacts) -> Iterator[Concern]:
    if facts.ungrouped:
        said = f"{several(facts.ungrouped, 'face')} in no identity yet."
        yield Concern(LOOK, said, "A night ended early: run `facelake nightly` again, it goes on where it was.")
    if facts.conflicts:
        said = f"{several(facts.conflicts, 'correction')} no longer met: later ones contradict them."
        yield Concern(LOOK, said, "See `facelake correct list`; undo the one that is wrong.")
    if len(facts.nights) < 2:
        return
    now, before = facts.nights[-1].figures, facts.nights[-2].figures
    was, is_ = before.get("faces") or 0, now.get("faces") or 0
    if was >= _FEW and is_ < (1 - _SHRUNK) * was:
        said = f"The gallery lost {share(was - is_, was)} of its faces in one night."
        yield Concern(ACT, said, "Withdrawn grants do that; if there were none, check `corpus` and the ledger's dates.")
    identities = now.get("identities") or 0
    for kind, why in (("merged", "joined to others"), ("split", "split off others")):
        count = now.get(kind) or 0
        usual = median([night.figures.get(kind) or 0 for night in facts.nights[:-1]]) or 0
        if count >= max(_UPSET_LEAST, _UPSET * identities, _TIMES * usual):
            said = f"{several(count, 'identity', 'identities')} {why} in one night ({share(count, identities)} of all)."
            yield Concern(
                LOOK, said, "Look at them below; a wrong one is mended with `facelake review` or `facelake correct`."
            )


def _shape(facts: NightFacts) -> Iterator[Concern]:
    if not facts.nights or (facts.nights[-1].figures.get("identities") or 0) < _FEW:
        return
    now = facts.nights[-1].figures
    for key, what, next_step in (
        ("single_share", "identities of a single face", "Many strangers, or poor photos: look at the newest source."),
        ("largest_share", "faces in the largest identity", "Look at its faces: many people may have become one."),
    ):
        value, earlier = now.get(key), _earlier(facts, key)
        if value is not None and _jumped(value, earlier):
            said = f"The share of {what} jumped to {share(value, 1)}; usual is {share(median(earlier) or 0, 1)}."
            yield Concern(ACT, said, next_step)
    drift = now.get("drift_sds")
    if drift is not None and drift >= _CLOSE * facts.full_at_drift:
        said = (
            f"New faces differ from those that were grouped: drift {drift:.2f} sds, {facts.full_at_drift:.2f} allowed."
        )
        next_step = "If cameras or sources changed, group all anew: `facelake nightly --rebase`."
        yield Concern(LOOK, said, next_step)
    reviews, identities = now.get("reviews") or 0, now.get("identities") or 1
    earlier = _earlier(facts, "reviews")
    many = max(_REVIEWS_LEAST, _REVIEWS * identities, _TIMES * (median(earlier) or 0))
    if reviews >= many:
        said = f"{several(reviews, 'question')} for a person to answer."
        yield Concern(LOOK, said, "`facelake review` shows them in a browser, the most valuable first.")


def _promises(facts: NightFacts) -> Iterator[Concern]:
    if facts.overdue:
        there = several(facts.overdue_photos, "photo")
        said = f"{several(facts.overdue, 'grant')} past the date of destruction; {there} still in the corpus."
        yield Concern(ACT, said, "Faces are gone already; delete the photos: `facelake erase`, or in your own store.")
    if facts.due_soon:
        said = f"{several(facts.due_soon, 'grant')} near the date of destruction, {_SOON_DAYS} days at most."
        yield Concern(KNOW, said, "Renew them (a new grant with a later contact), or plan the deletion.")
    if facts.owed:
        first = "; ".join(f"{lease} {debt}" for lease, debt in sorted(facts.owed.items())[:3])
        said = f"{several(len(facts.owed), 'export')} without the answer that is owed: {first}."
        yield Concern(ACT, said, "Remind the recipients; see `facelake feed leases`.")
    if facts.leases_ending:
        said = f"{several(facts.leases_ending, 'export')} within {_SOON_DAYS} days of the end."
        yield Concern(KNOW, said, "Export again, or have the copies returned; see `facelake feed leases`.")
    if facts.lineage:
        said = f"The model is said to descend from withdrawn data sets: {', '.join(facts.lineage)}."
        yield Concern(KNOW, said, "See its card (`facelake models show`) and the docs' page on models.")


def _effort(facts: NightFacts) -> Iterator[Concern]:
    for stage in facts.stages:
        if stage.expected_s and stage.seconds > max(_SLOW * stage.expected_s, _SLOW_LEAST_S):
            said = f"{stage.stage} took {stage.seconds:,.0f} s; {stage.expected_s:,.0f} s were expected."
            yield Concern(LOOK, said, "See whether other work ran on the machines, and the store's latency.")
        if stage.usual_bytes and stage.memory_bytes > _FAT * stage.usual_bytes:
            now, usual = stage.memory_bytes / 2**20, stage.usual_bytes / 2**20
            said = f"{stage.stage} needed {now:,.0f} MiB in its driver; usual is {usual:,.0f}."
            yield Concern(LOOK, said, "Growing with the corpus is usual; give the driver room before it needs it.")
    if facts.budget is not None and facts.spent is not None and facts.spent > facts.budget:
        said = f"Embedding cost {facts.spent:,.2f}; the budget is {facts.budget:,.2f}."
        yield Concern(LOOK, said, "Calibrate anew with `facelake plan --calibrate`; raise `plan.budget` or embed less.")


_RULES: tuple[Callable[[NightFacts], Iterator[Concern]], ...] = (
    _admitted,
    _rejected,
    _gallery,
    _shape,
    _promises,
    _effort,
)


def _earlier(facts: NightFacts, key: str) -> list[float]:
    values = (night.figures.get(key) for night in facts.nights[:-1])
    return [value for value in values if value is not None]


def _jumped(value: float, earlier: Sequence[float]) -> bool:
    if len(earlier) < _NIGHTS:
        return False
    usual = median(earlier) or 0.0
    return value >= usual + _MORE and value >= _TIMES * usual
