"""With `on_erase: delete` an erasure deletes the photos of a person, and no file that only claims to be one."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.erasure.places import CORPUS_FILE
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


def test_a_manifest_cannot_have_the_lake_deleted(tmp_path: Path) -> None:
    (tmp_path / "own.jpg").write_bytes(b"own")
    rows = "".join(f"{name},school,{PERSON}\n" for name in ("own.jpg", "lake/lake.json", "lake/ledger-head.json"))
    (tmp_path / "m.csv").write_text("uri,source_id,subject_ref\n" + rows)
    done = erased(tmp_path, {"uri": str(tmp_path / "m.csv"), "kind": "manifest"})
    assert done.counts["own_store_deleted"] == 1
    assert (tmp_path / "lake/lake.json").exists()
    assert (tmp_path / "lake/ledger-head.json").exists()


def test_photos_that_were_moved_are_not_counted_as_deleted(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        (photos / f"{PERSON}_{number}.jpg").write_bytes(str(number).encode())
    columns = {"subject_ref": {"regex": "(person-[0-9]+)"}, "source_id": {"constant": "school"}}
    given = {"corpus.uri": str(photos), "corpus.columns": columns, "corpus.on_erase": "delete"}
    settings, notes = load_config(lake=str(tmp_path / "lake"), overrides=given), list[str]()
    with writing(settings, "test", lambda event: notes.append(str(event))) as context:
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", (P,), "b")])
        admit(context)
        (photos / f"{PERSON}_1.jpg").rename(tmp_path / "elsewhere.jpg")
        photos.rename(tmp_path / "moved")
        with pytest.raises(ConfigError, match="the corpus cannot be read"):
            erase(context, Request.of(subjects=[PERSON]))
        photos.mkdir()  # an empty mount point
        with pytest.raises(ConfigError, match="the corpus cannot be read"):
            erase(context, Request.of(subjects=[PERSON]))
        photos.rmdir()
        (tmp_path / "moved").rename(photos)
        done = erase(context, Request.of(subjects=[PERSON]))
        removed = json.loads(context.lake.store.read(done.certificate))["body"]["removed"]
    counts = {name: removed[f"own_store_{name}"] for name in ("deleted", "not_found", "left")}
    assert counts == {"deleted": 2, "not_found": 1, "left": 0}
    assert list(photos.iterdir()) == []
    assert any(f"1 photo of the index is not at the place any more: {PERSON}_1.jpg" in note for note in notes)


def test_a_rule_that_finds_nobody_is_refused_and_photos_without_a_person_are_named(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("200001_a.jpg", "200002_a.jpg", "scan.jpg"):
        (photos / name).write_bytes(name.encode())

    def admitted(regex: str) -> list[str]:
        columns = {"subject_ref": {"regex": regex}, "source_id": {"constant": "school"}}
        given, notes = {"corpus.uri": str(photos), "corpus.columns": columns}, list[str]()
        settings = load_config(lake=str(tmp_path / "lake"), overrides=given)
        with writing(settings, "test", lambda event: notes.append(str(event))) as context:
            record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", (P,), "b")])
            admit(context)
        return notes

    with pytest.raises(ConfigError, match=r"finds no person in any of 3 photos, such as 200001_a\.jpg"):
        admitted(r"(\d{7})_")
    assert any("1 photo of 3 without a subject reference, such as scan.jpg" in note for note in admitted(r"(\d{6})_"))
    assert not any("without a subject reference" in note for note in admitted(r"(\d{6})_"))


def test_a_corpus_file_called_after_the_person_is_told_and_counted_apart(tmp_path: Path) -> None:
    """The lake has its name as long as the file is called so; that is not a coincidence like a recipient's name."""
    photos, notes = tmp_path / "photos", list[str]()
    photos.mkdir()
    for name in (PERSON, "person-000002"):
        rows = [{"image_id": f"{name}/1.jpg", "image": name.encode(), "source_id": "school", "subject_ref": name}]
        pq.write_table(pa.Table.from_pylist(rows), photos / f"{name}.parquet")
    settings = load_config(lake=str(tmp_path / "lake"), overrides={"corpus.uri": str(photos)})
    with writing(settings, "test", lambda event: notes.append(str(event))) as context:
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", (P,), "b")])
        context.now = datetime.now(UTC)
        assert admit(context).counts["admitted"] == 2
        done = erase(context, Request.of(subjects=[PERSON]))
        scan = json.loads(context.lake.store.read(done.certificate))["body"]["residual_scan"]
    assert list(scan["coincidences"]) == [CORPUS_FILE]
    assert any("rename the file if it is called after the person" in note for note in notes)
