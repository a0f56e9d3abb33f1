"""Identities of several subjects and subjects in several identities: listed, counted in the report, and asked about."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import facelake
from facelake.cluster import columns
from facelake.config import load_config
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.gallery import subjects
from facelake.stages.gallery.subjects import SubjectCounts, count_contradictions
from facelake.stages.gallery.versions import require_gallery
from facelake.stages.reporting.report import report
from tests.conftest import run_cli, run_json
from tests.review_world import World, spoil


@pytest.fixture(scope="module")
def spoiled(demo_template: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    """The demo lake with person-1 and person-2 in one identity and person-3 in two."""
    lake = Path(shutil.copytree(demo_template[0], tmp_path_factory.mktemp("subjects") / "lake"))
    return lake, spoil(lake)


@pytest.fixture
def lake(spoiled: tuple[Path, World], tmp_path: Path) -> Path:
    return Path(shutil.copytree(spoiled[0], tmp_path / "lake"))


def listed(lake: Path, *options: str) -> dict[str, Any]:
    return run_json("gallery", "subjects", "--lake", str(lake), *options)


def test_a_sound_gallery_has_none(demo_lake: Path) -> None:
    found = listed(demo_lake)
    assert (found["joined"], found["divided"]) == ([], [])
    assert found["photos"] == 184  # 23 portraits of eight people


def test_a_wrong_merge_and_a_divided_person_are_listed(spoiled: tuple[Path, World]) -> None:
    lake, world = spoiled
    found = listed(lake)
    [joined], [divided] = found["joined"], found["divided"]
    assert (joined["identity_id"], joined["photos"], joined["apart"]) == (world.merged, 46, 23)
    parts = [(part["subject_ref"], part["photos"]) for part in joined["parts"]]
    assert sorted(parts) == [("person-1", 23), ("person-2", 23)]
    assert (divided["subject_ref"], divided["photos"], divided["apart"]) == ("person-3", 23, 11)
    assert sorted(part["identity_id"] for part in divided["parts"]) == list(world.twins)
    assert [part["photos"] for part in divided["parts"]] == [12, 11]
    by_api = facelake.open(str(lake)).contradictions()
    assert by_api.counts.joined == by_api.counts.divided == 1
    assert [item.name for item in by_api.joined] == [world.merged]
    shown = run_cli("gallery", "subjects", "--lake", str(lake)).stdout
    assert "person-1 23" in shown
    assert f"{world.twins[0]} 1" in shown
    assert "1 identity with photos of several subjects, 1 subject with photos in several identities" in shown


def test_a_photo_of_several_people_is_no_evidence(lake: Path) -> None:
    before = listed(lake)
    table = Lake.open(str(lake))["admissions"]
    rows = table.read()
    group = pc.starts_with(rows["image_id"], "album/group-")
    assert pc.sum(group).as_py() == 12
    named = pc.if_else(group, "person-4", rows["subject_ref"])
    table.replace_all(rows.set_column(rows.schema.get_field_index("subject_ref"), "subject_ref", named))
    assert listed(lake) == before


def test_who_withdrew_is_not_listed(lake: Path, tmp_path: Path) -> None:
    run_json("ledger", "withdraw", "--subject", "person-2", "--lake", str(lake))
    found = listed(lake)
    assert found["joined"] == []
    assert found["joined_total"] == 0
    assert found["photos"] == 184 - 23
    assert "person-2" not in json.dumps(found)
    run_json("ledger", "withdraw", "--subject", "person-3", "--lake", str(lake))
    assert listed(lake)["divided_total"] == 0


def test_the_lists_are_bounded_and_the_totals_are_not(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Lake.open(str(lake))["admissions"]
    rows = table.read()
    one_each = pa.array([f"subject-{i}" for i in range(rows.num_rows)])
    table.replace_all(rows.set_column(rows.schema.get_field_index("subject_ref"), "subject_ref", one_each))
    found = listed(lake, "--most", "1")
    assert found["joined_total"] > 5
    assert len(found["joined"]) == 1
    assert found["joined"][0]["count"] == 46
    assert len(found["joined"][0]["parts"]) == subjects.MOST_PARTS


def test_references_with_the_same_key_are_told_apart(
    spoiled: tuple[Path, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, now = Lake.open(str(spoiled[0])), load_now(spoiled[0])
    right = subjects.find_contradictions(lake, 9, now)
    real = columns.keys

    def colliding(column: pa.ChunkedArray | pa.Array, salt: int = 0) -> Any:
        texts = pc.if_else(pc.equal(column, "person-3"), "person-1", column) if salt == 0 else column
        return real(texts, salt)

    monkeypatch.setattr(columns, "keys", colliding)
    found = subjects.find_contradictions(lake, 9, now)
    assert found.counts == right.counts
    assert (found.counts.joined, found.counts.divided) == (1, 1)
    assert found.divided[0].name == "person-3"


def load_now(lake: Path) -> Any:
    with writing(load_config(lake=str(lake)), "test") as context:
        return context.now


def test_the_report_counts_them_and_the_queue_asks(lake: Path, spoiled: tuple[Path, World]) -> None:
    world = spoiled[1]
    with writing(load_config(lake=str(lake)), "test") as context:
        report(context)
        questions = context.lake["reviews"].read().to_pylist()
    page = (lake / "reports" / "latest.html").read_text()
    assert "By the 184 photos that name a subject and have exactly one face: 1 identity" in page
    assert "1 subject reference with photos in several identities" in page
    assert "person-1" not in page
    assert "person-3" not in page
    two, same = (next(q for q in questions if q["kind"] == kind) for kind in ("two_people", "same_person"))
    assert two["identity_id"] == world.merged
    assert "its photos with one face name 2 subjects (23 and 23 photos)" in two["reason"]
    assert sorted((same["identity_id"], same["other_id"])) == list(world.twins)
    assert "name the same subject are in both (12 and 11 photos)" in same["reason"]


def test_the_report_reads_the_recorded_counts_until_photos_change(lake: Path) -> None:
    with writing(load_config(lake=str(lake)), "test") as context:
        gallery = require_gallery(context.lake)
        assert count_contradictions(gallery) == SubjectCounts(184, 1, 1)
        drift, admissions = context.lake["drift"], context.lake["admissions"]
        rows = drift.read().sort_by("gallery_version")  # a table's files are in no particular order
        assert rows["joined"].to_pylist()[-1] == 1
        marked = pa.array([7] * rows.num_rows, pa.int64())
        drift.replace_all(rows.set_column(rows.schema.get_field_index("joined"), "joined", marked))
        assert count_contradictions(gallery) == SubjectCounts(184, 7, 1)  # nothing is counted again
        decided = admissions.read()
        admissions.replace_all(decided.filter(pc.not_equal(pc.fill_null(decided["subject_ref"], ""), "person-2")))
        assert count_contradictions(gallery) == SubjectCounts(184 - 23, 0, 1)
