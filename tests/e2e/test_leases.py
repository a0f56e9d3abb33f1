"""A lease binds everything that leaves: changes, spellings of a recipient, withdrawals before the next run, signatures."""

from __future__ import annotations

import errno
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.erase import Signer
from facelake.errors import ConfigError, Corrupt, Refused
from facelake.lake.lake import Lake
from facelake.matcher import Gallery
from facelake.nightly import run_night, writing
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.audit import audit_faults
from facelake.stages.gallery.versions import require_gallery
from facelake.stages.reporting.sheets import crops_of
from facelake.stages.sharing.changes import WITHHELD, changes_since
from facelake.stages.sharing.delivery import Delivery
from facelake.stages.sharing.export import export_gallery, not_in_force, send_changes, show
from facelake.stages.sharing.leases import acknowledge, leases, mark_returned, recall, what_is_owed
from tests.conftest import run_cli, run_json

P = "identity-grouping"


def identities_of(lake: Lake, subject: str) -> set[str]:
    """The identities with a face of the subject."""
    rows = lake["admissions"].read(["image_id", "subject_ref"])
    images = rows.filter(pc.equal(rows["subject_ref"], subject))["image_id"].combine_chunks()
    members = require_gallery(lake).read("memberships", ["image_id", "identity_id"])
    return set(members.filter(pc.is_in(members["image_id"], images))["identity_id"].to_pylist())


def withdraw(lake: Lake, subject: str) -> None:
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, subject)])


def test_a_withdrawal_takes_effect_on_what_leaves_before_the_next_run(demo_lake: Path, tmp_path: Path) -> None:
    config = load_config(lake=str(demo_lake))
    with writing(config, "test") as context:
        lake = context.lake
        first = export_gallery(context, str(tmp_path / "a"), P, "gate-7")
        copy = Gallery.open(str(tmp_path / "a"))
        theirs = identities_of(lake, "person-3")
        assert theirs
        assert theirs <= set(copy.identity_ids)
        faces = require_gallery(lake).read("memberships", ["face_id", "identity_id"])
        shown = faces.filter(pc.is_in(faces["identity_id"], pa.array(sorted(theirs))))["face_id"].to_pylist()
        assert crops_of(context, set(shown[:4]))

        assert not_in_force(lake, show(lake, min(theirs), None)[1]) is None
        withdraw(lake, "person-3")

        assert "may not be used any more" in str(not_in_force(lake, show(lake, min(theirs), None)[1]))
        assert what_is_owed(lake, datetime.now(UTC))[first["lease_id"]].startswith("has not acknowledged the withdrawal")  # fmt: skip
        with pytest.raises(Refused, match=r"no further export.*withdrawal"):
            export_gallery(context, str(tmp_path / "b"), P, "  GATE-7 ")
        with pytest.raises(ConfigError, match="given no changes since"):
            acknowledge(lake, first["lease_id"])  # without having been given the changes: it cannot know
        assert what_is_owed(lake, datetime.now(UTC))

        other = export_gallery(context, str(tmp_path / "c"), P, "gate-8")
        assert other["identities"] == first["identities"] - len(theirs)
        assert not theirs & set(Gallery.open(str(tmp_path / "c")).identity_ids)
        rows = changes_since(lake, first["gallery_version"])
        assert set(rows["identity_id"].to_pylist()) == theirs
        assert set(rows["status"].to_pylist()) == {WITHHELD}
        assert rows["prototype"].null_count == rows["exemplars"].null_count == rows.num_rows
        assert crops_of(context, set(shown[:4])) == {}

        send_changes(context, first["lease_id"], str(tmp_path / "changes"))
        assert copy.apply(str(tmp_path / "changes")) == len(theirs)
        assert not theirs & set(copy.identity_ids)
        acknowledge(lake, first["lease_id"])
        assert what_is_owed(lake, datetime.now(UTC)) == {}
    run_night(config, accept_loss=True)
    with writing(config, "test") as context:
        send_changes(context, first["lease_id"], str(tmp_path / "later"))
        copy.apply(str(tmp_path / "later"))
        with pytest.raises(Refused, match="older than this copy"):  # a replay would bring identities back
            copy.apply(str(tmp_path / "changes"))
        export_gallery(context, str(tmp_path / "d"), P, "gate-7")
        assert copy.same_as(Gallery.open(str(tmp_path / "d")))
        assert audit_faults(context.lake) == []


def test_a_face_whose_photo_was_not_found_any_more_does_not_leave(demo_lake: Path, tmp_path: Path) -> None:
    """`admit` decided without the photo, and the run ended there: nobody knows whose face it is now."""
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        theirs = identities_of(context.lake, "person-3")
        table = context.lake["admissions"]
        faces = require_gallery(context.lake).read("memberships", ["face_id", "identity_id"])
        shown = faces.filter(pc.is_in(faces["identity_id"], pa.array(sorted(theirs))))["face_id"].to_pylist()
        table.rewrite(
            table.snapshot().files, ["subject_ref"], lambda rows: pc.not_equal(rows["subject_ref"], "person-3")
        )
        manifest = export_gallery(context, str(tmp_path / "a"), P, "gate-7")
        assert not theirs & set(Gallery.open(str(tmp_path / "a")).identity_ids)
        assert manifest["identities"] > 0
        assert crops_of(context, set(shown[:4])) == {}
        table.rewrite(
            table.snapshot().files, ["subject_ref"], lambda rows: pc.is_in(rows["subject_ref"], pa.array(["x"]))
        )
        with pytest.raises(Refused, match=r"no identity is in force.*run `facelake nightly`"):
            export_gallery(context, str(tmp_path / "b"), P, "gate-8")


def test_a_gallery_of_another_purpose_takes_a_copy_back(demo_lake: Path, tmp_path: Path) -> None:
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        manifest = export_gallery(context, str(tmp_path / "a"), P, "gate-7")
        copied = Gallery.open(str(tmp_path / "a")).identity_ids
        sources = context.lake["admissions"].read(["source_id"])["source_id"].unique().to_pylist()
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, name, ("print",), "b") for name in sources])
        rows = changes_since(context.lake, manifest["gallery_version"], purpose="print")
        assert set(rows["status"].to_pylist()) == {WITHHELD}
        assert sorted(rows["identity_id"].to_pylist()) == sorted(copied)


def test_a_copy_that_is_behind_is_refused_where_the_lake_is_at_hand(demo_lake: Path, tmp_path: Path) -> None:
    """The copy itself cannot know who withdrew; a host that has the lake can."""
    config = load_config(lake=str(demo_lake))
    photo, copy = tmp_path / "one.jpg", str(tmp_path / "a")
    rows = pq.read_table(min((demo_lake / "corpus").glob("*.parquet")), columns=["image"])
    photo.write_bytes(rows["image"][0].as_py())
    with writing(config, "test") as context:
        lease = export_gallery(context, copy, P, "gate-7")["lease_id"]
    with_lake = tmp_path / "with.yaml"
    with_lake.write_text(f"lake: {demo_lake}\n")
    without = tmp_path / "without.yaml"
    without.write_text(f"lake: {tmp_path / 'none'}\n")
    probe = ("match", str(photo), "--gallery", copy, "--threshold", "0.5")
    run_json(*probe, "-c", str(with_lake))

    withdraw(Lake.open(str(demo_lake)), "person-3")

    refused = run_json(*probe, "-c", str(with_lake), code=1)["error"]
    assert "withdrawal" in refused["what"]
    assert f"feed changes {lease}" in refused["next"]
    run_json(*probe, "-c", str(without))
    with writing(config, "test") as context:
        send_changes(context, lease, str(tmp_path / "changes"))
        Gallery.open(copy).apply(str(tmp_path / "changes"))
        acknowledge(context.lake, lease)
    behind = run_json(*probe, "-c", str(with_lake), code=1)["error"]  # changes are applied in memory: its files stay
    assert "lacks changes that its recipient has acknowledged" in behind["what"]
    assert f"feed changes {lease} --since 1 --out DIR" in behind["next"]
    run_json(*probe, "--changes", str(tmp_path / "changes"), "-c", str(with_lake))
    run_json("feed", "recall", lease, "--lake", str(demo_lake))
    recalled = run_json(*probe, "-c", str(with_lake), code=1)["error"]["next"]
    assert recalled == f"delete the copy and run `facelake feed return {lease}`"


def test_an_export_that_fails_leaves_no_lease(demo_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Delivery, name: str) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with writing(load_config(lake=str(demo_lake)), "test") as context:
        with monkeypatch.context() as patch:
            patch.setattr(Delivery, "add", full)
            with pytest.raises(OSError, match="no space left"):
                export_gallery(context, str(tmp_path / "a"), P, "gate-7")
        assert leases(context.lake) == []
        assert list((tmp_path / "a").iterdir()) == []
        first = export_gallery(context, str(tmp_path / "a"), P, "gate-7")
        assert [lease.lease_id for lease in leases(context.lake)] == [first["lease_id"]]


def test_changes_leave_under_a_lease_only(demo_lake: Path, tmp_path: Path) -> None:
    lake = str(demo_lake)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/.partial-x").symlink_to(demo_lake)  # what a delivery that was killed left is removed, links too
    export = run_json("gallery", "export", "--out", str(tmp_path / "a"), "--purpose", P, "--recipient", "Gate 7", "--lake", lake)  # fmt: skip
    assert run_cli("feed", "changes", "--out", str(tmp_path / "x"), "--lake", lake).returncode == 2
    sent = run_json("feed", "changes", export["lease_id"], "--since", "0", "--out", str(tmp_path / "x"), "--lake", lake)
    assert (sent["recipient"], sent["purpose"], sent["changed"]) == ("Gate 7", P, export["identities"])
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "x").iterdir())
    audit = [json.loads(path.read_text()) for path in sorted((demo_lake / "audit").glob("*.json"))]
    assert (audit[-1]["kind"], audit[-1]["body"]["lease_id"]) == ("changes", export["lease_id"])
    with writing(load_config(lake=lake), "test") as context:
        recall(context.lake, recipient="ＧＡＴＥ\u00a07")  # compatibility forms and case do not make another recipient
        with pytest.raises(Refused, match="was recalled"):
            send_changes(context, export["lease_id"], str(tmp_path / "y"))
        assert not (tmp_path / "y").exists()
        mark_returned(context.lake, export["lease_id"])
        with pytest.raises(Refused, match="was returned"):
            send_changes(context, export["lease_id"], str(tmp_path / "y"))
        with pytest.raises(ConfigError, match="no lease"):
            send_changes(context, "lease-none", str(tmp_path / "y"))
        with pytest.raises(ConfigError, match="cannot write files"):
            export_gallery(context, "ftp://host/x", P, "gate-9")


def test_a_copy_that_was_changed_is_refused(demo_lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        manifest = export_gallery(context, str(out), P, "a")
        send_changes(context, manifest["lease_id"], str(tmp_path / "changes"), since=0)
        other = export_gallery(context, str(tmp_path / "b"), P, "b")
        send_changes(context, other["lease_id"], str(tmp_path / "other"))
        signer = context.signer()
    gallery = Gallery.open(str(out), keys=[signer.fingerprint], purpose=f" {P}")
    with pytest.raises(Refused, match="for the purpose"):
        Gallery.open(str(out), purpose="door-access")
    stranger = Signer.load_or_create(tmp_path / "key.pem")
    with pytest.raises(Corrupt, match="signed by another key"):
        Gallery.open(str(out), keys=[stranger.fingerprint])
    with pytest.raises(Refused, match="not the changes of lease"):
        gallery.apply(str(tmp_path / "other"))
    assert gallery.apply(str(tmp_path / "changes")) == manifest["identities"]
    body = manifest | {"expires_at": "2199-01-01T00:00:00+00:00"}
    del body["signature"]
    for signature in (None, manifest["signature"], stranger.sign(body)):
        forged = body | ({"signature": signature} if signature else {})
        (out / "manifest.json").write_text(json.dumps(forged))
        with pytest.raises(Corrupt, match="sign"):
            Gallery.open(str(out), keys=[signer.fingerprint])


def test_probes_that_are_no_embedding_are_refused(demo_lake: Path, tmp_path: Path) -> None:
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        export_gallery(context, str(tmp_path / "a"), P, "a")
    gallery = Gallery.open(str(tmp_path / "a"))
    for value in (0.0, np.nan, np.inf):
        probes = np.ones((3, 128), np.float32)
        probes[1] = value
        with pytest.raises(Refused, match="1 of 3 probes are zero or not finite"):
            gallery.search(probes, gallery.model_digest)
        with pytest.raises(Refused, match="zero or not finite"):
            gallery.verify(probes, ["x"] * 3, gallery.model_digest)


def test_an_export_goes_to_s3(demo_lake: Path, weed_env: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facelake.stages.sharing.delivery._PART_ROWS", 3)
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        manifest = export_gallery(context, "s3://lake/gate", P, "a")
        again = export_gallery(context, "s3://lake/gate", P, "b")
        send_changes(context, again["lease_id"], "s3://lake/changes", since=0)
    assert len([name for name in manifest["files"] if name.startswith("identities-")]) > 1
    copy = Gallery.open("s3://lake/gate")
    assert (copy.lease_id, len(copy)) == (again["lease_id"], manifest["identities"])
    assert copy.apply("s3://lake/changes") == manifest["identities"]
    assert not Path("s3:").exists()


def test_an_export_overwrites_nothing_of_others_and_never_lands_in_the_lake(demo_lake: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    with writing(load_config(lake=str(demo_lake)), "test", lambda event: notes.append(str(event))) as context:
        for name in ("manifest.json", "index.faiss", "model_card.json"):
            project = tmp_path / name.replace(".", "-")
            project.mkdir()
            (project / name).write_text('{"mine": 1}')
            with pytest.raises(ConfigError, match="not of an export, and would be overwritten"):
                export_gallery(context, str(project), P, "a")
            assert [file.read_text() for file in project.iterdir()] == ['{"mine": 1}']
        (tmp_path / "link").symlink_to(demo_lake)
        for inside in (demo_lake, demo_lake / "exports/a", demo_lake / "corpus", tmp_path / "link/a"):
            with pytest.raises(ConfigError, match="is inside the lake"):
                export_gallery(context, str(inside), P, "a")
        assert not leases(context.lake), "no lease of what did not leave"
        first = export_gallery(context, str(tmp_path / "gate"), P, "a")
        assert not any("overwritten" in note for note in notes)
        with pytest.raises(ConfigError, match=r"another kind \(export\) under .* would be overwritten"):
            send_changes(context, first["lease_id"], str(tmp_path / "gate"))
        with pytest.raises(ConfigError, match="inside the lake"):
            send_changes(context, first["lease_id"], str(demo_lake / "changes-to-send"))
        assert len(Gallery.open(str(tmp_path / "gate"))) == first["identities"]
        (tmp_path / "gate/manifest.json").unlink()  # as a delivery that was killed leaves it
        second = export_gallery(context, str(tmp_path / "gate"), P, "a")
        export_gallery(context, str(tmp_path / "gate"), P, "a")
    assert sum(f"`facelake feed return {second['lease_id']}`" in note for note in notes) == 1
    assert Gallery.open(str(tmp_path / "gate")).lease_id not in (first["lease_id"], second["lease_id"])
