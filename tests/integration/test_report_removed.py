"""Fewer photos and faces after an erasure or a withdrawal: the report says how many, and raises no alarm."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from facelake.contracts import Refusal
from facelake.report import RunFigures
from facelake.stages.reporting.history import RecordedStage
from facelake.stages.reporting.removed import Removed, previous_admit, removed_since
from tests.conftest import run_json


def section(lake: Path, name: str) -> str:
    page = (lake / "reports/latest.html").read_text()
    body = page[page.index(f'id="{name}"') :].partition("</section>")[0]
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", " ", body)))


def test_an_erasure_and_a_withdrawal_are_named_as_the_cause(demo_lake: Path) -> None:
    at = ("--lake", str(demo_lake))
    run_json("erase", "--subject", "person-1", "--yes", *at)
    run_json("report", *at)
    assert "232 23 fewer than in the previous run (since then 23 erased)" in section(demo_lake, "numbers")  # faces
    run_json("ledger", "withdraw", "--subject", "person-2", *at)
    run_json("nightly", *at)
    figures, alerts = section(demo_lake, "numbers"), section(demo_lake, "alerts")
    assert (
        "202 46 fewer than in the previous run (since then 27 erased, 25 withdrawn, not all of them admitted)"
        in figures
    )
    assert "209 46 fewer than in the previous run (since then 23 erased, 23 withdrawn)" in figures  # faces
    assert "fewer than in the previous run (since then 1 erased)" in figures  # identities
    assert "18 % of its faces since the previous run: 23 erased, 23 withdrawn. This is what erasures" in alerts
    assert alerts.index("For information") < alerts.index("The gallery lost")
    assert "of the photos were refused" not in alerts


def test_withdrawals_are_not_denied_where_they_may_not_be_the_only_cause(demo_lake: Path) -> None:
    at = ("--lake", str(demo_lake))
    barred = ("--source", "album-for-print", "--class", "cctv", "--even-if-unknown")  # refused for another reason now
    run_json("ledger", "grant", *barred, "--purpose", "identity-grouping", "--basis", "b", *at)
    run_json("ledger", "withdraw", "--subject", "person-1", "--subject", "person-2", *at)
    run_json("nightly", *at)
    alerts = section(demo_lake, "alerts")
    photos = re.search(r"(\d+) withdrawn", section(demo_lake, "numbers"))
    assert photos
    assert (
        f"lost 18 % of its faces since the previous run. Withdrawn since then: {photos[1]} photos; how many" in alerts
    )


Stage = Callable[..., RecordedStage]


@pytest.fixture
def stage() -> Stage:
    def make(name: str, at: int, **counts: int) -> RecordedStage:
        return RecordedStage(f"run-{at}", name, at, 1.0, counts, {}, 0)

    return make


def test_faces_are_said_to_be_withdrawn_only_if_nothing_else_explains_the_loss(stage: Stage) -> None:
    before = stage("admit", 1, read=100)
    runs = {
        "admit": [before, stage("admit", 3, read=100)],
        "embed": [stage("embed", 3, swept=9)],
        "publish": [],
        "erase": [],
    }
    withdrawn = {Refusal.WITHDRAWN: 8}
    assert removed_since(runs, before, withdrawn) == Removed(withdrawn_photos=8, withdrawn_faces=9)
    assert removed_since(runs, before, withdrawn | {Refusal.EXPIRED: 1}).withdrawn_faces == 0
    runs["admit"][1] = stage("admit", 3, read=90)  # ten photos are missing
    assert removed_since(runs, before, withdrawn).withdrawn_faces == 0
    runs["erase"] = [stage("erase", 0, images=7), stage("erase", 2, images=10, faces=11, identities_retired=1)]
    assert removed_since(runs, before, withdrawn) == Removed(10, 11, 1, 8, 9)
    assert removed_since(runs, None, withdrawn) == Removed()


def galleries(*versions: int) -> list[RunFigures]:
    return [RunFigures(version, "2026-01-01", "full", {}) for version in versions]


def test_a_gallery_made_by_an_erasure_is_compared_with_the_last_run(stage: Stage) -> None:
    admits = [stage("admit", 1), stage("admit", 4)]
    runs = {"admit": admits, "publish": [stage("publish", 2, gallery=1)], "erase": [stage("erase", 3)]}
    assert previous_admit(runs, galleries(1, 2)) is admits[0]  # whether or not `admit` ran since
    runs["publish"].append(stage("publish", 5, gallery=3))
    assert previous_admit(runs, galleries(1, 3)) is admits[0]
    runs["erase"].append(stage("erase", 6))
    assert previous_admit(runs, galleries(1, 3, 4)) is admits[1]
    assert previous_admit(runs, galleries(1)) is None
    assert previous_admit({"admit": admits[:1], "publish": [], "erase": []}, []) is None


def test_an_admission_of_its_own_hides_no_erasure(stage: Stage) -> None:
    runs = {
        "admit": [stage("admit", 1, read=1000), stage("admit", 4, read=700), stage("admit", 5, read=700)],
        "embed": [],
        "publish": [stage("publish", 2, gallery=1), stage("publish", 7, gallery=3)],
        "erase": [stage("erase", 3, images=300, faces=310)],
    }
    before = previous_admit(runs, galleries(1, 3))
    assert before is runs["admit"][0]
    assert removed_since(runs, before, {}) == Removed(photos=300, faces=310)


def test_a_publish_without_a_new_gallery_is_not_the_previous_one(stage: Stage) -> None:
    """The loss from gallery 1 to 2 stays explained while gallery 2 is the present one."""
    admits = [stage("admit", at) for at in (1, 4, 6)]
    publishes = [stage("publish", at, gallery=gallery) for at, gallery in ((2, 1), (5, 2), (7, 2))]
    runs = {"admit": admits, "publish": publishes, "erase": [stage("erase", 3, faces=310)]}
    assert previous_admit(runs, galleries(1, 2)) is admits[0]
