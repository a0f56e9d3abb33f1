"""What may not be processed is not: bystanders, scraped sources, a withdrawal while the night runs, a ledger gone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.gallery.versions import current_gallery
from tests.conftest import FACELAKE, run_cli, run_json
from tests.e2e.test_london import assessed

P = "identity-grouping"
_TO_EMBED = ("--only", "admit", "--only", "embed")


def photos(lake: Path) -> tuple[bytes, bytes]:
    """A group of people, and one person alone."""
    wanted = ["album/group-03.jpg", "album/person-1-00.jpg"]
    held: dict[str, bytes] = {}
    for file in (lake / "corpus").glob("*.parquet"):
        rows = pq.read_table(file, columns=["image_id", "image"])
        rows = rows.filter(pc.is_in(rows["image_id"], pa.array(wanted)))
        held |= dict(zip(*(column.to_pylist() for column in rows.columns), strict=True))
    return held[wanted[0]], held[wanted[1]]


def outcomes(lake: Path, image: str) -> tuple[int, list[str]]:
    """How many faces an image gave, and for what it was rejected."""
    opened = Lake.open(str(lake))
    faces, rejects = opened["faces"].read(["image_id"]), opened["rejects"].read(["image_id", "reason"])
    reasons = rejects.filter(pc.equal(rejects["image_id"], image))["reason"].to_pylist()
    return faces["image_id"].to_pylist().count(image), reasons


def test_bystanders_are_never_encoded(demo_lake: Path) -> None:
    group, alone = photos(demo_lake)
    with writing(load_config(lake=str(demo_lake)), "a custodian") as context:
        rows = [{"image_id": f"p/{n}", "image": b, "source_id": "p", "subject_ref": "ann"} for n, b in (("group", group), ("alone", alone))]  # fmt: skip
        write_corpus_file(context, rows)
    run_json("ledger", "grant", "--subject", "ann", "--basis", "b", "--purpose", P, "--lake", str(demo_lake))
    night = run_json("nightly", *_TO_EMBED, "--lake", str(demo_lake))
    assert night["stages"]["embed"]["rejected_bystanders"] == 1
    assert outcomes(demo_lake, "p/group") == (0, ["bystanders"])
    assert outcomes(demo_lake, "p/alone") == (1, [])
    run_json("ledger", "grant", "--subject", "ann", "--basis", "b", "--purpose", P, "--covers", "everyone_depicted", "--lake", str(demo_lake))  # fmt: skip
    run_json("nightly", *_TO_EMBED, "--lake", str(demo_lake))
    faces, reasons = outcomes(demo_lake, "p/group")
    assert faces >= 5
    assert not reasons
    run_json("ledger", "grant", "--subject", "ann", "--basis", "b", "--purpose", P, "--covers", "named_subject_only", "--lake", str(demo_lake))  # fmt: skip
    run_json("nightly", *_TO_EMBED, "--lake", str(demo_lake))
    assert outcomes(demo_lake, "p/group") == (0, ["bystanders"])
    assert outcomes(demo_lake, "p/alone") == (1, [])


def test_a_withdrawal_while_the_night_runs_is_honoured_before_anything_is_published(
    demo_lake: Path, tmp_path: Path
) -> None:
    group, alone = photos(demo_lake)
    for name in ("leaves", "stays"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.jpg").write_bytes(alone)
        (folder / "b.jpg").write_bytes(group)
        run_json("import", str(folder), "--basis", "b", "-c", assessed(tmp_path), "--lake", str(demo_lake))
    command = [*FACELAKE, "nightly", "--lake", str(demo_lake)]
    lake, withdrawn = Lake.open(str(demo_lake)), False
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as night:
        assert night.stderr is not None
        for line in night.stderr:
            if line.startswith("cluster starts") and not withdrawn:  # the last moment: its images are embedded already
                # in this process: on a busy machine the run would publish while a command starts
                record(lake, [Entry(EventKind.WITHDRAW, Scope.SOURCE, "leaves")])
                withdrawn = True
        assert night.wait() == 0
    gallery = current_gallery(Lake.open(str(demo_lake)))
    assert gallery is not None
    assert gallery.version == 2
    images = gallery.read("memberships", ["image_id"])["image_id"].to_pylist()
    assert not [image for image in images if image.startswith("leaves/")]
    assert [image for image in images if image.startswith("stays/")]
    assert outcomes(demo_lake, "leaves/a.jpg") == (0, [])
    assert run_json("verify", "--lake", str(demo_lake))["ok"]


def test_a_ledger_that_is_gone_fails_the_night_and_moves_nothing(demo_lake: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in (demo_lake / "galleries").iterdir() if p.is_file()}
    shutil.rmtree(demo_lake / "ledger")
    failed = run_cli("nightly", "--lake", str(demo_lake))
    assert failed.returncode == 1
    assert "the ledger was lost or reset" in failed.stderr
    assert {p.name: p.stat().st_mtime_ns for p in (demo_lake / "galleries").iterdir() if p.is_file()} == before
    assert Lake.open(str(demo_lake))["faces"].snapshot().rows > 0


def test_ten_thousand_images_with_every_kind_of_basis(tmp_path: Path) -> None:
    """One reason each, nothing admitted but what the rules admit, counted against a table of expectations."""
    config = load_config(lake=str(tmp_path / "lake"))
    kinds = {
        "good": None, "subject": None, "nobody": "no_basis", "elsewhere": "other_purpose", "past": "expired",
        "ahead": "not_yet_valid", "back": "withdrawn", "scraped": "source_class", "street": "source_class",
        "found": "source_class", "named": "no_basis", "old": "expired",
    }  # fmt: skip
    from datetime import UTC, datetime, timedelta

    now, year = datetime.now(UTC), timedelta(days=365)

    def grant(source: str, purpose: str = P, **more: object) -> Entry:
        return Entry(EventKind.GRANT, Scope.SOURCE, source, (purpose,), "b", **more)  # type: ignore[arg-type]

    with writing(config, "a custodian") as context:
        lake = context.lake
        record(lake, [
            grant("good"), grant("elsewhere", "print"), grant("past", valid_until=now - year / 365),
            grant("ahead", valid_from=now + year), grant("back"), Entry(EventKind.WITHDRAW, Scope.SOURCE, "back"),
            grant("scraped", source_class="web-scrape"), grant("street", source_class="cctv"),
            grant("found"), grant("named", covers="named_subject_only"), grant("old", last_contact=now - 4 * year),
            Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "b"),
        ])  # fmt: skip
        names = list(kinds)
        for part in range(4):
            rows: list[dict[str, object]] = [
                {
                    "image_id": f"{names[i % len(names)]}/{part}-{i}.jpg",
                    "image": b"never decoded",
                    "source_id": names[i % len(names)],
                    "subject_ref": "ann" if names[i % len(names)] == "subject" else None,
                    "source_class": "unknown" if names[i % len(names)] == "found" else None,
                }
                for i in range(2500)
            ]
            write_corpus_file(context, rows)
        counts = admit(context).counts
        decided = lake["admissions"].read(["source_id", "admitted", "reason"]).to_pylist()
    assert len(decided) == counts["read"] == 10_000
    assert {(row["source_id"], row["reason"]) for row in decided} == set(kinds.items())
    assert all(row["admitted"] == (row["reason"] is None) for row in decided)


def test_a_person_who_comes_and_goes_keeps_the_id_and_leaves_each_time(demo_lake: Path) -> None:
    """The second withdrawal meets photos that were done twice before."""
    at = ["--lake", str(demo_lake)]

    def faces() -> dict[str, list[str]]:
        gallery = current_gallery(Lake.open(str(demo_lake)))
        assert gallery is not None
        rows = gallery.read("memberships", ["image_id", "identity_id"]).to_pylist()
        found: dict[str, list[str]] = {}
        for row in rows:
            if "person-4-" in row["image_id"]:
                found.setdefault(row["identity_id"], []).append(row["image_id"])
        return found

    before = faces()
    for _ in range(2):
        run_json("ledger", "withdraw", "--subject", "person-4", *at)
        run_json("nightly", *at)
        assert faces() == {}
        run_json("ledger", "grant", "--subject", "person-4", "--basis", "b", "--purpose", P, *at)
        run_json("nightly", *at)
        assert faces().keys() == before.keys()
    assert run_json("verify", *at)["ok"]


@pytest.mark.parametrize("leaves", ["withdrawal", "erasure"])
def test_an_id_never_passes_to_the_person_it_was_wrongly_merged_with(demo_lake: Path, leaves: str) -> None:
    """Two people are merged by mistake, one of them leaves, the mistake is undone, and whoever left may come back."""
    lake = Lake.open(str(demo_lake))
    at = ["--lake", str(demo_lake)]

    def ids(person: str) -> set[str]:
        gallery = current_gallery(lake)
        assert gallery is not None
        rows = gallery.read("memberships", ["image_id", "identity_id"]).to_pylist()
        return {row["identity_id"] for row in rows if f"/{person}-" in row["image_id"]}

    def status(identity: str) -> tuple[str, str | None]:
        gallery = current_gallery(lake)
        assert gallery is not None
        rows = gallery.read("identities", ["identity_id", "status", "merged_into"]).to_pylist()
        return next((row["status"], row["merged_into"]) for row in rows if row["identity_id"] == identity)

    (one,), (two,) = ids("person-1"), ids("person-2")
    run_json("correct", "merge", one, two, *at)
    run_json("publish", *at)
    (winner,) = ids("person-1") | ids("person-2")
    leaver, stayer = ("person-1", "person-2") if winner == one else ("person-2", "person-1")
    loser = two if winner == one else one
    if leaves == "withdrawal":
        run_json("ledger", "withdraw", "--subject", leaver, *at)
    else:
        run_json("erase", "--subject", leaver, "--yes", "--keep-copies", *at)
    run_json("nightly", *at)
    assert (ids(leaver), ids(stayer)) == (set(), {loser})
    assert status(winner) == ("retired", None)
    run_json("correct", "undo", "1", *at)
    if leaves == "withdrawal":
        run_json("ledger", "grant", "--subject", leaver, "--basis", "b", "--purpose", P, *at)
        run_json("nightly", *at)
        assert (ids(leaver), ids(stayer)) == ({winner}, {loser})
    assert run_json("verify", *at)["ok"]
