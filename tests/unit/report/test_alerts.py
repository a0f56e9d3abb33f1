"""Each alert is raised by its cause, and none is raised for an ordinary run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from facelake.report import RunFacts, RunFigures, StageCost, find_alerts

USUAL: dict[str, float | None] = {
    "faces": 1000.0, "identities": 300.0, "single_share": 0.3, "largest_share": 0.05, "cohesion": 0.8,
    "nearest_similarity": 0.3, "reviews": 6.0, "merged": 1.0, "split": 0.0, "drift_sds": 0.05,
}  # fmt: skip


def run(version: int, **figures: float | None) -> RunFigures:
    return RunFigures(version, "2026-01-01", "increment", USUAL | figures)


def stage(**changed: Any) -> StageCost:
    usual = {"stage": "embed", "when": "this run", "seconds": 100.0, "expected_s": 95.0, "expected_by": "plan",
             "memory_bytes": 600 << 20, "usual_bytes": 590 << 20, "cost": 1.0, "counts": ""}  # fmt: skip
    return StageCost(**(usual | changed))


ORDINARY = RunFacts(
    read=1000, refused={"expired": 20}, refused_before=(0.02, 0.02, 0.03), tried=200, rejected={"no_face": 10},
    rejected_before=(0.05, 0.04, 0.06), history=[run(1), run(2), run(3)], stages=[stage()], budget=2.0, spent=1.0,
)  # fmt: skip
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("look", "The corpus contains no photo", {"read": 0, "refused": {}}),
    ("act", "Every photo was refused", {"refused": {"expired": 1000}}),
    ("act", "12 % of the photos were refused; usual is 2.0 %", {"refused": {"expired": 120}}),
    ("look", "More than half of the photos", {"refused": {"expired": 600}, "refused_before": (0.6, 0.6)}),
    ("know", "5 photos without a recorded legal basis", {"refused": {"no_basis": 5}}),
    ("know", "corpus. The grant for 'shool-2026' covers no photo; the corpus has 'school-2026'.", {"refused": {"no_basis": 5}, "without_basis": {"school-2026": 5}, "granted_without_photo": ["shool-2026"]}),
    ("know", "corpus. The grants for 'a', 'b', 'c' cover no photo; the corpus has 'd', 'e'.", {"refused": {"no_basis": 5}, "without_basis": {"d": 4, "e": 1}, "granted_without_photo": ["a", "b", "c", "f"]}),
    ("act", "30 % of the new photos were rejected; usual is 5.0 %. Most frequent reason: unreadable", {"rejected": {"unreadable": 40, "no_face": 20}}),
    ("look", "1 photo crashed the worker", {"rejected": {"worker_died": 1}}),
    ("look", "7 faces in no identity", {"ungrouped": 7}),
    ("look", "2 corrections no longer satisfied", {"conflicts": 2}),
    ("look", "1 identity with photos of several subject references", {"joined_subjects": 1}),
    ("know", "4 subject references with photos in several identities", {"divided_subjects": 4}),
    ("act", "lost 20 % of its faces since the previous run; no erasure, withdrawal or missing photo is recorded. Check `corpus` in the config, and", {"history": [run(1), run(2), run(3, faces=800.0)]}),
    ("act", "lost 20 % of its faces since the previous run, of which 90 erased", {"history": [run(1), run(2), run(3, faces=800.0)], "lost_faces": {"erased": 90}}),
    ("know", "lost 20 % of its faces since the previous run, of which 120 erased. This is", {"history": [run(1), run(2), run(3, faces=800.0)], "lost_faces": {"erased": 120}}),
    ("know", "lost 20 % of its faces since the previous run: 120 erased, 80 withdrawn.", {"history": [run(1), run(2), run(3, faces=800.0)], "lost_faces": {"erased": 120, "withdrawn": 80}}),
    ("act", "lost 20 % of its faces since the previous run: 200 in photos that are no longer in the corpus. If these photos were not meant to go, check `corpus` in the config.", {"history": [run(1), run(2), run(3, faces=800.0)], "lost_faces": {"vanished": 200}}),
    ("act", "run: 90 erased, 150 in photos that are refused now. Check the dates of grants", {"history": [run(1), run(2), run(3, faces=800.0)], "lost_faces": {"erased": 90, "refused": 150}}),
    ("look", "12 identities merged into others", {"history": [run(1), run(2), run(3, merged=12.0)]}),
    ("look", "9 identities split off", {"history": [run(1), run(2), run(3, split=9.0)]}),
    ("act", "identities of a single face rose to 70 %; usual is 30 %", {"history": [run(1), run(2), run(3, single_share=0.7)]}),
    ("act", "faces in the largest identity rose to 40 %", {"history": [run(1), run(2), run(3, largest_share=0.4)]}),
    ("look", "drift 0.45 sds, 0.50 allowed", {"history": [run(1), run(2), run(3, drift_sds=0.45)]}),
    ("look", "60 questions in the review queue", {"history": [run(1), run(2), run(3, reviews=60.0)]}),
    ("act", "3 grants past the date of destruction or expired; 14 photos still", {"overdue": 3, "overdue_photos": 14}),
    ("act", "6 photos of erased people are still in the corpus. No run processes them. Delete them in your store", {"erased_in_corpus": 6}),
    ("know", "1 grant within 30 days of the date of destruction", {"due_soon": 1}),
    ("act", "1 export with an overdue answer: gate (lease-1) was recalled", {"owed": {"gate (lease-1)": "was recalled and is not returned"}}),
    ("know", "2 exports within 30 days", {"leases_ending": 2}),
    ("know", "withdrawn data sets: VGGFace2", {"lineage": ["VGGFace2"]}),
    ("look", "embed took 250 s; 95 s were expected", {"stages": [stage(seconds=250.0)]}),
    ("look", "The driver of embed used 1,000 MiB; usual is 590", {"stages": [stage(memory_bytes=1000 << 20)]}),
    ("look", "Embedding cost 3.00; the budget is 2.00", {"spent": 3.0}),
]  # fmt: skip


def test_photos_of_people_who_have_withdrawn_are_not_an_alarm() -> None:
    withdrawn = replace(ORDINARY, refused={"withdrawn": 110, "erased": 30, "expired": 20})
    assert find_alerts(withdrawn) == find_alerts(ORDINARY)
    [alert] = find_alerts(replace(withdrawn, refused={"withdrawn": 110, "expired": 120}))
    assert alert.level == "act"
    assert "12 % of the photos were refused for other reasons than withdrawal and erasure (110 photos)" in alert.message


def test_a_corpus_without_a_grant_is_told_which_grant_covers_no_photo() -> None:
    facts = replace(ORDINARY, refused={"no_basis": 1000}, granted_without_photo=["shool-2026"])
    alert, _ = find_alerts(replace(facts, without_basis={"school-2026": 1000}))
    assert (alert.level, alert.message) == ("act", "Every photo was refused; no photo may be processed.")
    assert alert.next_step.endswith(" The grant for 'shool-2026' covers no photo; the corpus has 'school-2026'.")
    assert not [alert for alert in find_alerts(facts) if "shool" in alert.next_step]  # all photos have another reason


def test_an_ordinary_run_raises_no_alert() -> None:
    assert find_alerts(ORDINARY) == []


def test_a_first_run_raises_no_alert() -> None:
    first = RunFacts(read=280, refused={"expired": 8}, tried=248, rejected={"no_face": 52}, history=[run(1, single_share=0.9)])  # fmt: skip
    assert find_alerts(first) == []


@pytest.mark.parametrize(("level", "message", "change"), CASES, ids=[message[:40] for _, message, _ in CASES])
def test_each_cause_raises_its_alert(level: str, message: str, change: dict[str, Any]) -> None:
    (alert,) = find_alerts(replace(ORDINARY, **change))
    assert message in f"{alert.message} {alert.next_step}"
    assert alert.level == level
    assert alert.next_step


@pytest.mark.parametrize("change", [
    {"refused": {"expired": 45}, "refused_before": (0.02, 0.03)},  # twice as much, but little
    {"refused": {"expired": 120}, "refused_before": (0.02,)},  # a single earlier run does not show what is usual
    {"refused": {"expired": 450}, "refused_before": (0.35, 0.36)},  # more, but not twice as much
    {"tried": 10, "rejected": {"no_face": 8}},  # too few photos
    {"history": [run(1), run(2), run(3, faces=950.0)]},
    {"history": [run(1, merged=20.0), run(2, merged=20.0), run(3, merged=20.0)]},  # usual in this lake
    {"history": [run(*at, identities=33.0, single_share=share) for at, share in (((1,), .03), ((2,), .03), ((3,), .1))]},  # 2 more
    {"history": [run(1, reviews=400.0), run(2, reviews=400.0), run(3, reviews=420.0)]},
    {"history": [run(1), run(2), run(3, drift_sds=None)]},
    {"stages": [stage(seconds=59.0, expected_s=2.0)]},  # slow, but under a minute
    {"stages": [stage(seconds=500.0, expected_s=None)]},
    {"budget": None, "spent": 3.0},
])  # fmt: skip
def test_small_or_usual_values_raise_no_alert(change: dict[str, Any]) -> None:
    assert find_alerts(replace(ORDINARY, **change)) == []


def test_the_most_severe_alert_comes_first() -> None:
    alerts = find_alerts(replace(ORDINARY, lineage=["a"], conflicts=1, overdue=1, overdue_photos=1))
    assert [alert.level for alert in alerts] == ["act", "look", "know"]


def test_every_rule_has_a_case() -> None:
    """Every alert in the code is raised by at least one case above."""
    import inspect

    from facelake.report.alerts import _RULES

    assert sum(inspect.getsource(rule).count("yield Alert(") for rule in _RULES) <= len(CASES)
