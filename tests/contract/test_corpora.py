"""Every layout, in a directory and in a bucket, gives the photos that plain Parquet gives."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
import textwrap
import unicodedata
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
from deltalake import DeltaTable, write_deltalake

from facelake.config import Config, RaySection, load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import open_images
from facelake.lake.store import open_store
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.context import Context, StageResult
from facelake.stages.embedding.plan import plan
from facelake.testing.servers import Server
from tests.conftest import ROOT
from tests.corpora import LAYOUTS, Photos, delta, files, iceberg, manifest_parquet, plain

PHOTOS: Photos = {f"{name}.jpg": f"photo of {name}".encode() * 50 for name in ("ann", "bo", "cy", "dee", "ed")}
DIGESTS = sorted(sha256(data).hexdigest() for data in PHOTOS.values())


def config_of(tmp_path: Path, uri: str, **corpus: Any) -> Config:
    section = {"uri": uri, "columns": {"source_id": {"constant": "s"}}} | corpus
    return Config.model_validate({"lake": str(tmp_path / "lake"), "corpus": section})


def upload(folder: Path, uri: str) -> None:
    store = open_store(uri)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.write(path.relative_to(folder).as_posix(), path.read_bytes())


def admitted(config: Config) -> tuple[StageResult, list[dict[str, Any]]]:
    """Admission with a grant, and the admitted rows."""
    with writing(config, "test") as context:
        if context.lake["ledger"].version() < 0:
            record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", (config.purpose,), "b")])
        result = admit(context)
        rows = context.lake["admissions"].read()
        return result, rows.filter(rows["admitted"]).to_pylist()


def read(config: Config, rows: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """The id and bytes of admitted photos, as a worker reads them."""
    source = open_images(resolve_corpus(config), config.lake, config.s3)
    photos = []
    for row in rows:
        at = row["corpus_row"]
        ((_, ident, data),) = source.images(row["corpus_file"], at, at + 1, {at})
        photos.append((ident, data))
    return photos


@pytest.mark.parametrize("place", ["directory", "bucket"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_photos(layout: str, place: str, tmp_path: Path, weed_env: Server) -> None:
    kind, write = LAYOUTS[layout]
    folder = tmp_path / "corpus"
    folder.mkdir()
    name = write(folder, PHOTOS)
    uri = str(folder)
    if place == "bucket" and layout == "Iceberg":  # its metadata names complete locations
        uri = "s3://lake/iceberg"
        iceberg(folder, PHOTOS, uri)
    elif place == "bucket":
        uri = f"s3://lake/{layout.replace(' ', '-')}"
        upload(folder, uri)
        shutil.rmtree(folder)
    config = config_of(tmp_path, f"{uri}/{name}" if name else uri)
    figures = plan(config)
    assert figures["kind"] == kind
    assert figures["images"] in (len(PHOTOS), len(PHOTOS) + (layout == "img2dataset"))
    result, rows = admitted(config)
    assert result.counts["admitted"] == len(PHOTOS)
    assert sorted(row["content_sha256"] for row in rows) == DIGESTS
    assert {row["source_id"] for row in rows} == {"s"}
    photos = read(config, rows)
    assert sorted(data for _, data in photos) == sorted(PHOTOS.values())
    assert [ident for ident, _ in photos] == [row["image_id"] for row in rows]
    again, _ = admitted(config)
    assert again.skipped
    assert again.counts["hashed"] == 0


def test_a_table_is_never_read_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    delta(tmp_path / "t", PHOTOS)
    for config in (config_of(tmp_path, str(tmp_path / "t"), kind="parquet"), config_of(tmp_path, str(tmp_path))):
        with pytest.raises(ConfigError, match="Delta table, whose files include deleted rows"):
            admitted(config)
    part = next((tmp_path / "t").glob("*.parquet"))
    with pytest.raises(ConfigError, match="Delta table"):
        resolve_corpus(config_of(tmp_path, str(part)))


def test_deleted_rows_of_a_table_are_swept_from_the_decisions(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    delta(folder, PHOTOS)
    config = config_of(tmp_path, str(folder))
    assert len(admitted(config)[1]) == 5
    DeltaTable(str(folder)).delete("image_id = 'bo.jpg'")
    _, rows = admitted(config)
    assert sorted(row["image_id"] for row in rows) == ["ann.jpg", "cy.jpg", "dee.jpg", "ed.jpg"]


def test_a_delta_table_with_features_that_hide_rows_is_refused(tmp_path: Path) -> None:
    table = pa.table({"image_id": list(PHOTOS), "image": list(PHOTOS.values()), "source_id": ["s"] * len(PHOTOS)})
    write_deltalake(str(tmp_path / "t"), table, configuration={"delta.enableDeletionVectors": "true"})
    with pytest.raises(ConfigError, match="deletionVectors"):
        admitted(config_of(tmp_path, str(tmp_path / "t")))


@pytest.mark.parametrize("uri", ["https://example.org/a.jpg", "HTTP://example.org/a.jpg"])
def test_nothing_is_fetched_from_the_web(uri: str, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    manifest_parquet(tmp_path / "c", PHOTOS)
    for uris in ([uri, "album 0/ann.jpg"], ["album 0/ann.jpg", uri]):
        pq.write_table(pa.table({"uri": uris}), tmp_path / "c/manifest.parquet")
        with pytest.raises(ConfigError, match="not fetched from the web"):
            admitted(config_of(tmp_path, str(tmp_path / "c/manifest.parquet")))
    with pytest.raises(ValueError, match="not fetched from the web"):
        config_of(tmp_path, "https://example.org/photos")


def test_columns_come_from_where_the_config_says(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    LAYOUTS["webdataset"][1](folder, PHOTOS)
    columns = {
        "source_id": {"constant": "s"},
        "subject_ref": "json.person",
        "image_id": {"regex": r"shard-.*"},
        "captured_at": {"constant": "2026-01-02"},
    }
    _, rows = admitted(config_of(tmp_path, str(folder), columns=columns))
    assert {row["subject_ref"] for row in rows} == {"p0", "p1"}
    assert "shard-00001.tar/00000.jpg" in {row["image_id"] for row in rows}
    shutil.rmtree(folder)
    folder.mkdir()
    files(folder, PHOTOS)
    columns = {"source_id": {"regex": r"^album (\d)"}, "subject_ref": {"regex": r"([^/]+)\.jpg$"}}
    with writing(config_of(tmp_path, str(folder), columns=columns, kind="files"), "test") as context:
        admit(context)
        rows = context.lake["images"].read().to_pylist()
    assert {(row["source_id"], row["subject_ref"]) for row in rows} >= {("0", "ann"), ("1", "bo")}


def test_a_corpus_without_a_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    files(tmp_path / "c", PHOTOS)
    with pytest.raises(ConfigError, match="no source_id"):
        resolve_corpus(config_of(tmp_path, str(tmp_path / "c"), columns={}))


def test_one_name_in_two_unicode_forms_is_one_photo(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for form in ("NFC", "NFD"):
        (tmp_path / "c" / unicodedata.normalize(form, "café.jpg")).write_bytes(b"photo")
    result, rows = admitted(config_of(tmp_path, str(tmp_path / "c")))
    assert [row["image_id"] for row in rows] == [unicodedata.normalize("NFC", "café.jpg")]
    assert result.counts["refused_duplicate_id"] == 1


def index(context: Context) -> dict[str, str]:
    rows = context.lake["images"].read()
    return dict(zip(rows["image_id"].to_pylist(), rows["content_sha256"].to_pylist(), strict=True))


def test_the_index_of_files_is_updated_by_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facelake.stages.admission.index._PART_ROWS", 4)
    folder = tmp_path / "c"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(b"photo %d" % number)
    config = config_of(tmp_path, str(folder))
    result, _ = admitted(config)
    assert result.counts["hashed"] == 10
    (folder / "3.jpg").write_bytes(b"edited")
    (folder / "5.jpg").unlink()
    (folder / "6.jpg").rename(folder / "later.jpg")
    (folder / "new.jpg").write_bytes(b"new")
    result, rows = admitted(config)
    assert result.counts["hashed"] == 3  # edited, renamed, new
    wanted = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert {row["image_id"]: row["content_sha256"] for row in rows} == wanted
    assert sorted(read(config, rows)) == sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    with writing(config, "test") as context:
        assert index(context) == wanted
        places = context.lake["images"].read(["corpus_file", "corpus_row"])
        assert (
            places.num_rows
            == pc.count_distinct(
                pc.binary_join_element_wise(places["corpus_file"], places["corpus_row"].cast(pa.string()), "/")
            ).as_py()
        )


def test_unreadable_photos_are_named_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    uris = ["there.jpg", "missing.jpg", "folder"]
    (tmp_path / "c/there.jpg").write_bytes(b"photo")
    (tmp_path / "c/folder").mkdir()
    pq.write_table(pa.table({"uri": uris}), tmp_path / "c/m.parquet")
    config = config_of(tmp_path, str(tmp_path / "c/m.parquet"))
    notes: list[str] = []
    with writing(config, "test", lambda event: notes.append(str(event))) as context:
        counts = admit(context).counts
    assert (counts["read"], counts["left_out"]) == (1, 2)
    assert any("2 missing: missing.jpg, folder" in note for note in notes)
    (tmp_path / "c/missing.jpg").write_bytes(b"late")
    assert admitted(config)[0].counts["read"] == 2


def test_members_of_a_tar_have_the_same_ids_with_a_dot_before_them(tmp_path: Path) -> None:
    found = []
    for prefix in ("", "./"):
        folder = tmp_path / f"c{len(prefix)}"
        folder.mkdir()
        with tarfile.open(folder / "shard.tar", "w") as tar:
            for name, data in PHOTOS.items():
                member = tarfile.TarInfo(f"{prefix}album/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        config = config_of(tmp_path / prefix.strip("/"), str(folder))
        result, rows = admitted(config.model_copy(update={"lake": f"{config.lake}{len(prefix)}"}))
        assert result.counts["left_out"] == 0
        found.append(sorted(row["image_id"] for row in rows))
    assert found[0] == found[1]
    assert len(found[0]) == len(PHOTOS)


@pytest.mark.parametrize("cut", [100, 700, 2000])
def test_a_truncated_tar_is_reported(cut: int, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    LAYOUTS["webdataset"][1](tmp_path / "c", PHOTOS)
    path = tmp_path / "c/shard-00001.tar"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ConfigError, match=r"truncated or damaged.*shard-00001"):
        admitted(config_of(tmp_path, str(tmp_path / "c")))


def test_a_plain_string_stays_valid(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    plain(tmp_path / "c", PHOTOS)
    config = Config.model_validate({"lake": str(tmp_path / "lake"), "corpus": str(tmp_path / "c")})
    assert resolve_corpus(config).kind == "parquet"
    assert len(admitted(config)[1]) == 5


def test_a_manifest_with_embeddings_is_no_corpus_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/a.jpg").write_bytes(b"photo")
    table = pa.table({"uri": ["a.jpg"], "embedding": [bytes(64)]})
    pq.write_table(table, tmp_path / "c/m.parquet")
    assert resolve_corpus(config_of(tmp_path, str(tmp_path / "c/m.parquet"))).kind == "manifest"
    pq.write_table(pa.table({"uri": ["a.jpg"], "scan": [b"\xff\xd8\xff photo"]}), tmp_path / "c/m.parquet")
    spec = resolve_corpus(config_of(tmp_path, str(tmp_path / "c/m.parquet")))
    assert spec.kind == "parquet"
    assert spec.origins()["image"] == "scan"


def test_a_long_manifest_lists_its_folders(tmp_path: Path, weed_env: Server) -> None:
    """Photos of one folder are looked up one by one at first, then in a listing of the folder: with the same tags."""
    store = open_store("s3://lake/long")
    uris = [f"s3://lake/long/p/{number:03d}.jpg" for number in range(90)]
    for number in range(89):
        store.write(f"p/{number:03d}.jpg", b"photo %d" % number)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"uri": uris}), sink)
    store.write("m.parquet", sink.getvalue().to_pybytes())
    config = config_of(tmp_path, "s3://lake/long/m.parquet")
    assert admitted(config)[0].counts["hashed"] == 89
    store.write("p/089.jpg", b"late")
    pq.write_table(pa.table({"uri": uris[::-1]}), sink := pa.BufferOutputStream())
    store.write("m.parquet", sink.getvalue().to_pybytes())
    assert admitted(config)[0].counts["hashed"] == 1


def test_many_parts_are_indexed_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facelake.stages.admission.index._PART_ROWS", 2)
    monkeypatch.setattr("facelake.engines.index_pool._RAY_FROM_TASKS", 3)
    folder = tmp_path / "c"
    folder.mkdir()
    for number in range(11):
        (folder / f"{number}.jpg").write_bytes(b"photo %d" % number)
    os.symlink(folder, folder / "loop")
    config = config_of(tmp_path, str(folder)).model_copy(update={"ray": RaySection(num_cpus=2)})
    try:
        result, rows = admitted(config)
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert (result.counts["hashed"], result.counts["left_out"], len(rows)) == (11, 1, 11)
    wanted = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.jpg")}
    assert {row["image_id"]: row["content_sha256"] for row in rows} == wanted


RECIPES = {
    "Files": "files",
    "A manifest of URIs": "manifest in Parquet",
    "WebDataset": "webdataset",
    "Hugging Face": "huggingface",
    "img2dataset": "img2dataset",
    "Delta": "Delta",
    "Iceberg": "Iceberg",
    "Parquet": "parquet",
}


@pytest.mark.parametrize("title", RECIPES)
def test_the_recipes_of_the_handbook(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/image-stores.md").read_text()
    recipes = re.findall(r"^## (.*)\n\n((?:    .*\n)+)", page, re.M)
    assert [name for name, block in recipes if "corpus:" in block] == list(RECIPES)
    monkeypatch.chdir(tmp_path)
    kind, write = LAYOUTS[RECIPES[title]]
    Path("photos").mkdir()
    write(tmp_path / "photos", PHOTOS)
    Path("c.yaml").write_text(textwrap.dedent(dict(recipes)[title]))
    config = load_config("c.yaml")
    figures = plan(config)
    assert figures["kind"] == kind
    with writing(config, "test") as context:
        assert admit(context).counts["read"] == len(PHOTOS) + (title == "img2dataset")
        rows = context.lake["images"].read().to_pylist()
    if title == "Files":
        assert {(row["source_id"], row["subject_ref"]) for row in rows} >= {("album 0", "ann"), ("album 1", "bo")}
    if title in ("WebDataset", "Hugging Face"):
        assert all(row["subject_ref"] for row in rows)
