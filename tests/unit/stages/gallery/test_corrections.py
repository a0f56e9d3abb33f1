"""Corrections in a lake: what `how` and `explain` say about them, and how an identity is found by its photo."""

from __future__ import annotations

from pathlib import Path

import pytest

from facelake.bench.synthetic_lake import Population, add_faces, write_groups
from facelake.config import load_config
from facelake.contracts import Verdict
from facelake.errors import ConfigError
from facelake.nightly import writing
from facelake.stages.clustering.explain import deciding_corrections
from facelake.stages.core.context import Context
from facelake.stages.gallery.corrections import (
    CorrectionRequest,
    corrections_digest,
    list_corrections,
    record_correction,
    undo,
)
from facelake.stages.gallery.publish import publish
from facelake.stages.gallery.versions import current_gallery
from facelake.stages.sharing.export import show
from tests.conftest import run_cli

PEOPLE = Population(60, 16, 6, seed=5)


def members(context: Context) -> dict[str, list[str]]:
    """Face ids by identity, the largest identity first."""
    gallery = current_gallery(context.lake)
    assert gallery
    faces: dict[str, list[str]] = {}
    for row in gallery.read("memberships", ["face_id", "identity_id"]).sort_by("face_id").to_pylist():
        faces.setdefault(row["identity_id"], []).append(row["face_id"])
    return dict(sorted(faces.items(), key=lambda item: (-len(item[1]), item[0])))


def how(context: Context, faces: list[str]) -> set[str]:
    gallery = current_gallery(context.lake)
    assert gallery
    rows = gallery.read("memberships", ["face_id", "how"]).to_pylist()
    return {row["how"] for row in rows if row["face_id"] in faces}


def test_what_corrections_leave_behind_and_decide(tmp_path: Path) -> None:
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        add_faces(context, PEOPLE, 0, PEOPLE.faces)
        write_groups(context, PEOPLE, PEOPLE.faces)
        publish(context)
        (confirmed, own), (divided, faces), (a, _), (b, _), *_ = members(context).items()

        # the confirmation of a face that was split from another one says nothing about that pair
        split = record_correction(context, CorrectionRequest(Verdict.SPLIT, divided, faces=(faces[0],)))
        kept = record_correction(context, CorrectionRequest(Verdict.CONFIRM, divided, faces=(faces[1],)))
        assert [row["seq"] for row in deciding_corrections(context.lake, faces[0], faces[1])] == [split["seq"]]
        assert [row["seq"] for row in deciding_corrections(context.lake, faces[1], faces[2])] == [kept["seq"]]

        # a confirmation that was undone leaves no trace in an identity that does not change
        record_correction(context, CorrectionRequest(Verdict.MERGE, a, b))
        confirmation = record_correction(context, CorrectionRequest(Verdict.CONFIRM, confirmed, faces=tuple(own[:2])))
        publish(context)
        assert how(context, own[:2]) == {"corrected"}
        undo(context, confirmation["seq"])
        publish(context)
        assert how(context, own) == {"grouped"}
        assert how(context, faces[1:2]) == {"corrected"}

        listed = run_cli("correct", "list", "--lake", context.lake.uri).stdout.splitlines()
        split_line = next(line for line in listed if line.split()[:2] == ["1", "split"])
        assert split_line.split()[-3:] == ["1", "in", "force"]
        assert listed[-1].endswith(f"undoes {confirmation['seq']}")

        (row,) = [row for row in show(context.lake, confirmed, None)[1] if row["face_id"] == own[0]]
        columns, found = show(context.lake, row["image_id"], None, by_photo=True)
        assert columns[0] == "identity_id"
        assert (confirmed, own[0]) in {(item["identity_id"], item["face_id"]) for item in found}
        with pytest.raises(ConfigError, match="no active identity 'nobody'"):
            show(context.lake, "nobody", None, by_photo=True)


def test_a_correction_that_is_stated_again_is_not_recorded_again(tmp_path: Path) -> None:
    """Else undoing one of the two would change nothing."""
    said: list[str] = []
    with writing(load_config(lake=str(tmp_path / "lake")), "test", lambda event: said.append(str(event))) as context:
        add_faces(context, PEOPLE, 0, PEOPLE.faces)
        write_groups(context, PEOPLE, PEOPLE.faces)
        publish(context)
        (a, faces), (b, _), *_ = members(context).items()
        split = CorrectionRequest(Verdict.SPLIT, a, faces=tuple(faces[:2]))
        merge, turned = CorrectionRequest(Verdict.MERGE, a, b), CorrectionRequest(Verdict.MERGE, b, a)
        assert [record_correction(context, item)["seq"] for item in (split, split, merge, turned)] == [1, 1, 2, 2]
        assert sum("says the same already" in line for line in said) == 2
        undo(context, 1)
        assert corrections_digest(context.lake) == [2]
        assert record_correction(context, split)["seq"] == 4  # what was undone is stated anew


def test_the_identity_of_an_undone_merge_returns_with_the_next_run(tmp_path: Path) -> None:
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        add_faces(context, PEOPLE, 0, PEOPLE.faces)
        write_groups(context, PEOPLE, PEOPLE.faces)
        publish(context)
        a, b, *_ = members(context)
        record_correction(context, CorrectionRequest(Verdict.MERGE, a, b))
        publish(context)
        gone = b if b not in members(context) else a
        with pytest.raises(ConfigError, match=r"merged into .*Next: use") as told:
            record_correction(context, CorrectionRequest(Verdict.DISTINCT, a, b))
        assert gone in told.value.what
        undo(context, 1)
        with pytest.raises(
            ConfigError, match=r"Next: run `facelake nightly` first, which applies the last undo; else use"
        ):
            record_correction(context, CorrectionRequest(Verdict.DISTINCT, a, b))
        with pytest.raises(ConfigError, match="2 is an undo, which cannot be undone"):
            undo(context, 2)
        publish(context)
        assert record_correction(context, CorrectionRequest(Verdict.DISTINCT, a, b))["seq"] == 3


def test_a_long_review_stays_few_files(tmp_path: Path) -> None:
    """Every correction reads all earlier ones, so that a file per correction would make each slower than the last."""
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        add_faces(context, PEOPLE, 0, PEOPLE.faces)
        write_groups(context, PEOPLE, PEOPLE.faces)
        publish(context)
        (name, faces), *_ = members(context).items()
        table = context.lake["corrections"]
        for number in range(40):
            chosen = tuple(face for at, face in enumerate(faces[:6]) if (number + 1) >> at & 1)
            request = CorrectionRequest(Verdict.CONFIRM, name, faces=chosen, reason=f"look {number}")
            assert record_correction(context, request)["seq"] == number + 1
        assert undo(context, 3)["seq"] == 41
        assert len(table.snapshot().files) <= 32
        rows = list_corrections(context.lake)
        assert [row["seq"] for row in rows] == list(range(1, 42))
        assert [row["reason"] for row in rows[:40]] == [f"look {number}" for number in range(40)]
        assert [row["seq"] for row in rows if row["counts"] is False] == [3]
