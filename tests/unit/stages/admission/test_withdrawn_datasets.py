"""Withdrawn data sets are refused in corpora, folders, rows, photos and model cards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.config import Config, load_config
from facelake.contracts import Reject
from facelake.embed import Pack, Pipeline, PipelineOptions
from facelake.errors import ConfigError, Refused
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import OpenedCorpus
from facelake.stages.admission.withdrawn_datasets import (
    accepted_lineage,
    load_lineages,
    refuse_retracted_corpus,
    refuse_retracted_folder,
    retracted_contents,
    retracted_rows,
)
from facelake.stages.models.registry import find_card

LINEAGES = load_lineages(Config())


def corpus(
    root: Path, metadata: dict[str, str] | None = None, ids: tuple[str, ...] = ("a.jpg", "b.jpg")
) -> OpenedCorpus:
    root.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image_id": list(ids), "image": [b"x"] * len(ids), "source_id": ["s"] * len(ids)})
    pq.write_table(table.replace_schema_metadata(metadata or {}), root / "part-0.parquet")
    return OpenedCorpus(resolve_corpus(Config.model_validate({"corpus": str(root)})))


def refused(found: OpenedCorpus) -> str:
    with pytest.raises(Refused) as caught:
        refuse_retracted_corpus(found, LINEAGES)
    return str(caught.value)


def test_an_ordinary_corpus_passes(tmp_path: Path) -> None:
    found = corpus(tmp_path / "school-2026", {"dataset": "our school", "pandas": "{}"})
    (tmp_path / "school-2026" / "dataset.json").write_text(json.dumps({"name": "portraits", "photographer": "Duke"}))
    (tmp_path / "school-2026" / "broken.json").write_text("{")
    (tmp_path / "school-2026" / "notes.yaml").write_bytes(b"\xff\xfe: [")
    refuse_retracted_corpus(found, LINEAGES)


def test_a_corpus_that_declares_a_withdrawn_set_is_refused(tmp_path: Path) -> None:
    assert "MS-Celeb-1M" in refused(corpus(tmp_path / "a", {"lineage": "cleaned from MS-Celeb-1M"}))
    assert "Brainwash" in refused(corpus(tmp_path / "b", {"dataset": "brainwash"}))
    assert "location" in refused(corpus(tmp_path / "faces_emore" / "images"))
    for number, (name, text) in enumerate(
        [
            ("dataset_info.json", json.dumps({"dataset_name": "vgg-face2"})),
            ("croissant.json", json.dumps({"name": "x", "derived_from": ["own photos", "DukeMTMC-reID"]})),
            ("data.yaml", "name: RFW\n"),
        ]
    ):
        found = corpus(tmp_path / f"c{number}")
        (tmp_path / f"c{number}" / name).write_text(text)
        assert name in refused(found)


def test_a_corpus_is_recognised_by_its_file_names(tmp_path: Path) -> None:
    found = corpus(tmp_path / "neutral")
    for name in ("train.rec", "train.idx"):
        (tmp_path / "neutral" / name).write_bytes(b"")
    assert "unknown lineage" in refused(found)
    (tmp_path / "neutral" / "property").write_text("85742,112,112")
    assert "MS1MV2" in refused(found)


def test_rows_are_recognised_by_ids_and_sources() -> None:
    ids = [f"class-{i % 9}/IMG_{i:04d}.jpg" for i in range(3000)] + ["x/m.0107_f/10-FaceId-0.jpg", None]
    sources = ["school"] * 2999 + ["ms1m-retinaface-t1", "school", "school"]
    found = retracted_rows(LINEAGES, ids, sources)
    assert [i for i, name in enumerate(found) if name] == [2999, 3000]


def test_folders_to_be_imported(tmp_path: Path, shared: Path) -> None:
    london = shared / "data/london"
    refuse_retracted_folder(london, "london", [p for p in london.rglob("*") if p.is_file()], LINEAGES)
    folder = tmp_path / "portraits"
    folder.mkdir()
    (folder / "MsCelebV1-Faces-Aligned.tsv").write_text("")
    for source, files in (("portraits", list(folder.iterdir())), ("VGGFace2_train", [])):
        with pytest.raises(Refused, match="withdrawn"):
            refuse_retracted_folder(folder, source, files, LINEAGES)


def test_known_photos_are_rejected_undecoded(tmp_path: Path, pack: Pack) -> None:
    digest = hashlib.sha256(b"not even a photo").hexdigest()
    own = tmp_path / "own.yaml"
    entry = f"{{name: Our Leak, aliases: [Our Leak], withdrawn: '2026', by: us, why: w, source: s, content_sha256: [{digest}]}}"
    own.write_text(f"sets: [{entry}]\n")
    config = load_config(None, overrides={"governance.retracted": [str(own)]})
    contents = retracted_contents(config)
    assert contents == {digest: "Our Leak"}
    (known, other) = Pipeline(pack, PipelineOptions(), contents).run([(0, "a", b"not even a photo"), (1, "b", b"x")])
    assert (known.reject, other.reject) == (Reject.RETRACTED, Reject.UNREADABLE) or other.reject is Reject.FORMAT
    own.write_text("sets: [{name: x}]\n")
    with pytest.raises(ConfigError):
        retracted_contents(config)


def test_a_model_needs_a_reason_for_each_withdrawn_set() -> None:
    card = find_card("opencv")
    assert set(accepted_lineage(Config(), card)) == {"VGGFace2", "MS1MV2"}
    other = card.model_copy(update={"name": "mine"})
    with pytest.raises(Refused, match=r"VGGFace2.*withdrawn"):
        accepted_lineage(Config(), other)
    half = load_config(None, overrides={"model.accept_lineage": {"vgg-face-2": "research only"}})
    with pytest.raises(Refused, match="MS1MV2"):
        accepted_lineage(half, other)
    with pytest.raises(Refused, match="MS1MV2"):
        accepted_lineage(half, card)  # a config that names its own replaces what is said of the default card
    both = load_config(None, overrides={"model.accept_lineage": {"VGGFace2": "a", "ms1m-arcface": "b"}})
    assert accepted_lineage(both, other) == {"VGGFace2": "a", "MS1MV2": "b"}
    silent = card.model_copy(update={"name": "silent", "withdrawn_lineage": [], "training_data": "glint and MS1MV3"})
    with pytest.raises(Refused, match="MS1MV3"):
        accepted_lineage(Config(), silent)
    clean = card.model_copy(update={"name": "clean", "withdrawn_lineage": [], "training_data": "synthetic faces"})
    assert accepted_lineage(Config(), clean) == {}
    with pytest.raises(ConfigError, match="without a reason"):
        load_config(None, overrides={"model.accept_lineage": {"VGGFace2": " "}})


def test_a_folder_that_declares_itself_is_refused_and_links_are_not_followed(tmp_path: Path) -> None:
    from facelake.nightly import writing
    from facelake.stages.admission.import_images import import_folder

    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("root:x:0:0")
    (folder / "a.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "x.jpg").symlink_to(tmp_path / "secret.txt")
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        assert import_folder(context, str(folder)).counts["imported"] == 1
        (folder / "dataset_info.json").write_text('{"dataset_name": "MS1MV2"}')
        with pytest.raises(Refused, match="MS1MV2"):
            import_folder(context, str(folder))
