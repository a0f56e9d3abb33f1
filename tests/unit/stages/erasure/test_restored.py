"""Photos of the corpus that were erased before are found by the suppression list."""

from __future__ import annotations

from pathlib import Path

from facelake.config import load_config
from facelake.contracts import label
from facelake.nightly import writing
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.erasure.restored import restored_photos

PURPOSE = "identity-grouping"


def test_photos_are_found_by_id_subject_and_source_but_not_if_erased_for_one_purpose(tmp_path: Path) -> None:
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        rows = [("a", "s", None), ("b", "s", None), ("c", "s", "ann"), ("d", "t", "bo"), ("e", "s", "bo")]
        named = [{"image_id": i, "image": b"x", "source_id": s, "subject_ref": who} for i, s, who in rows]
        write_corpus_file(context, named)
        assert restored_photos(context) == []
        lake = context.lake
        lake.suppress(
            [label("image", "a"), label("image", "b", PURPOSE), label("subject", "ann"), label("source", "t")]
        )
        assert restored_photos(context) == ["a", "c", "d"]


def test_photos_in_the_operators_own_store_are_found_too(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (store / name).write_bytes(name.encode())
    corpus = {"uri": str(store), "kind": "files", "columns": {"source_id": {"constant": "s"}}}
    with writing(load_config(lake=str(tmp_path / "lake"), overrides={"corpus": corpus}), "test") as context:
        context.lake.suppress([label("image", "b.jpg")])
        assert restored_photos(context) == ["b.jpg"]
