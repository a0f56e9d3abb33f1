"""Each warning is given when its cause is there, and none of them after a good night."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from facelake.report import Night, NightFacts, StageCost, concerns

USUAL: dict[str, float | None] = {
    "faces": 1000.0, "identities": 300.0, "single_share": 0.3, "largest_share": 0.05, "cohesion": 0.8,
    "nearest_similarity": 0.3, "reviews": 6.0, "merged": 1.0, "split": 0.0, "drift_sds": 0.05,
}  # fmt: skip


def night(version: int, **figures: float | None) -> Night:
    return Night(version, "2026-01-01", "increment", USUAL | figures)


def stage(**given: Any) -> StageCost:
    usual = {"stage": "embed", "when": "this night", "seconds": 100.0, "expected_s": 95.0, "expected_by": "plan",
             "memory_bytes": 600 << 20, "usual_bytes": 590 << 20, "cost": 1.0, "did": ""}  # fmt: skip
    return StageCost(**(usual | given))


GOOD = NightFacts(
    read=1000, refused={"expired": 20}, refused_before=(0.02, 0.02, 0.03), tried=200, rejected={"no_face": 10},
    rejected_before=(0.05, 0.04, 0.06), nights=[night(1), night(2), night(3)], stages=[stage()], budget=2.0, spent=1.0,
)  # fmt: skip
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("look", "No photo is in the corpus", {"read": 0, "refused": {}}),
    ("act", "Every photo was refused", {"refused": {"expired": 1000}}),
    ("act", "12 % of the photos were refused; usual is 2.0 %", {"refused": {"expired": 120}}),
    ("look", "More than half of the photos", {"refused": {"expired": 600}, "refused_before": (0.6, 0.6)}),
    ("know", "5 photos without a recorded legal basis", {"refused": {"no_basis": 5}}),
    ("act", "30 % of the new photos gave no face; usual is 5.0 %. Most: unreadable", {"rejected": {"unreadable": 40, "no_face": 20}}),
    ("look", "1 photo killed the worker", {"rejected": {"worker_died": 1}}),
    ("look", "7 faces in no identity", {"ungrouped": 7}),
    ("look", "2 corrections no longer met", {"conflicts": 2}),
    ("act", "lost 20 % of its faces", {"nights": [night(1), night(2), night(3, faces=800.0)]}),
    ("look", "12 identities joined to others", {"nights": [night(1), night(2), night(3, merged=12.0)]}),
    ("look", "9 identities split off", {"nights": [night(1), night(2), night(3, split=9.0)]}),
    ("act", "identities of a single face jumped to 70 %; usual is 30 %", {"nights": [night(1), night(2), night(3, single_share=0.7)]}),
    ("act", "faces in the largest identity jumped to 40 %", {"nights": [night(1), night(2), night(3, largest_share=0.4)]}),
    ("look", "drift 0.45 sds, 0.50 allowed", {"nights": [night(1), night(2), night(3, drift_sds=0.45)]}),
    ("look", "60 questions for a person", {"nights": [night(1), night(2), night(3, reviews=60.0)]}),
    ("act", "3 grants past the date of destruction; 14 photos still", {"overdue": 3, "overdue_photos": 14}),
    ("know", "1 grant near the date of destruction", {"due_soon": 1}),
    ("act", "1 export without the answer that is owed: gate (lease-1) was recalled", {"owed": {"gate (lease-1)": "was recalled and is not returned"}}),
    ("know", "2 exports within 30 days", {"leases_ending": 2}),
    ("know", "withdrawn data sets: VGGFace2", {"lineage": ["VGGFace2"]}),
    ("look", "embed took 250 s; 95 s were expected", {"stages": [stage(seconds=250.0)]}),
    ("look", "embed needed 1,000 MiB in its driver; usual is 590", {"stages": [stage(memory_bytes=1000 << 20)]}),
    ("look", "Embedding cost 3.00; the budget is 2.00", {"spent": 3.0}),
]  # fmt: skip


def test_a_good_night_gives_no_warning() -> None:
    assert concerns(GOOD) == []


def test_a_first_night_gives_none_either() -> None:
    first = NightFacts(read=280, refused={"expired": 8}, tried=248, rejected={"no_face": 52}, nights=[night(1, single_share=0.9)])  # fmt: skip
    assert concerns(first) == []


@pytest.mark.parametrize(("level", "said", "change"), CASES, ids=[said[:40] for _, said, _ in CASES])
def test_each_warning_has_its_cause(level: str, said: str, change: dict[str, Any]) -> None:
    (found,) = concerns(replace(GOOD, **change))
    assert said in found.said
    assert found.level == level
    assert found.next_step


@pytest.mark.parametrize("change", [
    {"refused": {"expired": 45}, "refused_before": (0.02, 0.03)},  # twice as much, but little
    {"refused": {"expired": 120}, "refused_before": (0.02,)},  # one night says nothing of what is usual
    {"refused": {"expired": 450}, "refused_before": (0.35, 0.36)},  # more, but not twice as much
    {"tried": 10, "rejected": {"no_face": 8}},  # of few photos
    {"nights": [night(1), night(2), night(3, faces=950.0)]},
    {"nights": [night(1, merged=20.0), night(2, merged=20.0), night(3, merged=20.0)]},  # usual here
    {"nights": [night(1, reviews=400.0), night(2, reviews=400.0), night(3, reviews=420.0)]},
    {"nights": [night(1), night(2), night(3, drift_sds=None)]},
    {"stages": [stage(seconds=59.0, expected_s=2.0)]},  # slow, but no matter
    {"stages": [stage(seconds=500.0, expected_s=None)]},
    {"budget": None, "spent": 3.0},
])  # fmt: skip
def test_what_is_no_cause(change: dict[str, Any]) -> None:
    assert concerns(replace(GOOD, **change)) == []


def test_the_gravest_comes_first() -> None:
    found = concerns(replace(GOOD, lineage=["a"], conflicts=1, overdue=1, overdue_photos=1))
    assert [one.level for one in found] == ["act", "look", "know"]


def test_every_rule_has_a_case() -> None:
    """A warning that no case above gives would be a warning that nobody has seen."""
    import inspect

    from facelake.report.alerts import _RULES

    assert sum(inspect.getsource(rule).count("yield Concern(") for rule in _RULES) <= len(CASES)
