"""Variants of the audit's findings on erasure: certificates that must not be signed, and people who must not return."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from facelake.config import load_config
from facelake.contracts import EventKind, Scope, Verdict
from facelake.errors import ConfigError, Corrupt
from facelake.lake.lake import Lake
from facelake.nightly import reading, run_night, writing
from facelake.stages.admission.import_grants import Grant
from facelake.stages.admission.import_images import import_folder, write_corpus_file
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.erasure.cancelling import cancel_erasure
from facelake.stages.erasure.notes import PENDING, Notes, pending
from facelake.stages.erasure.request import Request, read_keys
from facelake.stages.erasure.stage import Erased, erase, finish_erasures
from facelake.stages.gallery.corrections import CorrectionRequest, record_correction
from facelake.stages.gallery.same_identity import other_photos
from facelake.stages.governance.processing_register import register_is_signed
from facelake.stages.operations.verify import verify_residual
from tests.conftest import run_cli, run_json
from tests.e2e.test_erasure import PHOTO, certificate_of, photo_of

PERSON = Request.of(subjects=["person-2"])


def erased(lake: Path, request: Request = PERSON) -> Erased:
    with writing(load_config(lake=str(lake)), "test") as context:
        return erase(context, request)


def remains(lake: Path, request: Request = PERSON) -> str:
    with pytest.raises(Corrupt) as refused:
        erased(lake, request)
    return str(refused.value)


def embedding_of(lake: Path) -> list[float]:
    rows = Lake.open(str(lake))["faces"].read(["image_id", "embedding"])
    value = rows.filter(pc.equal(rows["image_id"], PHOTO))["embedding"][0].as_py()
    return [float(number) for number in np.frombuffer(value, "<f2")]


def noise() -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


def test_a_certificate_after_a_cancelled_erasure_says_what_it_did_not_search(demo_lake: Path) -> None:
    (demo_lake / "copy.bin").write_bytes(photo_of(demo_lake, PHOTO))
    assert "copy.bin" in remains(demo_lake)
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        cancel_erasure(context)
    body = certificate_of(demo_lake, erased(demo_lake).certificate)
    assert any("1 reference(s) that an earlier erasure named" in text for text in body["residual_scan"]["not_searched"])


def test_a_first_certificate_names_no_earlier_erasure(demo_lake: Path) -> None:
    (demo_lake / "notes.txt").write_text("person-2")
    remains(demo_lake)
    (demo_lake / "notes.txt").unlink()
    body = certificate_of(demo_lake, erased(demo_lake).certificate)  # continues the unfinished one
    assert not any("earlier erasure" in text for text in body["residual_scan"]["not_searched"])


def test_what_links_to_folders_lead_to_is_searched(demo_lake: Path, tmp_path: Path) -> None:
    other = tmp_path / "other disk"
    (demo_lake / "faces").rename(other)
    (demo_lake / "faces").symlink_to(other)
    (demo_lake / "extra").symlink_to(tmp_path / "extra")
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra/loop").symlink_to(tmp_path / "extra")
    (tmp_path / "extra/copy.bin").write_bytes(photo_of(demo_lake, PHOTO))
    assert "extra/copy.bin" in remains(demo_lake)
    (tmp_path / "extra/copy.bin").unlink()
    assert erased(demo_lake).counts["residual_hits"] == 0


@pytest.mark.parametrize("table", ["faces", "corpus"])
def test_a_link_to_a_file_elsewhere_is_not_certified(demo_lake: Path, tmp_path: Path, table: str) -> None:
    """Rewriting the object would remove the link and leave the file."""
    before = Lake.open(str(demo_lake))["ledger"].version()
    file = next((demo_lake / table).glob("*.parquet"))
    file.rename(tmp_path / "moved.parquet")
    file.symlink_to(tmp_path / "moved.parquet")
    (demo_lake / "note.json").symlink_to(demo_lake / "lake.json")  # to an object of the lake, which is searched
    with pytest.raises(ConfigError, match=rf"{table}/.* is a link to a file outside of the lake"):
        erased(demo_lake)
    assert pending(Lake.open(str(demo_lake))) == []
    assert Lake.open(str(demo_lake))["ledger"].version() == before
    file.unlink()
    (tmp_path / "moved.parquet").rename(file)
    assert erased(demo_lake).counts["residual_hits"] == 0


def test_an_embedding_in_a_record_is_no_coincidence(demo_lake: Path) -> None:
    planted = demo_lake / "register/planted.json"
    planted.write_text(json.dumps({"counts": embedding_of(demo_lake)}))
    assert "register/planted.json" in remains(demo_lake)


def test_a_second_field_of_one_name_hides_nothing(demo_lake: Path) -> None:
    (demo_lake / "audit/00000099.json").write_text('{"note": "about person-2", "note": ""}')
    assert "audit/00000099.json" in remains(demo_lake)


def test_the_name_of_a_log_entry_hides_nothing(demo_lake: Path) -> None:
    (demo_lake / f"faces/_delta_log/{10**19}.person-2.json").write_text("{}")
    assert "person-2.json" in remains(demo_lake)


def test_a_record_that_is_not_ours_is_redacted_but_not_signed(demo_lake: Path) -> None:
    planted = demo_lake / "register/planted.json"
    planted.write_text(json.dumps({"bases": ["release of person-2"], "purposes": ["advertising"]}))
    (demo_lake / "register/list.json").write_text('["no", "record"]')
    erased(demo_lake)
    record_now = json.loads(planted.read_text())
    assert "bases" not in record_now
    assert not register_is_signed(record_now, ())


def test_photos_whose_metadata_name_the_person_are_remains(demo_lake: Path) -> None:
    sink = io.BytesIO()
    other = Image.open(io.BytesIO(photo_of(demo_lake, "album/person-1-00.jpg")))
    other.save(sink, "JPEG", quality=95, comment=b"party, with person-2 on the left")
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        row = {"image_id": "party/1.jpg", "image": sink.getvalue(), "source_id": "party", "subject_ref": "person-1"}
        write_corpus_file(context, [row])
    found = verify_residual(reading(load_config(lake=str(demo_lake))), ["on the left"])
    assert found.found
    assert not found.inside
    part = verify_residual(reading(load_config(lake=str(demo_lake))), ["n the lef"])
    assert (part.found, list(part.inside)) == ({}, list(found.found))
    assert "party/1.jpg" in remains(demo_lake)
    kept = erased(demo_lake, Request.of(subjects=["person-2"], copies="keep"))
    assert kept.copies_kept == ["party/1.jpg"]


def test_names_in_text_that_people_wrote_are_taken_out(demo_lake: Path) -> None:
    """Also as a part of a file name, in somebody else's events, and in the reason of a correction of another face."""
    basis = "signed, releases/person-2.pdf and person-2_2026.pdf"
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        record(context.lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "person-3", ("identity-grouping",), basis)])
        faces = context.lake["faces"].read(["face_id", "image_id"])
        other = faces.filter(pc.starts_with(faces["image_id"], "album/person-3"))["face_id"][0].as_py()
        record_correction(
            context, CorrectionRequest(Verdict.NOT_A_FACE, faces=(other,), reason="a poster with the face of person-2")
        )
    erased(demo_lake)
    lake = Lake.open(str(demo_lake))
    texts = [str(row) for row in lake["ledger"].read(["basis"]).to_pylist() + lake["corrections"].read().to_pylist()]
    assert not any("person-2" in text for text in texts)
    assert any("releases/[erased].pdf and [erased]_2026.pdf" in text for text in texts)
    assert any("a poster with the face of [erased]" in text for text in texts)


@pytest.mark.parametrize("kind", [Verdict.REJECT, Verdict.NOT_A_FACE])
def test_corrections_about_faces_that_a_withdrawal_removed_are_forgotten(demo_lake: Path, kind: Verdict) -> None:
    config = load_config(lake=str(demo_lake))
    with writing(config, "test") as context:
        faces = context.lake["faces"].read(["face_id", "image_id"])
        named = {name: faces.filter(pc.starts_with(faces["image_id"], f"album/{name}-"))["face_id"].to_pylist()
                 for name in ("person-2", "person-3")}  # fmt: skip
        for own in named.values():
            record_correction(context, CorrectionRequest(kind, faces=(own[0],), reason="the tall one with the scar"))
        record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-2")])
    run_night(config)
    erased(demo_lake)
    first, second = Lake.open(str(demo_lake))["corrections"].read().sort_by("seq").to_pylist()
    assert not set(named["person-2"]) & {*(first["faces_a"] or ()), *first["faces_b"]}
    assert first["reason"] is None
    assert not first["contents"]
    assert second["faces_b"] == named["person-3"][:1]
    assert second["reason"] == "the tall one with the scar"


@pytest.mark.parametrize("name", ["embedding", "identity_id", "subject_ref"])
def test_a_reference_may_be_the_name_of_a_column(demo_lake: Path, name: str) -> None:
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        row = {"image_id": "more/1.jpg", "image": noise(), "source_id": "album", "subject_ref": name}
        write_corpus_file(context, [row])
    assert erased(demo_lake, Request.of(subjects=[name], copies="keep")).counts["residual_hits"] == 0


@pytest.mark.parametrize("place", ["notes/person-2", "person-2/empty", "erase-pending-old/x"])
def test_names_of_empty_folders_and_of_what_is_like_a_note_are_searched(demo_lake: Path, place: str) -> None:
    (demo_lake / place).mkdir(parents=True)
    if place.startswith("erase"):
        (demo_lake / place / "note.txt").write_text("person-2 was here")
    assert place in remains(demo_lake)


def test_a_photo_that_was_refused_does_not_come_back_under_another_name(demo_lake: Path) -> None:
    settings = load_config(lake=str(demo_lake))
    photo = noise()

    def deliver(name: str, subject: str | None) -> None:
        with writing(settings, "test") as context:
            row = {"image_id": name, "image": photo, "source_id": name.partition("/")[0], "subject_ref": subject}
            write_corpus_file(context, [row])
        run_night(settings)

    deliver("unknown/1.jpg", "person-9")  # nobody has granted anything: no outcome
    erased(demo_lake, Request.of(subjects=["person-9"]))
    deliver("album/scan-0001.jpg", None)
    rejects = Lake.open(str(demo_lake))["rejects"].read(["image_id", "reason"]).to_pylist()
    assert {row["image_id"]: row["reason"] for row in rejects}["album/scan-0001.jpg"] == "retracted_content"


@pytest.mark.parametrize("content", [b"", b"abc", bytes(200)])
def test_a_damaged_note_stops_nothing(demo_lake: Path, content: bytes) -> None:
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        notes = Notes(context.lake, context.signer())
        context.lake.store.write(notes.key(PERSON), content)
        assert finish_erasures(context) == []
        with pytest.raises(ConfigError, match="damaged") as refused:
            erase(context, PERSON)
        ((_, ident),) = pending(context.lake)
        assert ident in refused.value.next_step
        cancel_erasure(context, ident)
    assert erased(demo_lake).counts["images"] == 27
    assert not list((demo_lake / PENDING).iterdir())


def test_a_withdrawn_and_then_erased_photo_does_not_come_back_encoded_again(demo_lake: Path, tmp_path: Path) -> None:
    """A run removes the faces of who withdrew, so that the erasure finds none; the looks are remembered all the same."""
    config, folder = load_config(lake=str(demo_lake)), tmp_path / "again"
    folder.mkdir()
    image = Image.open(io.BytesIO(photo_of(demo_lake, PHOTO))).convert("RGB")
    image.save(folder / "theirs.jpg", quality=60)
    record(Lake.open(str(demo_lake)), [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-2")])
    run_night(config, only=["embed"])
    with writing(config, "test") as context:
        erase(context, PERSON)
        import_folder(context, str(folder), grant=Grant("signed"))
    (embedded,) = (result for result in run_night(config, only=["embed"]) if result.stage == "embed")
    assert embedded.counts["rejected_retracted_content"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind,key\nsubject,person-2,person-3\n", "line 2 has more fields"),
        ("kind,key\nsubject,Doe, John\n", "line 2 has more fields"),
        ("kind,key,key\nsubject,person-2,person-3\n", "occurs twice"),
        ("kind;key\nsubject;person-2\n", "separated by semicolons"),
        ("subject\nperson-2\n", "no columns kind and key"),
        ('kind,key\nsubject,"person-2\nsubject,person-3\n', "cannot be read"),
    ],
)
def test_a_file_from_which_a_key_would_be_lost_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "keys.csv").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_keys(str(tmp_path / "keys.csv"))


def test_other_photos_of_the_person_are_named_and_counted(demo_lake: Path) -> None:
    """Group photos show person-4 and name nobody: they stay, and the command, the certificate and a withdrawal say so."""
    lake = str(demo_lake)
    rows = run_json("gallery", "show", "person-4", "--lake", lake)["faces"]
    (identity,) = {row["identity_id"] for row in rows}
    every = {row["image_id"] for row in run_json("gallery", "show", identity, "--lake", lake)["faces"]}
    others = sorted(every - {row["image_id"] for row in rows})
    assert len(others) == 12
    said = (
        f"12 photos have a face of the same identity as the withdrawn ({identity}), and are not among them: {others[0]}"
    )
    assert said in run_cli("ledger", "withdraw", "--subject", "person-4", "--lake", lake).stderr
    done = run_cli("erase", "--subject", "person-4", "--yes", "--lake", lake, "--json")
    assert f"12 photos have a face of the same identity as the erased ({identity})" in done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["others_kept"] == others
    certificate = json.loads((demo_lake / result["certificate"]).read_text())
    assert certificate["body"]["others_kept"] == 12
    again = run_json("erase", "--identity", identity, "--yes", "--lake", lake)
    assert (again["images"], again["others_kept"]) == (12, [])


def test_people_who_share_a_photo_with_the_person_are_not_meant(demo_lake: Path) -> None:
    lake = Lake.open(str(demo_lake))
    group = ["album/group-00.jpg"]
    assert other_photos(lake, group).photos == ()
    assert other_photos(lake, []).photos == ()
