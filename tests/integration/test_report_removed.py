"""Fewer photos and faces after an erasure or a withdrawal: the report says how many, and raises no alarm."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from facelake.lake.lake import Lake
from facelake.report import RunFigures
from facelake.stages.reporting.history import STAGES, RecordedStage
from facelake.stages.reporting.removed import Removed, previous_admit, removed_since
from tests.conftest import ROOT, run_json


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
    embed = run_json("nightly", *at)["stages"]["embed"]
    assert (embed["swept"], embed["swept_withdrawn"], embed["swept_faces"]) == (23, 23, {"withdrawn": 23})
    figures, alerts = section(demo_lake, "numbers"), section(demo_lake, "alerts")
    assert (
        "202 46 fewer than in the previous run (since then 27 erased, 23 withdrawn, not all of them admitted)"
        in figures
    )
    assert "209 46 fewer than in the previous run (since then 23 erased, 23 withdrawn)" in figures  # faces
    assert "fewer than in the previous run (since then 1 erased, 1 without faces)" in figures  # identities
    assert "Since the previous run: 23 photos were withdrawn, 27 were erased." in figures
    assert "18 % of its faces since the previous run: 23 erased, 23 withdrawn. This is what erasures" in alerts
    assert alerts.index("For information") < alerts.index("The gallery lost")
    assert "of the photos were refused" not in alerts


def test_every_cause_of_a_loss_is_counted(demo_lake: Path) -> None:
    at = ("--lake", str(demo_lake))
    barred = ("--source", "album-for-print", "--class", "cctv", "--even-if-unknown")  # refused for another reason now
    run_json("ledger", "grant", *barred, "--purpose", "identity-grouping", "--basis", "b", *at)
    run_json("ledger", "withdraw", "--subject", "person-1", "--subject", "person-2", *at)
    run_json("nightly", *at)
    described = re.findall("`([a-z_]+)", (ROOT / "docs/operations.md").read_text())
    for row in Lake.open(str(demo_lake))["runs"].read(["stage", "counts"]).to_pylist():
        for name in json.loads(row["counts"]) if row["stage"] in STAGES else ():
            assert re.sub("^(refused|rejected|changes)_.*", r"\1_", name) in described, (row["stage"], name)
    changes = run_json("gallery", "changes", *at)
    assert (changes["since"], changes["gallery_version"]) == (1, 2)
    retired = [row["identity_id"] for row in changes["changes"] if row["kind"] == "retired"]
    assert retired
    assert {row["gallery_version"] for row in changes["changes"]} == {2}
    assert [row["kind"] for row in changes["changes"]][: len(retired)] == ["retired"] * len(retired)  # first
    assert "18 % of its faces since the previous run: 46 withdrawn. This is" in section(demo_lake, "alerts")
    shown = section(demo_lake, "changes")
    assert all(f"{name} retired" in shown for name in retired)
    for name in retired:
        for command in (("gallery", "show", name), ("explain", name, "person-3")):
            error = run_json(*command, *at, code=2)["error"]
            assert re.search(r"was retired in gallery 2, when its \d+ faces were no longer in the lake", error["what"])
            assert "gallery changes --since 1" in error["next"]
    for command in (("gallery", "show", "person-1"), ("explain", "person-1", "person-2")):
        what = run_json(*command, *at, code=2)["error"]["what"]
        assert re.fullmatch(
            r"subject 'person-1' has no face in the gallery: \d+ photos refused \(withdrawn\), 1 photo refused .*", what
        )
    every = run_json("gallery", "changes", "--since", "0", *at)["changes"]
    assert {row["gallery_version"] for row in every} == {1, 2}
    assert run_json("gallery", "changes", "--since", "2", *at)["changes"] == []
    assert "no gallery version 7" in run_json("gallery", "changes", *at, "--since", "7", code=2)["error"]["what"]


def test_faces_that_came_back_in_the_same_run_are_not_lost(demo_lake: Path) -> None:
    """The grant of the source ends and those of some people take over: their photos are only embedded again."""
    at = ("--lake", str(demo_lake))
    face = run_json("gallery", "show", "person-3", *at)["faces"][0]["face_id"]
    run_json("correct", "not-a-face", face, *at)
    assert run_json("plan", *at)["next_run"] == 1
    run_json("correct", "undo", "1", *at)
    assert run_json("plan", *at)["next_run"] == 0
    run_json("ledger", "expire", "--source", "album", *at)
    for person in ("person-1", "person-2"):
        grant = ("--subject", person, "--purpose", "identity-grouping", "--basis", "signed release")
        run_json("ledger", "grant", *grant, *at)
    planned = run_json("plan", *at)
    embed = run_json("nightly", "--accept-loss", *at)["stages"]["embed"]
    assert (embed["swept_changed"], planned["next_run"]) == (
        planned["embed_again"],
        embed["embedded"] + embed["rejected"],
    )
    assert planned["embed_again"] > 20
    assert embed["swept_faces"].keys() == {"refused"}
    lost = embed["swept_faces"]["refused"]
    assert f"{lost} in photos that are refused now. Check" in section(demo_lake, "alerts")
    assert "with other content or another cover" not in section(demo_lake, "alerts")


Stage = Callable[..., RecordedStage]


@pytest.fixture
def stage() -> Stage:
    def make(name: str, at: int, swept_faces: dict[str, int] | None = None, **counts: int) -> RecordedStage:
        return RecordedStage(f"run-{at}", name, at, 1.0, counts, {"swept_faces": swept_faces} if swept_faces else {}, 0)

    return make


def test_what_changed_is_counted_from_the_previous_gallery_on(stage: Stage) -> None:
    runs = {
        "admit": [
            stage("admit", 1, read=100, added=100),
            stage("admit", 4, added=7, newly_withdrawn=8),
            stage("admit", 6, vanished=5, newly_refused=1, newly_admitted=60),
        ],
        "embed": [
            stage("embed", 2, {"vanished": 99}, swept_changed=98),  # before the gallery that is compared with
            stage("embed", 5, {"withdrawn": 9}, swept_changed=3),
            stage("embed", 7, {"vanished": 6, "withdrawn": 1}),
        ],
        "publish": [
            stage("publish", 3, gallery=1, changes_retired=7),
            stage("publish", 8, gallery=2, changes_retired=2, changes_merged=1, changes_created=3, changes_grew=9),
        ],
        "erase": [stage("erase", 0, images=7), stage("erase", 5, images=10, faces=11, identities_retired=1)],
    }
    removed = removed_since(runs, galleries(1, 2))
    decisions = {"added": 7, "vanished": 5, "newly_withdrawn": 8, "newly_refused": 1, "newly_admitted": 60}
    changes = {"retired": 2, "merged": 1, "created": 3}
    assert removed == Removed(10, 11, 1, decisions, {"withdrawn": 10, "vanished": 6}, changes, 3)
    assert removed.of_identities() == "1 erased, 2 without faces, 1 merged into others, 3 new"
    assert removed.of_faces() == "11 erased, 10 withdrawn, 6 in photos that are no longer in the corpus"
    assert removed.in_words() == (
        "Since the previous run: 7 photos are new, 5 are no longer in the corpus, 8 were withdrawn, 1 is refused now for "
        "another reason, 60 are allowed that had been refused, 3 have other content or another cover now, 10 were erased."
    )
    assert removed_since(runs, galleries(1)) == Removed()
    assert Removed().in_words() == ""
    assert Removed(photos=1).in_words() == "Since the previous run: 1 photo was erased."


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
    assert removed_since(runs, galleries(1, 3)) == Removed(photos=300, faces=310)


def test_a_publish_without_a_new_gallery_is_not_the_previous_one(stage: Stage) -> None:
    """The loss from gallery 1 to 2 stays explained while gallery 2 is the present one."""
    admits = [stage("admit", at) for at in (1, 4, 6)]
    publishes = [stage("publish", at, gallery=gallery) for at, gallery in ((2, 1), (5, 2), (7, 2))]
    runs = {"admit": admits, "publish": publishes, "erase": [stage("erase", 3, faces=310)]}
    assert previous_admit(runs, galleries(1, 2)) is admits[0]
