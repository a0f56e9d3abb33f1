"""What left the lake: leases, what recipients owe after an erasure, and changes that make a copy equal again."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from facelake.config import load_config
from facelake.contracts import Refusal
from facelake.erase import verify as signature_holds
from facelake.errors import ConfigError, Corrupt, Refused, VersionGone
from facelake.lake.lake import Lake
from facelake.matcher import Gallery
from facelake.nightly import writing
from facelake.publish.transform import rotated, rotation
from facelake.stages.admission.admit import admit
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.gallery.versions import current_gallery
from facelake.stages.operations.verify import verify
from facelake.stages.sharing.changes import changes_since
from facelake.stages.sharing.export import export_gallery, send_changes, show
from facelake.stages.sharing.leases import acknowledge, leases, mark_returned, recall, what_is_owed
from facelake.vectors import embedding_matrix
from tests.conftest import run_cli, run_json

P = "identity-grouping"


def copy_of(folder: Path) -> dict[str, list[float]]:
    rows = pq.read_table(folder / "identities-00000.parquet", columns=["identity_id", "prototype"]).to_pylist()
    return {row["identity_id"]: row["prototype"] for row in rows}


def replayed(copy: dict[str, list[float]], lake: Lake, since: int) -> dict[str, list[float]]:
    after = dict(copy)
    for row in changes_since(lake, since).to_pylist():
        if row["status"] == "active":
            after[row["identity_id"]] = row["prototype"]
        else:
            after.pop(row["identity_id"], None)
    return after


def test_an_erasure_is_owed_until_it_is_acknowledged(demo_lake: Path, tmp_path: Path) -> None:
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        first = export_gallery(context, str(tmp_path / "a"), P, "gate-7")
        other = export_gallery(context, str(tmp_path / "b"), P, "gate-8")
        assert what_is_owed(context.lake, context.now) == {}
        result = erase(context, Request.of(subjects=["person-3"]))
        assert result.not_acknowledged == ["gate-7", "gate-8"]
        assert set(what_is_owed(context.lake, context.now)) == {first["lease_id"], other["lease_id"]}
        with pytest.raises(Refused, match=r"no further export.*erasures up to gallery 2"):
            export_gallery(context, str(tmp_path / "c"), P, "gate-7")
        assert not (tmp_path / "c").exists()
        copy = copy_of(tmp_path / "a")
        fresh = export_gallery(context, str(tmp_path / "d"), P, "gate-9")
        with pytest.raises(VersionGone, match=r"^gallery 1 can no longer be read"):  # the erasure purged its tables
            show(context.lake, None, 1)
        assert replayed(copy, context.lake, first["gallery_version"]) == copy_of(tmp_path / "d")
        assert copy_of(tmp_path / "d") != copy
        assert replayed(replayed(copy, context.lake, 1), context.lake, 1) == copy_of(tmp_path / "d")
        assert changes_since(context.lake, fresh["gallery_version"]).num_rows == 0
        # nothing was handed out that it could have applied
        for version, why in ((None, "given no changes since"), (2, "handed out up to gallery 1, not 2")):
            with pytest.raises(ConfigError, match=why):
                acknowledge(context.lake, first["lease_id"], version)
        assert set(what_is_owed(context.lake, context.now)) == {first["lease_id"], other["lease_id"]}
        send_changes(context, first["lease_id"], str(tmp_path / "changes"))
        assert acknowledge(context.lake, first["lease_id"]).acknowledged == 2
        assert set(what_is_owed(context.lake, context.now)) == {other["lease_id"]}
        export_gallery(context, str(tmp_path / "e"), P, "gate-7")
        mark_returned(context.lake, other["lease_id"])
        assert what_is_owed(context.lake, context.now) == {}
        with pytest.raises(ConfigError):
            acknowledge(context.lake, "lease-none")
        with pytest.raises(ConfigError):
            changes_since(context.lake, 99)
        certificate = json.loads(context.lake.store.read(result.certificate))["body"]
        assert certificate["recipients_pending"] == ["gate-7", "gate-8"]
        signature = certificate.pop("signature")
        assert signature_holds(certificate, signature)
        assert not signature_holds(certificate | {"gallery_version": 9}, signature)
    assert verify(context)[0] == []


def test_a_matcher_follows_by_changes_alone(demo_lake: Path, tmp_path: Path) -> None:
    """Opened, searched, brought to the next version by replay; equal to one that is opened afresh."""
    key = bytes(range(32))
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        for name, secret in (("plain", None), ("keyed", key)):
            manifest = export_gallery(context, str(tmp_path / name), P, name, key=secret)
        assert [point["fmr"] for point in manifest["thresholds"]] == [1e-4, 1e-5, 1e-6]
        members = current_gallery(context.lake).read("memberships")  # type: ignore[union-attr]
        faces = context.lake["faces"].read(["face_id", "embedding"]).join(members.select(["face_id", "identity_id"]), "face_id", join_type="inner")  # fmt: skip
        probes, _ = embedding_matrix(faces["embedding"])
        wanted = faces["identity_id"].to_pylist()
        plain, keyed = Gallery.open(str(tmp_path / "plain")), Gallery.open(str(tmp_path / "keyed"), key=key)
        model = plain.model_digest
        found = plain.search(probes, model, k=3)
        assert [row[0] for row in found.identity_ids] == wanted
        brute = np.sort(probes @ np.array([copy_of(tmp_path / "plain")[n] for n in sorted(copy_of(tmp_path / "plain"))], np.float32).T)  # fmt: skip
        assert np.abs(found.similarity - brute[:, ::-1][:, :3]).max() < 1e-3  # faces at rest are rounded to half
        assert np.abs(keyed.search(probes, model).similarity - found.similarity[:, :1]).max() < 1e-5
        assert np.abs(plain.verify(probes, wanted, model) - found.similarity[:, 0]).max() < 1e-5
        assert np.isnan(plain.verify(probes[:1], ["id-nobody"], model)).all()
        erase(context, Request.of(subjects=["person-5"]))
        erase(context, Request.of(images=["album/group-03.jpg"]))
        for gallery, secret in ((plain, None), (keyed, key)):
            changes = changes_since(context.lake, gallery.version, secret, P)
            gallery.apply_rows(changes, 3)
            gallery.apply_rows(changes, 3)
            export_gallery(context, str(tmp_path / "fresh"), P, f"new-{bool(secret)}", key=secret)
            fresh = Gallery.open(str(tmp_path / "fresh"), key=secret)
            again, afresh = gallery.search(probes, model, k=5), fresh.search(probes, model, k=5)
            assert (gallery.version, len(gallery)) == (fresh.version, len(fresh)) == (3, len(fresh))
            assert again.identity_ids == afresh.identity_ids
            assert np.array_equal(again.similarity, afresh.similarity)


def test_a_matcher_refuses(demo_lake: Path, tmp_path: Path) -> None:
    key, out = bytes(range(32)), tmp_path / "out"
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        manifest = export_gallery(context, str(out), P, "a", key=key)
    end = datetime.fromisoformat(manifest["expires_at"])
    with pytest.raises(Refused, match="expired on"):
        Gallery.open(str(out), key=key, now=end)
    gallery = Gallery.open(str(out), key=key)
    for digest, shape in ((gallery.model_digest, (1, 64)), ("other", (1, 128)), (gallery.model_digest, (128,))):
        with pytest.raises(Refused, match="model"):
            gallery.search(np.ones(shape, np.float32), digest)
    for wrong in (None, bytes(32)):
        with pytest.raises(ConfigError, match="key"):
            Gallery.open(str(out), key=wrong)
    with pytest.raises(ConfigError, match="FMR"):
        gallery.threshold(0.5)
    data = (out / "identities-00000.parquet").read_bytes()
    (out / "identities-00000.parquet").write_bytes(data[:-1] + b"x")
    with pytest.raises(Corrupt, match="differs from"):
        Gallery.open(str(out), key=key)
    with pytest.raises(ConfigError, match="no gallery export"):
        Gallery.open(str(tmp_path / "nothing"))


def reported(lake: str) -> int:
    """The number of alerts to act on, after a run by which `--fail-on-alert` judges."""
    done = run_json("nightly", "--fail-on-alert", "--lake", lake, code=1)
    return int(done["stages"]["report"]["to_act_on"])


def test_recalled_and_ended_leases(demo_lake: Path, tmp_path: Path) -> None:
    lake = str(demo_lake)
    issued = run_json("gallery", "export", "--out", str(tmp_path / "a"), "--purpose", P, "--recipient", "gate", "--lake", lake)  # fmt: skip
    (row,) = run_json("feed", "leases", "--lake", lake)["leases"]
    assert (row["state"], row["owes"]) == ("in force", None)
    assert run_json("feed", "recall", "--recipient", "gate", "--lake", lake)["recalled"] == [issued["lease_id"]]
    again = run_cli("gallery", "export", "--out", str(tmp_path / "b"), "--purpose", P, "--recipient", "gate", "--lake", lake)  # fmt: skip
    assert again.returncode == 1
    assert "was recalled" in again.stderr
    (row,) = run_json("feed", "leases", "--lake", lake)["leases"]
    assert row["state"] == "was recalled and is not returned"
    assert row["owes"] == "was recalled and is not returned"
    assert run_cli("feed", "leases", "--lake", lake).stdout.count("recalled") == 2  # the state, and what is owed
    assert reported(lake) == reported(lake) == 2  # nothing but the lease changed since the demo's run, which had one
    page = (demo_lake / "reports/latest.html").read_text()
    assert f"1 export with an overdue answer: gate ({issued['lease_id']}) was recalled" in page
    run_json("feed", "return", issued["lease_id"], "--lake", lake)
    assert reported(lake) == reported(lake) == 1
    with writing(load_config(lake=lake), "test") as context:
        export_gallery(context, str(tmp_path / "b"), P, "gate", days=1)
        (_, lease) = leases(context.lake)
        assert lease.owes(0, lease.issued_at) is None
        assert "ended" in str(lease.owes(0, lease.expires_at))
        assert export_gallery(context, str(tmp_path / "c"), P, "x", days=999)["expires_at"] < "2200"
        assert (leases(context.lake)[-1].expires_at - leases(context.lake)[-1].issued_at).days == 90
        with pytest.raises(ConfigError, match="no active lease"):
            recall(context.lake, recipient="nobody")


def test_templates_under_a_key(demo_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = bytes(range(32)), bytes(range(1, 33))
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        export_gallery(context, str(tmp_path / "raw"), P, "a")
        for name, key in (("one", one), ("two", two)):
            assert export_gallery(context, str(tmp_path / name), P, name, key=key)["template_key"]
        raw, first, second = (np.array(list(copy_of(tmp_path / name).values())) for name in ("raw", "one", "two"))
        assert np.abs(first @ first.T - raw @ raw.T).max() < 1e-5
        matrix = rotation(one, context.lake.name, P, raw.shape[1])
        assert np.abs(rotated(raw.astype(np.float32), matrix) - first).max() < 1e-6
        assert np.abs(np.einsum("ij,ij->i", first, second)).mean() < 0.4
    monkeypatch.setenv("TEMPLATE", one.hex())
    out = ("--purpose", P, "--lake", str(demo_lake), "--key-env")
    shown = run_cli("gallery", "export", "--out", str(tmp_path / "cli"), "--recipient", "b", *out, "TEMPLATE")
    assert shown.returncode == 0
    assert copy_of(tmp_path / "cli") == copy_of(tmp_path / "one")
    everything = b"".join(
        p.read_bytes() for root in (demo_lake, tmp_path / "cli") for p in root.rglob("*") if p.is_file()
    )
    assert one.hex().encode() not in everything + shown.stdout.encode() + shown.stderr.encode()
    assert run_cli("gallery", "export", "--out", "x", "--recipient", "b", *out, "NOT_SET").returncode == 2


def test_an_identity_goes_with_every_photo_it_is_in(demo_lake: Path) -> None:
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        gallery = current_gallery(context.lake)
        assert gallery is not None
        members = gallery.read("memberships").to_pylist()
        group = next(row for row in members if row["image_id"] == "album/group-03.jpg")
        images = {row["image_id"] for row in members if row["identity_id"] == group["identity_id"]}
        before = bystanders(context.lake, images)
        erase(context, Request.of(identities=[group["identity_id"]]))
        assert bystanders(context.lake, set()) == before
        after = current_gallery(context.lake)
        assert after is not None
        assert group["identity_id"] not in after.read("memberships")["identity_id"].to_pylist()
        assert verify(context)[0] == []
        with pytest.raises(ConfigError, match="was erased before"):
            erase(context, Request.of(identities=[group["identity_id"]]))


def bystanders(lake: Lake, gone: set[str]) -> list[dict[str, Any]]:
    rows = lake["faces"].read().sort_by("face_id").to_pylist()
    return [row for row in rows if row["image_id"] not in gone]


def test_one_purpose_goes_and_the_photos_stay_for_others(demo_lake: Path) -> None:
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        erase(context, Request.of(subjects=["person-2"], purpose="print"))  # nothing is made for it here
        assert current_gallery(context.lake).version == 1  # type: ignore[union-attr]
    elsewhere = load_config(lake=str(demo_lake), overrides={"purpose": "print"})
    with writing(elsewhere, "test") as context:  # the faces are of the purpose that the last run had
        result = erase(context, Request.of(subjects=["person-2"], purpose=f" {P}\u00ad"))
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        assert result.counts["faces"] == 23
        corpus = [pq.read_table(p, columns=["subject_ref"]) for p in (demo_lake / "corpus").glob("*.parquet")]
        assert sum(table["subject_ref"].to_pylist().count("person-2") for table in corpus) == 27
        faces = context.lake["faces"].read(["image_id"])["image_id"].to_pylist()
        assert not [image for image in faces if "person-2-" in image]
        admit(context)
        decided = context.lake["admissions"].read(["reason"])["reason"].to_pylist()
        assert decided.count(str(Refusal.ERASED)) == 27
    with writing(elsewhere, "test") as context:
        context.accept_loss = True  # another purpose refuses every photo, which stops a run otherwise
        admit(context)
        decided = context.lake["admissions"].read(["reason"])
        assert decided["reason"].to_pylist().count(str(Refusal.ERASED)) == 27  # for print too: see the first erasure


def test_a_list_of_leavers_in_one_pass(demo_lake: Path, tmp_path: Path) -> None:
    leavers = tmp_path / "leavers.csv"
    leavers.write_text("kind,key\nsubject,person-1\nsubject,person-2\nimage,album/group-03.jpg\n")
    result = run_json("erase", "--from-file", str(leavers), "--yes", "--lake", str(demo_lake))
    assert (result["images"], result["residual_hits"]) == (55, 0)
    leavers.write_text("kind,key\nperson,person-3\n")
    assert run_cli("erase", "--from-file", str(leavers), "--yes", "--lake", str(demo_lake)).returncode == 2
    for _ in range(3):  # the same source offers them every night
        night = run_json("nightly", "--lake", str(demo_lake))
        images = Lake.open(str(demo_lake))["faces"].read(["image_id"])["image_id"].to_pylist()
        assert not [image for image in images if "person-1-" in image or "person-2-" in image]
    assert night["stages"]["admit"]["emptied"] == 55
    assert run_json("verify", "--lake", str(demo_lake))["ok"]
