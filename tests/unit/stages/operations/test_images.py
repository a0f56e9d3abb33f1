"""Photos are listed by what became of them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.corpus_rewrite import empty_rows
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.operations.images import Fate, list_images
from facelake.stages.reporting.promises import count_admissions
from tests.conftest import run_cli, run_json


def test_every_photo_is_found_by_its_fate(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    with writing(load_config(lake=lake), "test") as context:
        names = ["=cmd|x", "b", "c"]
        write_corpus_file(context, [{"image_id": f"{n}", "image": b"x", "source_id": "s"} for n in names])
        write_corpus_file(context, [{"image_id": "t/1", "image": b"x", "source_id": "t"}])
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", ("identity-grouping",), "b")])
        admit(context)
        (file,) = {
            row["corpus_file"] for row in context.lake["admissions"].read().to_pylist() if row["source_id"] == "s"
        }
        row = dict.fromkeys(context.lake["rejects"].schema.names) | {"image_id": "b", "reason": "no_face"}
        row |= {"detail": "no face above 0.8", "corpus_file": file, "corpus_row": 1}
        context.lake["rejects"].append([row])
        found = {(i.image_id, str(i.fate), i.reason) for i in list_images(context.lake, set(Fate))}
    assert found == {
        ("b", "rejected", "no_face"),
        ("t/1", "refused", "no_basis"),
        ("=cmd|x", "missing", "not_embedded"),
        ("c", "missing", "not_embedded"),
    }
    sources = {i.image_id: i.source_id for i in list_images(Lake.open(lake), set(Fate))}
    assert sources["b"] == "s"
    done = run_cli("images", "--reason", "no_fase", "--lake", lake)
    assert (done.returncode, "did you mean 'no_face'" in done.stderr) == (2, True)
    said = run_json("images", "--refused", "--reason", "no_basis", "--lake", lake)["images"]
    assert [row["image_id"] for row in said] == ["t/1"]
    assert run_json("images", "--reason", "expired", "--lake", lake)["images"] == []
    rows = list(csv.DictReader(io.StringIO(run_cli("images", "--csv", "--lake", lake).stdout)))
    assert sorted(row["image_id"] for row in rows) == ["'=cmd|x", "b", "c", "t/1"]
    assert [row["detail"] for row in rows if row["fate"] == "rejected"] == ["no face above 0.8"]


def test_rows_that_an_erasure_emptied_are_neither_photos_nor_refused(tmp_path: Path) -> None:
    config = load_config(lake=str(tmp_path / "lake"))
    with writing(config, "test") as context:
        write_corpus_file(context, [{"image_id": n, "image": b"x", "source_id": "s"} for n in "abc"])
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", ("identity-grouping",), "b")])
        admit(context)
        empty_rows(config, ["b"])
        counts = admit(context).counts
        assert (counts["read"], counts["admitted"], counts["refused"], counts["emptied"]) == (2, 2, 0, 1)
        assert [image.image_id for image in list_images(context.lake, {Fate.REFUSED})] == []
        assert count_admissions(context).read == 2


def test_photos_that_left_the_corpus_are_named_until_their_decisions_are_deleted(tmp_path: Path) -> None:
    lake, corpus = str(tmp_path / "lake"), tmp_path / "photos"
    (corpus / "s").mkdir(parents=True)
    for name in "abcdefgh":
        (corpus / "s" / f"{name}.jpg").write_bytes(name.encode())
    config = load_config(
        lake=lake, overrides={"corpus": {"uri": str(corpus), "columns": {"source_id": {"constant": "s"}}}}
    )
    with writing(config, "test") as context:
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", ("identity-grouping",), "b")])
        assert admit(context).counts["read"] == 8
        assert list(list_images(context.lake, {Fate.VANISHED})) == []
    (corpus / "s" / "b.jpg").unlink()
    (corpus / "s" / "i.jpg").write_bytes(b"i")
    with writing(config, "test") as context:
        assert admit(context).counts["vanished"] == 1
        (gone,) = list_images(context.lake, {Fate.VANISHED})
        assert (gone.image_id, gone.source_id, gone.reason) == ("s/b.jpg", "s", "not_in_corpus")
    assert [row["image_id"] for row in run_json("images", "--vanished", "--lake", lake)["images"]] == ["s/b.jpg"]
    assert {row["fate"] for row in run_json("images", "--lake", lake)["images"]} == {"missing"}
    for file in (tmp_path / "lake" / "admissions").glob("*.parquet"):
        if file.name not in {f.path for f in Lake.open(lake)["admissions"].snapshot().files}:
            file.unlink()
    done = run_cli("images", "--vanished", "--lake", lake)
    assert (done.returncode, "that named the 1 photo that vanished were deleted" in done.stderr) == (2, True)
    with writing(config, "test") as context:
        (corpus / "s" / "j.jpg").write_bytes(b"j")
        assert "vanished" not in admit(context).counts
        context.lake["admissions"].purge_history()  # as a run that removes faces does
        assert list(list_images(context.lake, {Fate.VANISHED})) == []  # none vanished, whatever is deleted
