"""Erasures that cannot be finished today, and lakes that another program changes while they are searched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from facelake.config import load_config
from facelake.contracts import label
from facelake.errors import Corrupt, Retryable
from facelake.events import Event, Notice
from facelake.nightly import run_night, writing
from facelake.stages.erasure import lake_scan, stage
from facelake.stages.erasure.notes import PENDING, pending
from facelake.stages.erasure.stage import erase
from tests.e2e.test_erasure_variants import PERSON, erased

SWEPT = "album/person-3-00.jpg"
BEGUN = ["before it suppressed", "before it certified"]


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("begun", BEGUN)
def test_an_erasure_that_a_run_cannot_finish_does_not_stop_the_run(
    demo_lake: Path, begun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Java is missing, say; and nobody of the erasure is admitted meanwhile, wherever it was killed."""
    config, events = load_config(lake=str(demo_lake)), list[Event]()
    with monkeypatch.context() as patch, writing(config, "test") as context:
        patch.setattr(stage, "suppress_targets" if begun == BEGUN[0] else "_certify", _stop)
        with pytest.raises(KeyboardInterrupt):
            erase(context, PERSON)
        assert len(pending(context.lake)) == 1

    def fail(*_: Any) -> None:
        raise Retryable("Spark cannot be started", where="local[2]", next_step="check JAVA_HOME")

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_removed_and_scanned" if begun == BEGUN[0] else "_certify", fail)
        results = {result.stage: result for result in run_night(config, events.append, only=["admit"])}
    assert list(results) == ["admit"]
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert any("is not finished: Spark cannot be started" in text for text in notices)
    with writing(config, "test") as context:
        assert context.lake.keyed_hash(label("subject", "person-2")) in context.lake.suppressed()
        rows = context.lake["admissions"].read(["subject_ref", "admitted"]).to_pylist()
        assert not any(row["admitted"] for row in rows if row["subject_ref"] == "person-2")
        (result,) = stage.finish_erasures(context)
        assert result.counts["residual_hits"] == 0
    assert not list((demo_lake / PENDING).iterdir())


def test_a_gallery_whose_faces_an_interrupted_run_has_swept_is_not_certified(demo_lake: Path) -> None:
    """Their photos were renamed, say: the gallery's faces of the person are under names that nothing leads to."""
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        faces = context.lake["faces"]
        faces.rewrite(faces.snapshot().files, ["image_id"], lambda rows: pc.not_equal(rows["image_id"], SWEPT))
        with pytest.raises(Corrupt, match=r"not certified: 1 face .* interrupted run .*`facelake nightly`"):
            erase(context, PERSON)
        assert len(pending(context.lake)) == 1


@pytest.mark.parametrize("killed_in", [1, len(stage._REMOVALS) - 1])
def test_the_certificate_counts_what_a_killed_attempt_removed(
    demo_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: int
) -> None:
    def removed(lake: Path) -> dict[str, int]:
        events = list[Event]()
        with writing(load_config(lake=str(lake)), "test", events.append) as context:
            result = [*stage.finish_erasures(context), *([] if lake == demo_lake else [erase(context, PERSON)])][0]
            told = [event.text for event in events if isinstance(event, Notice)]
            assert lake != demo_lake or f"erased; certificate: {lake}/{result.certificate}" in told
            return dict(json.loads(context.lake.store.read(result.certificate))["body"]["removed"])

    shutil.copytree(demo_lake, tmp_path / "undisturbed")
    steps = list(stage._REMOVALS)
    steps[killed_in] = _stop
    with monkeypatch.context() as patch, writing(load_config(lake=str(demo_lake)), "test") as context:
        patch.setattr(stage, "_REMOVALS", tuple(steps))
        with pytest.raises(KeyboardInterrupt):
            erase(context, PERSON)
    assert removed(demo_lake) == removed(tmp_path / "undisturbed")


def after_the_scan(monkeypatch: pytest.MonkeyPatch, *changes: Callable[[], object]) -> list[int]:
    """Change the lake after the first, second, ... scan, before its hits are sorted; returns how often it ran."""
    scan, left, ran = lake_scan.scan_objects, list(changes), list[int]()

    def changing(*args: Any) -> Any:
        result = scan(*args)
        ran.append(result[0])
        if left:
            left.pop(0)()
        return result

    monkeypatch.setattr(lake_scan, "scan_objects", changing)
    return ran


def test_an_object_that_is_deleted_before_its_hits_are_sorted_holds_nothing(
    demo_lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = demo_lake / "notes.txt"
    notes.write_text("person-2")
    ran = after_the_scan(monkeypatch, notes.unlink)
    assert erased(demo_lake).counts["objects_scanned"] == ran[-1]
    assert len(ran) == 2  # it could have been moved
    assert ran[1] == ran[0] - 1


def test_an_object_that_is_moved_before_its_hits_are_sorted_is_found(
    demo_lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = demo_lake / "notes.txt"
    notes.write_text("person-2")
    after_the_scan(monkeypatch, lambda: notes.rename(demo_lake / "a-new-name.txt"))
    with pytest.raises(Corrupt, match=r"1 remains in a-new-name\.txt"):
        erased(demo_lake)


def test_an_object_that_is_replaced_before_its_hits_are_sorted_is_searched_as_it_is(
    demo_lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = demo_lake / "notes.txt"
    notes.write_text("person-2")
    with monkeypatch.context() as patch:
        after_the_scan(patch, lambda: notes.write_text("person-2, person-2 and person-2"))
        with pytest.raises(Corrupt, match=r"3 remains in notes\.txt \(3\)"):
            erased(demo_lake)
    after_the_scan(monkeypatch, lambda: notes.write_text("nobody"))
    assert erased(demo_lake).counts["residual_hits"] == 0


def test_a_lake_in_which_objects_vanish_again_and_again_is_not_certified(
    demo_lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = [demo_lake / f"notes-{number}.txt" for number in range(4)]
    for path in notes:
        path.write_text("person-2")
    ran = after_the_scan(monkeypatch, *(path.unlink for path in notes))
    with pytest.raises(Retryable, match="deleted or moved each time"):
        erased(demo_lake)
    assert len(ran) == lake_scan._MOST_SCANS == 3
    assert not [path for path in (demo_lake / "audit").glob("*.json") if b'"erasure"' in path.read_bytes()]
