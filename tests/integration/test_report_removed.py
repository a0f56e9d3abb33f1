"""Fewer photos and faces after an erasure or a withdrawal: the report says how many, and raises no alarm."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from facelake.contracts import Refusal
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


def test_a_gallery_made_by_an_erasure_is_compared_with_the_last_run(stage: Stage) -> None:
    admits = [stage("admit", 1), stage("admit", 3)]
    runs = {"admit": admits, "publish": [stage("publish", 4)], "erase": [stage("erase", 2)]}
    assert previous_admit(runs) is admits[0]
    runs["erase"].append(stage("erase", 5))
    assert previous_admit(runs) is admits[1]
    assert previous_admit({"admit": [admits[0]], "publish": [], "erase": []}) is None
