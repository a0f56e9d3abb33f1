"""Erasure against somebody who tries: coincidences, copies, mistyped references, remains, interrupted notes."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.embed.pipeline import RESEMBLES
from facelake.erase import Signer
from facelake.erase import verify as verify_signature
from facelake.errors import Corrupt
from facelake.lake.lake import Lake
from facelake.nightly import run_night, writing
from facelake.stages.admission.import_grants import Grant
from facelake.stages.admission.import_images import import_folder, write_corpus_file
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.admission.withdrawals import LedgerState
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context
from facelake.stages.erasure import stage
from facelake.stages.erasure.request import Request
from facelake.stages.gallery.versions import current_gallery
from facelake.stages.sharing.leases import LeaseTerms, issue
from facelake.vectors import embedding_matrix
from tests.conftest import run_cli, run_json
from tests.e2e.test_london import assessed

P = "identity-grouping"
PHOTO = "album/person-2-00.jpg"


def photo_of(lake: Path, image: str) -> bytes:
    for file in sorted((lake / "corpus").glob("*.parquet")):
        rows = pq.read_table(file, columns=["image_id", "image"])
        at = rows.filter(pc.equal(rows["image_id"], image))
        if at.num_rows:
            return bytes(at["image"][0].as_py())
    raise KeyError(image)


def certificate_of(lake: Path, key: str) -> dict[str, Any]:
    return dict(json.loads((lake / key).read_text())["body"])


def holds(lake: Path, text: bytes) -> list[str]:
    return [str(p.relative_to(lake)) for p in lake.rglob("*") if p.is_file() and text in p.read_bytes()]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--subject", "PERSON-2"], "there is 'person-2'"),
        (["--subject", "album"], "it is a source: --source album"),
        (["--subject", "person-22"], "no subject"),
        (["--image", "album/Person-2-00.jpg"], "there is 'album/person-2-00.jpg'"),
        (["--image", "person-2-00.jpg"], "no image"),
        (["--source", "Album"], "there is 'album'"),
        (["--subject", "person-2", "--purpose", "identity-groupng"], "did you mean"),
        (["--identity", "id-nobody"], "no active identity"),
    ],
)
def test_a_request_that_matches_nothing_is_refused_before_anything_is_noted(
    demo_lake: Path, arguments: list[str], hint: str
) -> None:
    done = run_cli("erase", *arguments, "--yes", "--lake", str(demo_lake))
    assert done.returncode == 2, done.stderr
    assert hint in done.stderr
    assert not (demo_lake / "erase-pending").exists() or not list((demo_lake / "erase-pending").iterdir())
    assert not Lake.open(str(demo_lake)).suppressed()


@pytest.mark.parametrize("spelling", ["person-2 ", "\ufeffperson-2"])
def test_another_spelling_erases_the_person(demo_lake: Path, spelling: str) -> None:
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        result = stage.erase(context, Request.of(subjects=[spelling]))
    assert result.counts["faces"] == 23
    assert holds(demo_lake, b"person-2") == []


def in_basis(context: Context) -> None:
    record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "album", (P,), "release of person-2, 2026", "person-2")])


def as_recipient(context: Context) -> None:
    gallery = current_gallery(context.lake)
    assert gallery is not None
    issue(context.lake, gallery, LeaseTerms("person-2", P, 30), 1, context.now, LedgerState.of(context.lake).newest_seq)
    append_audit(context.lake, "export", {"recipient": "person-2", "purpose": P, "identities": 1})


def as_purpose(context: Context) -> None:
    record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "album-for-print", ("person-2",), "b")])


def as_source(context: Context) -> None:
    rows = [{"image_id": f"person-2/{i}.jpg", "image": b"x", "source_id": "person-2"} for i in range(3)]
    write_corpus_file(context, rows)
    record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "person-2", (P,), "b")])
    from facelake.stages.admission.admit import admit

    admit(context)


def as_operator(context: Context) -> None:
    row = Entry(EventKind.GRANT, Scope.SUBJECT, "x", (P,), "b")
    from facelake.stages.admission import ledger

    user, ledger.getpass.getuser = ledger.getpass.getuser, lambda: "person-2"  # type: ignore[attr-defined]
    try:
        record(context.lake, [row])
    finally:
        ledger.getpass.getuser = user  # type: ignore[attr-defined]


@pytest.mark.parametrize("plant", [in_basis, as_recipient, as_purpose, as_source, as_operator])
def test_a_coincidence_does_not_block_the_certificate(demo_lake: Path, plant: Callable[[Context], None]) -> None:
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        plant(context)
        result = stage.erase(context, Request.of(subjects=["person-2"], copies="keep"))
    body = certificate_of(demo_lake, result.certificate)
    signature = body.pop("signature")
    assert verify_signature(body, signature)
    assert bool(body["residual_scan"]["coincidences"]) == (plant is not in_basis)
    if plant is in_basis:
        assert holds(demo_lake, b"person-2") == []
        rows = Lake.open(str(demo_lake))["ledger"].read().to_pylist()
        assert "release of [erased], 2026" in [row["basis"] for row in rows]


def test_a_reference_that_equals_numbers_is_certified(demo_lake: Path) -> None:
    photo = photo_of(demo_lake, "album/person-2-01.jpg")
    number = "135790"
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        write_corpus_file(
            context, [{"image_id": f"n/{number}_a.jpg", "image": photo + b" ", "source_id": "n", "subject_ref": number}]
        )
        append_audit(context.lake, "processing", {"count": int(number)})
        result = stage.erase(context, Request.of(subjects=[number], copies="keep"))
    assert result.counts["residual_hits"] == 0
    assert result.counts["coincidences"] > 0


def test_remains_are_named_and_other_runs_go_on(demo_lake: Path) -> None:
    lake, config = str(demo_lake), load_config(lake=str(demo_lake))
    (demo_lake / "notes.txt").write_text("person-2 asked to be erased")
    with writing(config, "test") as context, pytest.raises(Corrupt, match=r"notes\.txt"):
        stage.erase(context, Request.of(subjects=["person-2"]))
    (note,) = (demo_lake / "erase-pending").iterdir()
    for word in (b"person-2", b"album/"):
        assert word not in note.read_bytes()
    done = run_cli("nightly", "--lake", lake)
    assert done.returncode == 0, done.stderr
    assert "is not finished" in done.stderr
    assert len(run_json("status", "--lake", lake)["unfinished_erasures"]) == 1
    assert "1 erasures are not certified yet" in run_cli("verify", "--lake", lake).stderr
    (demo_lake / "notes.txt").unlink()
    done = run_cli("erase", "--subject", "person-2", "--yes", "--lake", lake)
    assert done.returncode == 0, done.stderr
    assert not list((demo_lake / "erase-pending").iterdir())
    assert holds(demo_lake, b"person-2") == []


def test_an_erasure_can_be_given_up(demo_lake: Path) -> None:
    lake = str(demo_lake)
    assert run_cli("erase", "--cancel", "--lake", lake).returncode == 2
    (demo_lake / "notes.txt").write_text("person-2 and person-3")
    for person in ("person-2", "person-3"):
        assert run_cli("erase", "--subject", person, "--yes", "--lake", lake).returncode == 1
    several = run_cli("erase", "--cancel", "--lake", lake)
    assert several.returncode == 2
    assert "2 unfinished erasures" in several.stderr
    ids = run_json("status", "--lake", lake)["unfinished_erasures"]
    assert run_json("erase", ids[0], "--cancel", "--lake", lake)["cancelled"] == ids[0]
    assert run_json("erase", "--cancel", "--lake", lake)["cancelled"] == ids[1]
    done = run_cli("nightly", "--lake", lake)
    assert done.returncode == 0
    assert "not finished" not in done.stderr
    assert run_json("verify", "--lake", lake)["ok"]


@pytest.fixture
def copied(demo_lake: Path, tmp_path: Path) -> Path:
    """The demo, with a photo of person-2 under another id, and the same picture with another header."""
    photo = photo_of(demo_lake, PHOTO)
    folder = tmp_path / "party"
    folder.mkdir()
    (folder / "same.jpg").write_bytes(photo)
    header = photo[:2] + b"\xff\xfe\x00\x08hello\x00" + photo[2:]
    (folder / "header.jpg").write_bytes(header)
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        import_folder(context, str(folder), grant=Grant("signed"))
    run_night(load_config(lake=str(demo_lake)), only=["admit", "embed"])
    return demo_lake


def test_copies_under_other_ids_are_named_and_offered(copied: Path) -> None:
    lake = str(copied)
    done = run_cli("erase", "--subject", "person-2", "--yes", "--lake", lake)
    assert done.returncode == 2
    for words in ("party/same.jpg", "party/header.jpg", "--with-copies", "--keep-copies"):
        assert words in done.stderr
    shutil.copytree(copied, copied.parent / "kept")
    kept = run_json("erase", "--subject", "person-2", "--keep-copies", "--yes", "--lake", str(copied.parent / "kept"))
    assert kept["copies_kept"] == ["party/header.jpg", "party/same.jpg"]
    assert certificate_of(copied.parent / "kept", kept["certificate"])["copies_kept"] == 2
    whole = run_json("erase", "--subject", "person-2", "--with-copies", "--yes", "--lake", lake)
    assert (whole["images"], whole["copies_kept"]) == (29, [])
    assert holds(copied, b"party/same.jpg") == holds(copied, b"person-2") == []


def test_erased_photos_do_not_come_back_under_another_name(demo_lake: Path, tmp_path: Path) -> None:
    lake, photo = str(demo_lake), photo_of(demo_lake, PHOTO)
    run_json("erase", "--subject", "person-2", "--yes", "--lake", lake)
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / "x.jpg").write_bytes(photo)
    assert run_json("import", str(folder), "--basis", "b", "-c", assessed(tmp_path), "--lake", lake)["erased"] == 1
    with writing(load_config(lake=lake), "a custodian") as context:  # without `import`
        write_corpus_file(context, [{"image_id": "other/1", "image": photo, "source_id": "album"}])
        write_corpus_file(context, [{"image_id": PHOTO, "image": b"y", "source_id": "album"}])
    night = run_json("nightly", "--only", "admit", "--only", "embed", "--lake", lake)["stages"]
    assert night["admit"]["refused_erased"] == 1
    assert night["embed"]["rejected_retracted_content"] == 1


def test_an_erased_photo_does_not_come_back_encoded_again(demo_lake: Path, tmp_path: Path) -> None:
    """Another file, source, size and quality; a photo of somebody else in the same delivery is embedded."""
    config, folder = load_config(lake=str(demo_lake)), tmp_path / "again"
    folder.mkdir()
    for name, photo in (("theirs", PHOTO), ("other", "album/person-1-00.jpg")):
        image = Image.open(io.BytesIO(photo_of(demo_lake, photo))).convert("RGB")
        image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(folder / f"{name}.jpg", quality=60)
    with writing(config, "test") as context:
        stage.erase(context, Request.of(subjects=["person-2"]))
        import_folder(context, str(folder), grant=Grant("signed"))
    (embedded,) = (result for result in run_night(config, only=["embed"]) if result.stage == "embed")
    assert (embedded.counts["embedded"], embedded.counts["rejected_retracted_content"]) == (1, 1)
    rejects = Lake.open(str(demo_lake))["rejects"].read(["image_id", "detail"]).to_pylist()
    assert {"image_id": "again/theirs.jpg", "detail": RESEMBLES} in rejects


def test_a_kill_before_the_certificate_keeps_the_counts(demo_lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        with monkeypatch.context() as patch:
            patch.setattr(stage, "_certify", _die)
            with pytest.raises(KeyboardInterrupt):
                stage.erase(context, Request.of(subjects=["person-2"]))
        (result,) = stage.finish_erasures(context)
    assert (result.counts["images"], result.counts["faces"]) == (27, 23)


def test_another_key_neither_reads_nor_stops(demo_lake: Path, tmp_path: Path) -> None:
    (demo_lake / "notes.txt").write_text("person-2")
    with writing(load_config(lake=str(demo_lake)), "test") as context, pytest.raises(Corrupt):
        stage.erase(context, Request.of(subjects=["person-2"]))
    other = load_config(lake=str(demo_lake), overrides={"governance.signing_key": str(tmp_path / "other.pem")})
    with writing(other, "test") as context:
        assert stage.finish_erasures(context) == []
    Signer.load_or_create(tmp_path / "other.pem")


def test_vacuum_and_older_versions_after_an_erasure(demo_lake: Path) -> None:
    lake = str(demo_lake)
    run_json("erase", "--subject", "person-2", "--yes", "--lake", lake)
    assert run_json("vacuum", "--dry-run", "--hours", "0", "--lake", lake)["ok"]
    assert run_json("vacuum", "--hours", "0", "--lake", lake)["ok"]
    rows = run_json("gallery", "list", "--lake", lake)["galleries"]
    assert [row["readable"] for row in rows] == [False, True]
    done = run_cli("gallery", "show", "--version", "1", "--lake", lake)
    assert done.returncode == 1
    assert "interrupt" not in done.stderr
    assert "use the newest version" in done.stderr
    assert run_json("gallery", "show", "--lake", lake)["ok"]


def test_nobody_attests_a_basis_that_was_not_stated(demo_lake: Path, tmp_path: Path) -> None:
    lake, folder = str(tmp_path / "other"), tmp_path / "club"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(photo_of(demo_lake, PHOTO))
    for command in (["import", str(folder)], ["demo", "--photos", str(folder)]):
        done = run_cli(*command, "--lake", lake)
        assert done.returncode == 2
        assert "--basis" in done.stderr
        assert not Path(lake).exists()
    assert run_json("import", str(folder), "--no-grant", "--lake", lake)["granted"] == 0
    assert run_json("import", str(folder), "--basis", "signed", "--lake", lake)["granted"] == 1
    (folder / "b.jpg").write_bytes(photo_of(demo_lake, "album/person-1-00.jpg"))
    assert run_json("import", str(folder), "--lake", lake)["imported"] == 1  # the source has a basis
    assert Lake.open(lake)["ledger"].read()["basis"].to_pylist() == ["signed"]


def test_explain_knows_corrections(demo_lake: Path) -> None:
    lake = str(demo_lake)
    first, second, *_ = (row["identity_id"] for row in run_json("gallery", "show", "--lake", lake)["identities"])
    assert run_json("explain", first, second, "--lake", lake)["corrections"] == []
    run_json("correct", "distinct", first, second, "--reason", "brothers", "--lake", lake)
    said = run_json("explain", second, first, "--lake", lake)
    assert said["corrections"] == [1]
    assert "correction 1 (distinct)" in said["said"][-1]
    assert "brothers" in said["said"][-1]
    run_json("correct", "undo", "1", "--lake", lake)
    assert run_json("explain", first, second, "--lake", lake)["corrections"] == []


def test_explain_tells_the_gallery_from_the_clustering(demo_lake: Path) -> None:
    lake = str(demo_lake)
    one, two = "person-1", "person-2"
    faces = run_json("gallery", "show", one, "--lake", lake)["faces"]
    said = run_json("explain", one, two, "--lake", lake)["said"]
    assert any(text.startswith("in the gallery: in different identities, ") for text in said)
    assert "by the last clustering, without corrections: in different groups" in said
    homes = [run_json("gallery", "show", name, "--lake", lake)["faces"][0]["identity_id"] for name in (one, two)]
    run_json("correct", "merge", *homes, "--lake", lake)
    run_json("correct", "split", homes[0], faces[0]["face_id"], "--lake", lake)
    assert "from the next run on" in run_cli("correct", "list", "--lake", lake).stdout
    run_json("publish", "--lake", lake)
    assert "from the next run on" not in run_cli("correct", "list", "--lake", lake).stdout
    subjects = run_json("explain", faces[1]["face_id"], two, "--lake", lake)["said"]
    assert any(text.startswith("in the gallery: in one identity, ") for text in subjects)
    assert "by the last clustering, without corrections: in different groups" in subjects
    split = run_json("explain", faces[0]["face_id"], faces[1]["face_id"], "--lake", lake)["said"]
    assert any(text.startswith("in the gallery: in different identities, ") for text in split)
    assert "by the last clustering, without corrections: in the same group" in split


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_scores_and_cores_fit_the_template_after_an_erasure(demo_lake: Path) -> None:
    at = ["--lake", str(demo_lake)]
    lake = Lake.open(str(demo_lake))

    def worst() -> float:
        gallery = current_gallery(lake)
        assert gallery is not None
        template = {
            row["identity_id"]: np.array(row["prototype"])
            for row in gallery.read("identities", ["identity_id", "prototype"]).to_pylist()
            if row["prototype"]
        }
        faces = lake["faces"].read(["face_id", "embedding"])
        vectors, _ = embedding_matrix(faces["embedding"])
        vector = dict(zip(faces["face_id"].to_pylist(), vectors, strict=True))
        rows = gallery.read("memberships").to_pylist()
        by_identity: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_identity.setdefault(row["identity_id"], []).append(row)
        for own in by_identity.values():
            assert sum(row["core"] for row in own) == min(5, len(own))
        return max(abs(row["score"] - vector[row["face_id"]] @ template[row["identity_id"]]) for row in rows)

    before = worst()
    photos = [row["image_id"] for row in run_json("gallery", "show", "person-2", *at)["faces"]]
    run_json("erase", "--image", photos[0], "--image", photos[1], "--keep-copies", "--yes", *at)
    assert worst() <= before + 1e-5


def test_what_an_identity_brings_with_it_is_told(demo_lake: Path) -> None:
    at = ["--lake", str(demo_lake)]
    faces = run_json("gallery", "show", "person-2", *at)["faces"]
    identity = faces[0]["identity_id"]
    done = run_cli("erase", "--identity", identity, *at)  # not confirmed: nobody can be asked
    photos = run_json("gallery", "show", identity, *at)["faces"]
    assert f"identity {identity} is in {len({row['image_id'] for row in photos})} photos, which name " in done.stderr
    stays = "the photos are barred, not the people whom they name: person-2. Their references and grants stay"
    assert stays in " ".join(done.stderr.split())
    assert "To bar them too, add `--subject person-2`" in " ".join(done.stderr.split())
    assert done.returncode == 2
    other = run_json("gallery", "show", "person-1", *at)["faces"][0]["identity_id"]
    both = {row["image_id"] for name in (identity, other) for row in run_json("gallery", "show", name, *at)["faces"]}
    done = run_cli("erase", "--identity", identity, "--identity", other, *at)
    assert f"the 2 identities are in {len(both)} photos, which name " in done.stderr


def test_merging_unlike_people_is_pointed_out(demo_lake: Path) -> None:
    at = ["--lake", str(demo_lake)]
    homes = [run_json("gallery", "show", name, *at)["faces"][0]["identity_id"] for name in ("person-1", "person-2")]
    done = run_cli("correct", "merge", *homes, *at)
    assert (done.returncode, "which is usual for different people" in done.stderr) == (0, True), done.stderr
