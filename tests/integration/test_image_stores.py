"""Embedding follows photos by id and content, wherever they lie: nothing is computed twice, and nothing stale stays."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from facelake.config import Config, S3Section
from facelake.contracts import EventKind, Scope, Verdict
from facelake.corpus_config import CorpusSection
from facelake.errors import ConfigError, Retryable
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import open_images
from facelake.lake.corpora.photos import PhotoReader, Place
from facelake.lake.lake import Lake
from facelake.lake.store import open_store
from facelake.nightly import reading, run_night, writing
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.embedding.embed import plan_embed
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.gallery.corrections import CorrectionRequest, record_correction, undo
from facelake.stages.gallery.versions import current_gallery
from facelake.stages.operations.verify import verify
from facelake.testing.servers import Server
from tests.corpora import LAYOUTS
from tests.faults.test_crash_points import Crash, crash_at

Photos = dict[str, bytes]


@pytest.fixture
def new_ray() -> Iterator[None]:
    """Ray's processes keep the environment that they started with, credentials among it."""
    ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def photos(demo_template: tuple[Path, dict[str, Any]]) -> Photos:
    """Seven portraits and a photo without a face."""
    rows = [r for i in (0, 1) for r in pq.read_table(demo_template[0] / f"corpus/demo-{i}.parquet").to_pylist()]
    chosen = [row for row in rows if row["source_id"] == "album" and row["subject_ref"]][:140:20]
    faceless = next(row for row in rows if "cat" in row["image_id"])
    return {row["image_id"].replace("/", "-"): row["image"] for row in (*chosen, faceless)}


def config_of(tmp_path: Path, uri: Path, **more: Any) -> Config:
    body = {
        "lake": str(tmp_path / "lake"),
        "corpus": {"uri": str(uri), "columns": {"source_id": {"constant": "s"}}},
        "corpus_may_shrink": True,
        "governance": {"dpia": "test"},
        "embed": {"chunk_rows": 3},
    }
    return Config.model_validate(body | more)


def grant(config: Config) -> None:
    with writing(config, "test") as context:
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", (config.purpose,), "b")])


def write(folder: Path, photos: Photos, per_file: int, prefix: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = list(photos)
    for start in range(0, len(names), per_file):
        part = names[start : start + per_file]
        table = pa.table({"image_id": part, "image": [photos[n] for n in part], "source_id": ["s"] * len(part)})
        pq.write_table(table, folder / f"{prefix}-{start:03d}.parquet")


def night(config: Config) -> dict[str, Any]:
    """Admission and embedding; the counts of embed."""
    return dict({result.stage: result.counts for result in run_night(config, only=["embed"])}["embed"])


def outcomes(config: Config) -> dict[str, list[Any]]:
    """Per image the embeddings of its faces, or its reject; face ids must be unique and the tables consistent."""
    lake = Lake.open(config.lake)
    faces, rejects = lake["faces"].read().to_pylist(), lake["rejects"].read().to_pylist()
    assert len({row["face_id"] for row in faces}) == len(faces)
    assert [finding.problem for finding in verify(reading(config))[0]] == []
    made: dict[str, list[Any]] = {}
    for row in faces:
        made.setdefault(row["image_id"], []).append((row["content_sha256"], row["embedding"]))
    for row in rejects:
        made.setdefault(row["image_id"], []).append((row["content_sha256"], row["reason"]))
    return made


def test_a_corpus_that_is_divided_differently_costs_nothing(photos: Photos, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    config = config_of(tmp_path, folder)
    write(folder, photos, 3, "part")
    grant(config)
    assert night(config)["embedded"] == 7
    before = outcomes(config)
    assert set(before) == set(photos)
    turned = dict(reversed(photos.items()))
    for order, per_file, prefix in ((photos, 3, "renamed"), (photos, 100, "compacted"), (turned, 2, "part")):
        write(folder, order, per_file, prefix)
        counts = night(config)
        assert (counts["embedded"], counts["rejected"], counts["swept"]) == (0, 0, 0)
        assert (counts["moved"], "reused" in counts) == (8, False)
        assert outcomes(config) == before
        assert night(config).get("moved", 0) == 0


def test_edits_copies_and_losses(photos: Photos, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    config = config_of(tmp_path, folder)
    names = list(photos)
    for name in names[:6]:
        (folder / name).write_bytes(photos[name])
    (folder / "copy.jpg").write_bytes(photos[names[0]])
    grant(config)
    counts = night(config)
    assert (counts["admitted"], counts["embedded"], counts["reused"]) == (7, 7, 1)
    made = outcomes(config)
    assert made["copy.jpg"] == made[names[0]]

    (folder / names[1]).write_bytes(photos[names[6]])  # edited in place
    (folder / names[2]).unlink()
    counts = night(config)
    assert (counts["embedded"], counts["swept"]) == (1, 2)
    assert (counts["swept_changed"], counts["swept_vanished"]) == (1, 1)
    after = outcomes(config)
    assert names[2] not in after
    assert after[names[1]] != made[names[1]]
    rest = ("copy.jpg", names[0], *names[3:6])
    assert {name: after[name] for name in rest} == {name: made[name] for name in rest}

    (folder / "deeper").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(folder / "deeper" / f"new-{path.name}")
    counts = night(config)
    assert (counts["embedded"], counts["reused"]) == (0, 6)
    assert {name.removeprefix("deeper/new-"): faces for name, faces in outcomes(config).items()} == after


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_move_that_is_killed_before_any_write_is_completed(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    folder = tmp_path / "c"
    config = config_of(tmp_path, folder)
    write(folder, photos, 3, "part")
    grant(config)
    night(config)
    before = outcomes(config)
    shutil.copytree(tmp_path / "lake", tmp_path / "kept")
    write(folder, dict(reversed(photos.items())), 5, "other")
    call = 1
    while True:
        shutil.rmtree(tmp_path / "lake")
        shutil.copytree(tmp_path / "kept", tmp_path / "lake")
        with crash_at(call, monkeypatch) as seen, contextlib.suppress(Crash):
            night(config)
        if len(seen) < call:
            break
        counts = night(config)
        assert counts["embedded"] == 0, seen[-1]
        assert outcomes(config) == before, seen[-1]
        assert plan_embed(reading(config)).images == 0
        call += every
    assert call > 8


def erased(config: Config, request: Request) -> dict[str, Any]:
    with writing(config, "erase") as context:
        return erase(context, request).as_json()


@pytest.mark.parametrize("place", ["directory", "bucket"])
@pytest.mark.parametrize("on_erase", ["list", "delete"])
def test_an_erasure_says_what_is_left_in_the_operators_store(
    tmp_path: Path, weed_env: Server, on_erase: str, place: str
) -> None:
    uri = str(tmp_path / "c") if place == "directory" else f"s3://lake/erase-{on_erase}"
    store = open_store(uri)
    for name in ("ann", "bo", "cy"):
        store.write(f"{name}.jpg", f"photo of {name}".encode())
    config = config_of(tmp_path, Path("/"))
    columns = {"source_id": {"constant": "s"}, "subject_ref": {"regex": "^([a-z]+)"}}
    section = CorpusSection.model_validate({"uri": uri, "columns": columns, "on_erase": on_erase})
    config = config.model_copy(update={"corpus": section})
    grant(config)
    run_night(config, only=["admit"])
    counts = erased(config, Request.of(subjects=["ann"]))
    left = on_erase == "list"
    assert counts["left_to_delete"] == ([f"{uri}/ann.jpg"] if left else [])
    assert (counts["own_store_deleted"], counts["own_store_left"]) == (not left, left)
    assert [item.key for item in store.list()] == (["ann.jpg"] if left else []) + ["bo.jpg", "cy.jpg"]
    lake = Lake.open(config.lake)
    body = json.loads(lake.store.read(counts["certificate"]))
    assert body["body"]["removed"]["own_store_left"] == left
    for _ in range(2):  # the photo is still there, and is not recorded again
        run_night(config, only=["admit"])
        stored = b"".join(lake.store.read(item.key) for item in lake.store.list())
        assert b"ann.jpg" not in stored
        assert sorted(filter(None, lake["images"].read()["image_id"].to_pylist())) == ["bo.jpg", "cy.jpg"]
    again = erased(config, Request.of(subjects=["ann"]))
    assert again["left_to_delete"] == counts["left_to_delete"]


def test_a_manifest_cannot_have_other_objects_of_its_bucket_deleted(tmp_path: Path, weed_env: Server) -> None:
    store = open_store("s3://lake/shared")
    for key in ("photos/ann.jpg", "photos/bo.jpg", "invoices/1.pdf", "photos-old/ann.jpg"):
        store.write(key, key.encode())
    others = [f"s3://lake/shared/{key}" for key in ("invoices/1.pdf", "photos-old/ann.jpg", "lake/lake.json")]
    named = ["ann.jpg", "../invoices/1.pdf", *others]
    store.write("photos/m.csv", "\n".join(["uri,subject_ref", *(f"{uri},ann" for uri in named), "bo.jpg,bo"]).encode())
    config = config_of(tmp_path, Path("/")).model_copy(update={"lake": "s3://lake/shared/lake"})
    columns = {"source_id": {"constant": "s"}}
    body = {"uri": "s3://lake/shared/photos/m.csv", "columns": columns, "on_erase": "delete"}
    config = config.model_copy(update={"corpus": CorpusSection.model_validate(body)})
    grant(config)
    run_night(config, only=["admit"])  # a key with .. is one photo less, and no failure
    done = erased(config, Request.of(subjects=["ann"]))
    assert done["own_store_deleted"] == 1
    assert done["left_to_delete"] == sorted(others)
    kept = {item.key for item in store.list()}
    assert {"photos/bo.jpg", "invoices/1.pdf", "photos-old/ann.jpg", "lake/lake.json"} <= kept
    assert "photos/ann.jpg" not in kept


@pytest.mark.parametrize("kind", ["files", "parquet"])
def test_photos_of_erased_people_are_an_alert_until_they_are_deleted(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "c"
    folder.mkdir()

    def store(*names: str) -> None:
        if kind == "files":
            for path in folder.iterdir():
                path.unlink()
            for name in names:
                (folder / f"{name}.jpg").write_bytes(f"photo of {name}".encode())
        else:
            rows = [{"image_id": name, "image": f"photo of {name}".encode(), "subject_ref": name} for name in names]
            pq.write_table(pa.Table.from_pylist(rows), folder / "photos.parquet")

    def to_act_on() -> tuple[int, bool]:
        counts = {result.stage: result.counts for result in run_night(config)}
        page = (tmp_path / "lake/reports/latest.html").read_text()
        return counts["report"]["to_act_on"], "2 photos of erased people are still in the corpus." in page

    columns = {"source_id": {"constant": "s"}} | ({"subject_ref": {"regex": "^([a-z]+)"}} if kind == "files" else {})
    config = config_of(tmp_path, folder, corpus={"uri": str(folder), "columns": columns})
    store("ann", "ann-2", "bo", "cy") if kind == "files" else store("ann", "bo", "cy", "ann-2")
    grant(config)
    before, told = to_act_on()
    assert not told
    subjects = ["ann"] if kind == "files" else ["ann", "ann-2"]
    erased(config, Request.of(subjects=subjects))
    assert to_act_on() == to_act_on() == (before + 1, True)
    store("bo", "cy")
    assert to_act_on() == to_act_on() == (before, False)


def people(config: Config) -> tuple[dict[str, set[bytes]], set[frozenset[str]]]:
    """The embeddings of each content, and the contents of each identity, after a whole run."""
    run_night(config)
    lake = Lake.open(config.lake)
    faces = {row["face_id"]: row for row in lake["faces"].read().to_pylist()}
    made: dict[str, set[bytes]] = {}
    for row in faces.values():
        made.setdefault(row["content_sha256"], set()).add(row["embedding"])
    groups: dict[str, set[str]] = {}
    gallery = current_gallery(lake)
    assert gallery
    for row in gallery.read("memberships", ["face_id", "identity_id"]).to_pylist():
        groups.setdefault(row["identity_id"], set()).add(faces[row["face_id"]]["content_sha256"])
    return made, {frozenset(group) for group in groups.values()}


def test_tar_files_in_a_bucket_give_the_identities_of_plain_parquet(
    photos: Photos, tmp_path: Path, new_ray: None, weed_env: Server
) -> None:
    write(tmp_path / "c", photos, 3, "part")
    (tmp_path / "tars").mkdir()
    LAYOUTS["webdataset"][1](tmp_path / "tars", photos)
    store = open_store("s3://lake/tars")
    for path in (tmp_path / "tars").iterdir():
        store.write(path.name, path.read_bytes())
    made = []
    for number, uri in enumerate((str(tmp_path / "c"), "s3://lake/tars")):
        on_ray = {"embed": {"chunk_rows": 3, "actors": 1}, "ray": {"num_cpus": 2}}
        config = config_of(tmp_path, Path("/"), lake=str(tmp_path / f"lake-{number}"), **on_ray)
        columns = {"source_id": {"constant": "s"}}
        config = config.model_copy(update={"corpus": CorpusSection.model_validate({"uri": uri, "columns": columns})})
        grant(config)
        made.append(people(config))
    assert made[0] == made[1]
    assert len(made[0][0]) == 7


def test_photos_that_a_worker_cannot_reach_end_the_run(photos: Photos, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "c", tmp_path / "elsewhere"
    folder.mkdir()
    for name, data in photos.items():
        (folder / name).write_bytes(data)
    config = config_of(tmp_path, folder)
    grant(config)
    run_night(config, only=["admit"])
    reader = open_images(resolve_corpus(config), config.lake, config.s3)
    part = Lake.open(config.lake)["images"].read(["corpus_file"])["corpus_file"][0].as_py()
    folder.rename(elsewhere)
    with pytest.raises(Retryable, match=r"none of 8 photos of part .* can be read on host"):
        list(reader.images(part, 0, 8))
    elsewhere.rename(folder)
    (folder / next(iter(photos))).unlink()
    data = sorted(data for _, _, data in reader.images(part, 0, 8))
    assert data[0] == b""
    assert all(data[1:])


def test_missing_credentials_are_not_a_fault_of_the_photo(
    weed: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", weed.environment()["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    reader = PhotoReader(open_store(str(tmp_path)), S3Section())
    with pytest.raises(ConfigError, match="no S3 credentials"):
        list(reader.read_all([Place("s3://lake/some/photo.jpg", 10)]))
    assert list(reader.read_all([Place("http://host/photo.jpg", 10)])) == [None]


def test_what_is_not_a_face_stays_out_of_every_later_run(photos: Photos, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    config = config_of(tmp_path, folder)
    names = list(photos)[:7]
    for name in names:
        (folder / name).write_bytes(photos[name])
    (folder / "copy.jpg").write_bytes(photos[names[0]])
    grant(config)
    run_night(config)
    lake = Lake.open(config.lake)
    faces = {row["image_id"]: row for row in lake["faces"].read().to_pylist()}
    request = CorrectionRequest(Verdict.NOT_A_FACE, faces=(faces[names[0]]["face_id"],), reason="a statue")
    with writing(config, "correct") as context:
        seq = record_correction(context, request)["seq"]
    counts = {result.stage: result.counts for result in run_night(config)}
    assert (counts["embed"]["rejected_not_a_face"], counts["embed"]["rejected"]) == (2, 2)
    assert counts["publish"]["faces"] == 6
    kept = {row["image_id"]: row["face_id"] for row in lake["faces"].read().to_pylist()}
    assert kept == {name: faces[name]["face_id"] for name in names[1:]}
    assert not verify(reading(config))[0]
    assert all(result.skipped for result in run_night(config)[:-1])

    (folder / "copy.jpg").rename(folder / "another copy.jpg")  # the mark is of the content
    run_night(config)
    assert lake["faces"].snapshot().rows == 6

    with writing(config, "correct") as context:
        undo(context, seq)
    run_night(config)
    assert {row["image_id"] for row in lake["faces"].read().to_pylist()} == {*names, "another copy.jpg"}
    assert not verify(reading(config))[0]

    with writing(config, "correct") as context:
        record_correction(context, request)
    run_night(config)
    erased(config, Request.of(images=[names[0], "another copy.jpg"]))
    marks = [row for row in lake["corrections"].read().to_pylist() if row["kind"] == "not_a_face"]
    assert [(row["faces_b"], row["contents"], row["boxes"], row["reason"]) for row in marks] == [([], [], [], None)] * 2
