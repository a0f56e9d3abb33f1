"""The demo, as a newcomer runs it, and what may be done to its lake afterwards."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from facelake.config import load_config
from facelake.lake.lake import Lake
from facelake.stages.gallery.versions import current_gallery
from tests.conftest import run_cli, run_json
from tests.e2e.test_london import assessed
from tests.review_world import spoil


def members(lake: Path) -> dict[str, str]:
    gallery = current_gallery(Lake.open(str(lake)))
    assert gallery is not None
    rows = gallery.read("memberships", ["face_id", "identity_id"])
    return dict(zip(*(c.to_pylist() for c in rows.columns), strict=True))


def test_demo_shows_every_outcome(demo_template: tuple[Path, dict[str, Any]]) -> None:
    lake, result = demo_template
    admit, embed = result["stages"]["admit"], result["stages"]["embed"]
    assert admit["read"] == 280
    assert admit["read"] == admit["admitted"] + admit["refused"]
    assert {k: v for k, v in admit.items() if k.startswith("refused_")} == {
        f"refused_{reason}": 8 for reason in ("no_basis", "withdrawn", "other_purpose", "expired")
    }
    assert embed["admitted"] == admit["admitted"] == embed["embedded"] + embed["rejected"]
    assert embed["rejected_unreadable"] == 5
    assert embed["rejected_unsupported_format"] == 10
    assert embed["rejected_empty"] == 5
    assert embed["rejected_no_face"] >= 30
    assert 8 <= result["identities"] <= 10
    assert run_json("verify", "--lake", str(lake))["ok"]


def test_demo_people_are_told_apart(demo_template: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    lake, _ = demo_template
    labels = tmp_path / "labels.csv"
    with labels.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "person"])
        writer.writerows([f"person-{p}-{i:02d}.jpg", f"person-{p}"] for p in range(1, 9) for i in range(23))
    scores = run_json("bench", "quality", "--lake", str(lake), "--labels", str(labels))
    assert scores["pairwise"]["precision"] == 1.0
    assert scores["pairwise"]["f"] > 0.97


def test_second_night_does_nothing_and_writes_nothing(demo_lake: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in demo_lake.rglob("*") if p.is_file()}
    result = run_json("nightly", "--lake", str(demo_lake))
    assert all(stage["skipped"] for stage in result["stages"].values())
    assert {p: p.stat().st_mtime_ns for p in demo_lake.rglob("*") if p.is_file()} == before


def test_demo_again_leaves_a_lake_as_it_is(demo_lake: Path) -> None:
    assert all(stage["skipped"] for stage in run_json("demo", "--lake", str(demo_lake))["stages"].values())


def test_only_new_photos_are_embedded_and_ids_stay(
    demo_lake: Path, tmp_path: Path, demo_template: tuple[Path, Any]
) -> None:
    before = members(demo_lake)
    photos = tmp_path / "more"
    photos.mkdir()
    rows = pq.read_table(demo_lake / "corpus/demo-0.parquet").slice(0, 6).to_pylist()
    for i, row in enumerate(rows):
        (photos / f"new-{i}.jpg").write_bytes(row["image"])
    (photos / "notes.txt").write_text("not a photo")
    imported = run_json("import", str(photos), "--basis", "b", "-c", assessed(tmp_path), "--lake", str(demo_lake))
    assert (imported["imported"], imported["skipped"], imported["granted"]) == (6, 1, 1)
    result = run_json("nightly", "--lake", str(demo_lake))
    embed = result["stages"]["embed"]  # their bytes are those of known photos, so nothing is computed again
    assert (embed["embedded"], embed["reused"]) == (0, 6)
    after = members(demo_lake)
    assert {face: after[face] for face in before} == before
    assert len(after) == len(before) + 6
    assert run_json("verify", "--lake", str(demo_lake))["ok"]
    again = run_json("import", str(photos), "--basis", "b", "-c", assessed(tmp_path), "--lake", str(demo_lake))
    assert (again["imported"], again["present"], again["granted"]) == (0, 6, 0)


def test_withdrawal_empties_the_next_night_and_leaves_no_trace(demo_lake: Path) -> None:
    run_json("ledger", "withdraw", "--subject", "person-1", "--lake", str(demo_lake))
    result = run_json("nightly", "--lake", str(demo_lake))
    assert result["stages"]["admit"]["refused_withdrawn"] == 34  # 7 others of the withdrawn source, 27 of hers
    assert result["stages"]["embed"]["swept"] == 23
    lake = Lake.open(str(demo_lake))
    faces = lake["faces"].read(["image_id"])["image_id"].to_pylist()
    assert not [image for image in faces if "person-1-" in image]
    assert run_json("verify", "--lake", str(demo_lake))["ok"]
    run_json("ledger", "grant", "--subject", "person-1", "--basis", "b", "--purpose", "identity-grouping", "--source", "album", "--lake", str(demo_lake))  # fmt: skip
    back = run_json("nightly", "--lake", str(demo_lake))
    assert back["stages"]["embed"]["embedded"] == 26  # and hers of three sources that have no basis of their own
    assert run_json("verify", "--lake", str(demo_lake))["ok"]


def test_erase_subject_everywhere_and_for_good(demo_lake: Path) -> None:
    before = members(demo_lake)
    gone = {
        row["image_id"]
        for i in (0, 1)
        for row in pq.read_table(demo_lake / f"corpus/demo-{i}.parquet").to_pylist()
        if row["subject_ref"] == "person-2"
    }
    left = demo_lake / "_work/cluster/cells/0"  # as a clustering leaves it when it is killed
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"person-2")
    result = run_json("erase", "--lake", str(demo_lake), "--subject", "person-2", "--yes")
    assert not left.exists()
    assert (result["images"], result["faces"], result["residual_hits"]) == (27, 23, 0)
    checked = run_json(
        "verify", "--lake", str(demo_lake), *[x for image in sorted(gone) for x in ("--residual", image)]
    )
    assert checked["ok"]
    assert checked["counts"]["residual_hits"] == 0
    everything = b"".join(p.read_bytes() for p in demo_lake.rglob("*") if p.is_file())
    assert b"person-2" not in everything
    certificate = json.loads((demo_lake / result["certificate"]).read_text())
    assert certificate["body"]["residual_scan"]["hits"] == 0
    night = run_json("nightly", "--lake", str(demo_lake))
    admitted = night["stages"]["admit"]
    assert (admitted["emptied"], "refused_no_id" in admitted) == (27, False)  # corpus rows that are no photos any more
    assert admitted["hashed"] == 140 - 27  # the photos of the rewritten corpus file
    after = members(demo_lake)
    assert len(after) == len(before) - 23
    assert {f: i for f, i in before.items() if f in after} == after
    assert run_json("verify", "--lake", str(demo_lake))["ok"]
    assert b"person-2" not in b"".join(p.read_bytes() for p in demo_lake.rglob("*") if p.is_file())


def test_erase_one_image(demo_lake: Path) -> None:
    before = members(demo_lake)
    images = Lake.open(str(demo_lake))["faces"].read(["image_id"])["image_id"].to_pylist()
    faces = images.count("album/group-03.jpg")
    assert faces >= 5
    result = run_json("erase", "--lake", str(demo_lake), "--image", "album/group-03.jpg", "--yes")
    assert (result["images"], result["faces"]) == (1, faces)
    after = members(demo_lake)
    assert len(after) == len(before) - faces
    assert set(after.items()) <= set(before.items())
    assert run_json("verify", "--lake", str(demo_lake), "--residual", "album/group-03.jpg")["ok"]


def test_erased_photo_stays_out_when_its_source_brings_it_again(demo_lake: Path, tmp_path: Path) -> None:
    photos = tmp_path / "again"
    photos.mkdir()
    row = pq.read_table(demo_lake / "corpus/demo-0.parquet").slice(0, 1).to_pylist()[0]
    (photos / "x.jpg").write_bytes(row["image"])
    run_json("import", str(photos), "--basis", "b", "-c", assessed(tmp_path), "--lake", str(demo_lake))
    erase = ("erase", "--lake", str(demo_lake), "--image", "again/x.jpg", "--yes")
    assert "under other ids: album/person-1-00.jpg" in run_json(*erase, code=2)["error"]["what"]  # no run has seen it
    run_json(*erase, "--keep-copies")
    assert (
        run_json("import", str(photos), "--basis", "b", "-c", assessed(tmp_path), "--lake", str(demo_lake))["erased"]
        == 1
    )
    from facelake.config import load_config as config_of
    from facelake.nightly import writing
    from facelake.stages.admission.import_images import write_corpus_file

    with writing(config_of(lake=str(demo_lake)), "a custodian") as context:
        write_corpus_file(context, [{"image_id": "again/x.jpg", "image": row["image"], "source_id": "again"}])
    night = run_json("nightly", "--lake", str(demo_lake))
    assert night["stages"]["admit"]["refused_erased"] == 1
    assert not [
        i for i in Lake.open(str(demo_lake))["faces"].read(["image_id"])["image_id"].to_pylist() if "again" in i
    ]


def test_erase_source_for_good(demo_lake: Path) -> None:
    run_json("ledger", "grant", "--source", "album-expired", "--basis", "b", "--purpose", "identity-grouping", "--lake", str(demo_lake))  # fmt: skip
    result = run_json("erase", "--source", "album-expired", "--yes", "--lake", str(demo_lake))
    assert (result["images"], result["residual_hits"]) == (8, 0)
    run_json("ledger", "grant", "--source", "album-expired", "--basis", "b", "--purpose", "identity-grouping", "--lake", str(demo_lake), code=2)  # fmt: skip
    night = run_json("nightly", "--lake", str(demo_lake))
    assert night["stages"]["admit"]["emptied"] == 8
    assert run_json("verify", "--lake", str(demo_lake))["ok"]


def test_erase_must_be_confirmed(demo_lake: Path) -> None:
    assert run_cli("erase", "--lake", str(demo_lake), "--subject", "person-2").returncode == 2
    assert run_cli("erase", "--lake", str(demo_lake), "--yes").returncode == 2


def test_verify_finds_damage(demo_lake: Path) -> None:
    lake = Lake.open(str(demo_lake))
    (file, *_) = lake["faces"].snapshot().files
    (demo_lake / "faces" / file.path).unlink()
    result = run_json("verify", "--lake", str(demo_lake), code=1)
    assert not result["ok"]
    assert any(file.path in problem["problem"] for problem in result["problems"])


def test_verify_finds_a_dangling_identity_and_an_edited_audit(demo_lake: Path) -> None:
    import pyarrow.compute as pc

    run_json("erase", "--lake", str(demo_lake), "--image", "album/group-03.jpg", "--yes")
    record = next((demo_lake / "audit").iterdir())
    lake = Lake.open(str(demo_lake))
    victim = lake["faces"].read(["face_id"])["face_id"][0].as_py()
    lake["faces"].rewrite(lake["faces"].snapshot().files, ["face_id"], lambda t: pc.not_equal(t["face_id"], victim))
    record.write_text(record.read_text().replace('"previous": ""', '"previous": "00"'))
    checks = {problem["check"] for problem in run_json("verify", "--lake", str(demo_lake), code=1)["problems"]}
    assert {"chain", "audit"} <= checks


def test_explain_says_why_together_and_why_apart(demo_lake: Path) -> None:
    faces = members(demo_lake)
    identity = {name: [f for f, i in faces.items() if i == name] for name in set(faces.values())}
    one, two = sorted(name for name in identity if len(identity[name]) > 1)[:2]
    same = run_json("explain", *identity[one][:2], "--lake", str(demo_lake))
    assert same["together"]
    assert same["pair"]["similarity"] > same["calibration"]["edge"]
    assert same["path"]["weakest"] >= same["pair"]["similarity"] - same["pair"]["discount"] - 1e-6
    apart = run_json("explain", one, two, "--lake", str(demo_lake))
    assert not apart["together"]
    assert not apart["groups"]["joins"]
    assert apart["groups"]["sizes"] == [len(identity[one]), len(identity[two])]
    mixed = run_json("explain", identity[one][0], identity[two][0], "--lake", str(demo_lake))
    assert mixed["groups"] == apart["groups"]
    assert not mixed["groups"]["overlap"]["joins"]
    assert len(mixed["said"]) == 10
    assert "step rejoin" in mixed["said"][-1]
    assert mixed["said"][-2] == "by these figures: two people"
    assert (
        "neither a face nor an identity"
        in run_json("explain", one, "x", "--lake", str(demo_lake), code=2)["error"]["what"]
    )


def test_explain_takes_photos_and_subjects(demo_lake: Path) -> None:
    def explained(*named: str, code: int = 0) -> dict[str, Any]:
        return run_json("explain", *named, "--lake", str(demo_lake), code=code)

    faces = run_json("gallery", "show", "person-1", "--lake", str(demo_lake))["faces"]
    by_photo = explained(faces[0]["image_id"], faces[1]["image_id"])
    assert (by_photo["first"], by_photo["second"]) == (faces[0]["face_id"], faces[1]["face_id"])
    assert by_photo["said"][0] == f"{faces[0]['image_id']!r} stands for {faces[0]['face_id']}"
    assert by_photo["said"][2:] == explained(faces[0]["face_id"], faces[1]["face_id"])["said"]
    by_subject = explained("person-1", "person-2")
    assert by_subject["first"] == faces[0]["identity_id"]
    assert not by_subject["together"]
    group = explained("album/group-00.jpg", "person-1", code=2)["error"]
    assert group["what"] == "the photo 'album/group-00.jpg' has 6 faces"
    assert "(in id-" in group["next"]


def test_explain_names_the_identities_of_a_divided_subject(demo_lake: Path) -> None:
    world = spoil(demo_lake)
    error = run_json("explain", "person-3", "person-1", "--lake", str(demo_lake), code=2)["error"]
    assert error["what"] == "photos of the subject 'person-3' have faces in 2 identities"
    assert all(f"{name} (1" in error["next"] for name in world.twins)
    twins = run_json("explain", *world.twins, "--lake", str(demo_lake))
    assert twins["said"][-3:-1][0] == "by these figures: one person"
    assert "but they are in different groups" in twins["said"][-2]
    alone = run_json("explain", "person-3", "--lake", str(demo_lake))
    assert {alone["first"], alone["second"]} == set(world.twins)
    assert alone["said"][-3:-1] == twins["said"][-3:-1]
    whole = run_json("explain", "person-1", "--lake", str(demo_lake), code=2)["error"]
    assert whole["what"] == "'person-1' is not a subject with photos in several identities"


def test_gallery_commands(demo_lake: Path, tmp_path: Path) -> None:
    (row,) = run_json("gallery", "list", "--lake", str(demo_lake))["galleries"]
    identities = run_json("gallery", "show", "--lake", str(demo_lake))["identities"]
    assert row["identities"] == len(identities)
    faces = run_json("gallery", "show", identities[0]["identity_id"], "--lake", str(demo_lake))["faces"]
    assert len(faces) == identities[0]["size"]
    assert len({face["image_id"] for face in faces}) == identities[0]["photos"]
    assert all(item["first_seen"] == item["last_changed"] == row["created_at"][:10] for item in identities)
    shown = run_cli("gallery", "show", "--lake", str(demo_lake)).stdout.splitlines()
    total = sum(item["size"] for item in identities)
    assert shown[0] == f"{len(identities)} active identities with {total} faces; identities of one face: 0"
    assert shown[1].split()[2:5] == ["size", "photos", "cohesion"]
    out = tmp_path / "out"
    manifest = run_json("gallery", "export", "--out", str(out), "--purpose", "identity-grouping", "--recipient", "m", "--lake", str(demo_lake))  # fmt: skip
    assert pq.read_table(out / "identities-00000.parquet").num_rows == manifest["identities"] == len(identities)
    refused = run_cli("gallery", "export", "--out", str(out), "--purpose", "surveillance", "--recipient", "m", "--lake", str(demo_lake))  # fmt: skip
    assert refused.returncode == 1
    assert "no identity is in force" in refused.stderr


def test_what_is_not_in_the_gallery_is_explained(demo_lake: Path) -> None:
    lake = ["--lake", str(demo_lake)]
    for fate in ("refused", "rejected"):
        image = run_json("images", f"--{fate}", *lake)["images"][0]
        name = image["image_id"]
        for command in (("gallery", "show", name), ("explain", name, name)):
            said = run_json(*command, *lake, code=2)["error"]
            assert said["what"] == f"photo {name!r} has no face in the gallery: {fate} ({image['reason']})"
    assert "no active identity 'x'" in run_json("gallery", "show", "x", *lake, code=2)["error"]["what"]
    copy = run_cli("report", "--download", str(demo_lake / "copy.html"), *lake)
    assert (copy.returncode, "is inside the lake" in copy.stderr) == (2, True)
    assert not (demo_lake / "copy.html").exists()
    one, two = (item["identity_id"] for item in run_json("gallery", "show", *lake)["identities"][:2])
    run_json("correct", "merge", one, two, *lake)
    said = run_cli("nightly", *lake).stderr
    assert "note report: action required: 1 grant past the date of destruction" in said
    assert "cluster step 13 of 13: write" in said  # as many steps as the first line says
    assert re.search(r"verify +[\d.]+ s \[", run_cli("verify", *lake).stderr)  # no counters
    (left,) = {one, two} & {item["identity_id"] for item in run_json("gallery", "show", *lake)["identities"] if item["status"] == "active"}  # fmt: skip
    (gone,) = {one, two} - {left}
    for command in (("gallery", "show", gone), ("explain", gone, left), ("explain", left, gone)):
        error = run_json(*command, *lake, code=2)["error"]
        assert (error["what"], error["next"]) == (f"no active identity {gone!r}: merged into {left}", f"use {left}")


def test_other_commands(demo_lake: Path) -> None:
    assert run_json("models", "list")["models"][0]["name"] == "opencv"
    assert run_json("models", "show")["model"]["licence"]
    assert run_json("models", "fetch")["ok"]
    assert run_json("plan", "--lake", str(demo_lake))["to_embed"] == 0
    assert len(run_json("ledger", "list", "--lake", str(demo_lake))["events"]) == 5
    assert run_cli("--help").returncode == 0


@pytest.mark.parametrize("stage", ["admit", "embed", "cluster", "publish", "report"])
def test_single_stages_have_nothing_to_do(demo_lake: Path, stage: str) -> None:
    asked_for_by_name = stage == "report"  # it is written again, whatever changed
    assert run_json(stage, "--lake", str(demo_lake))["stages"][stage]["skipped"] != asked_for_by_name


def test_jobs_are_the_same_stages(demo_lake: Path) -> None:
    import subprocess
    import sys

    for job in ("embed", "cluster", "nightly"):
        done = subprocess.run([sys.executable, f"jobs/{job}.py", "--lake", str(demo_lake), "--json"], capture_output=True, text=True, check=False, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["ok"]


def test_the_erase_job(demo_lake: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    leavers = tmp_path / "leavers.csv"
    leavers.write_text("kind,key\nsubject,person-7\n")
    command = [sys.executable, "jobs/erase.py", "--lake", str(demo_lake), "--json", "--image", "album/group-03.jpg"]
    done = subprocess.run([*command, "--from-file", str(leavers)], capture_output=True, text=True, check=False, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["images"] == 28
    nothing = subprocess.run(command[:-2], capture_output=True, text=True, check=False, timeout=300)
    assert nothing.returncode == 2
    assert nothing.stderr.splitlines()[-1].startswith("error: the request names nothing to erase")
    assert "Traceback" not in nothing.stderr


def test_another_card_threshold_goes_through_the_same_door(demo_lake: Path, tmp_path: Path) -> None:
    """Clustering again with another cut keeps ids where groups stay the same."""
    before = members(demo_lake)
    config = tmp_path / "c.yaml"
    config.write_text("cluster: {threshold: 0.6}\n")
    run_json("nightly", "-c", str(config), "--lake", str(demo_lake))
    after = members(demo_lake)
    assert sum(after[f] == before[f] for f in before) / len(before) > 0.9
    assert load_config(str(config)).cluster.threshold == 0.6
    assert shutil.which("java")
