"""With `on_erase: delete` an erasure deletes the photos of a person, and no file that only claims to be one."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import Erased, erase

P = "identity-grouping"
PERSON = "person-000001"


def erased(tmp_path: Path, corpus: dict[str, Any]) -> Erased:
    given = {f"corpus.{name}": value for name, value in corpus.items()} | {"corpus.on_erase": "delete"}
    with writing(load_config(lake=str(tmp_path / "lake"), overrides=given), "test") as context:
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", (P,), "b")])
        context.now = datetime.now(UTC)
        assert admit(context).counts["admitted"]
        done = erase(context, Request.of(subjects=[PERSON]))
        removed = json.loads(context.lake.store.read(done.certificate))["body"]["removed"]
        assert removed["own_store_left"] == len(done.left_to_delete)
    return done


def test_links_and_second_names_are_left_and_listed(tmp_path: Path) -> None:
    photos, outside = tmp_path / "photos", tmp_path / "outside"
    photos.mkdir()
    outside.mkdir()
    for place in (photos / f"{PERSON}_plain.jpg", outside / "linked.jpg", outside / "second.jpg"):
        place.write_bytes(place.name.encode())
    (photos / f"{PERSON}_link.jpg").symlink_to(outside / "linked.jpg")
    os.link(outside / "second.jpg", photos / f"{PERSON}_hard.jpg")
    columns = {"subject_ref": {"regex": "(person-[0-9]+)"}, "source_id": {"constant": "school"}}
    done = erased(tmp_path, {"uri": str(photos), "columns": columns, "follow_links": True})
    assert done.counts["own_store_deleted"] == 1
    assert sorted(Path(place).name for place in done.left_to_delete) == [f"{PERSON}_hard.jpg", f"{PERSON}_link.jpg"]
    assert not (photos / f"{PERSON}_plain.jpg").exists()
    assert (outside / "linked.jpg").exists()


@pytest.mark.parametrize("form", ["{outside}/other.jpg", "file://{outside}/other.jpg"])
def test_a_manifest_cannot_have_any_file_deleted(form: str, tmp_path: Path) -> None:
    photos, outside = tmp_path / "photos", tmp_path / "outside"
    photos.mkdir()
    outside.mkdir()
    (outside / "other.jpg").write_bytes(b"somebody else's")
    (photos / "own.jpg").write_bytes(b"own")
    rows = [f"{name},school,{PERSON}" for name in ("own.jpg", form.format(outside=outside), str(photos / "../photos/own.jpg"))]  # fmt: skip
    (photos / "m.csv").write_text("uri,source_id,subject_ref\n" + "\n".join(rows) + "\n")
    done = erased(tmp_path, {"uri": str(photos), "kind": "manifest"})
    assert (outside / "other.jpg").read_bytes() == b"somebody else's"
    assert not (photos / "own.jpg").exists()
    assert [Path(place).name for place in done.left_to_delete if "other" in place] == ["other.jpg"]
