"""`facelake ledger`: mistyped references, purposes and lakes are noticed before anything is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from facelake.config import load_config
from facelake.contracts import LEASES, EventKind, Scope
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.publish.leases import LeaseEvent
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.known_references import Known
from facelake.stages.admission.ledger import Entry, record
from tests.conftest import run_cli, run_json

P = "identity-grouping"


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    with writing(load_config(lake=str(tmp_path / "lake")), "a custodian") as context:
        rows = [
            {"image_id": f"school/{name}.jpg", "image": b"x", "source_id": "school", "subject_ref": name}
            for name in ("Zo\u00eb", "person-0041")
        ]
        write_corpus_file(context, rows)
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", (P,), "b")])
    return tmp_path / "lake"


def keys(lake: Path) -> list[str]:
    return list(Lake.open(str(lake))["ledger"].read().sort_by("seq")["key"].to_pylist())


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--subject", "ZO\u00cb"], "there is 'Zo\u00eb'"),
        (["--subject", "person 0041"], "there is 'person-0041'"),
        (["--subject", "persn-0041"], "did you mean 'person-0041'"),
        (["--subject", "person-41"], "there is 'person-0041'"),
        (["--subject", "school"], "it is a source: --source school"),
        (["--source", "schol"], "did you mean 'school'"),
        (["--source", "school", "--purpose", "identity-groupng"], f"did you mean '{P}'"),
        (["--subject", "nobody"], "no subject 'nobody'"),
    ],
)
def test_a_withdrawal_that_matches_nothing_is_refused(lake: Path, arguments: list[str], hint: str) -> None:
    done = run_cli("ledger", "withdraw", *arguments, "--lake", str(lake))
    assert done.returncode == 2
    assert hint in done.stderr
    assert "--even-if-unknown" in done.stderr
    assert keys(lake) == ["school"]
    run_json("ledger", "withdraw", *arguments, "--even-if-unknown", "--lake", str(lake))
    assert len(keys(lake)) == 2


def test_nobody_else_is_offered_in_place_of_a_person(lake: Path) -> None:
    for command in (["ledger", "withdraw"], ["erase", "--yes"]):
        done = run_cli(*command, "--subject", "person-0042", "--lake", str(lake))
        assert (done.returncode, "no subject 'person-0042'" in done.stderr) == (2, True)
        assert "person-0041" not in done.stderr


@pytest.mark.parametrize(
    "spelling",
    ["Zoe\u0308", " Zo\u00eb", "Zo\u00eb\u200b", "\u3164Zo\u00eb", "Zo\u00eb\u2800", "Z\u180bo\u00eb", "Zo\u00eb\x7f"],
)
def test_another_spelling_of_the_same_reference_is_the_same_person(lake: Path, spelling: str) -> None:
    run_json("ledger", "withdraw", "--subject", spelling, "--lake", str(lake))
    assert keys(lake) == ["school", "Zo\u00eb"]


def test_a_grant_may_come_before_its_photos_but_not_nearly_miss_a_source_or_purpose(lake: Path) -> None:
    grant = ["ledger", "grant", "--basis", "b", "--lake", str(lake)]
    run_json(*grant, "--subject", "person-0042", "--purpose", P)
    done = run_cli(*grant, "--source", "school-2027", "--purpose", "advertising")
    assert done.returncode == 0
    assert "no source 'school-2027' (it has 'school')" in done.stderr
    assert "no purpose 'advertising'" in done.stderr
    run_json(*grant, "--source", "class-2026", "--purpose", P, "--even-if-unknown")
    for mistyped in (
        ["--source", "scool", "--purpose", P],
        ["--source", "class-2O26", "--purpose", P],
        ["--source", "school", "--purpose", "identity grouping"],
    ):
        done = run_cli(*grant, *mistyped)
        assert done.returncode == 2
        assert "did you mean" in done.stderr or "there is" in done.stderr


def test_a_mistyped_purpose_of_the_config_makes_it_no_known_one(lake: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"lake: {lake}\npurpose: identity-groupin\n")
    grant = ["ledger", "grant", "--basis", "b", "-c", str(config), "--source", "school", "--purpose"]
    done = run_cli(*grant, "identity-groupin")
    assert (done.returncode, f"did you mean '{P}'" in done.stderr) == (2, True)
    run_json(*grant, P)


def test_a_grant_does_not_bring_back_the_name_of_somebody_erased(lake: Path, tmp_path: Path) -> None:
    opened = Lake.open(str(lake))
    opened.suppress(["subject:person-0041"])
    grant = ["ledger", "grant", "--basis", "b", "--purpose", P, "--lake", str(lake), "--even-if-unknown"]
    done = run_cli(*grant, "--subject", " person-0041")
    assert (done.returncode, "was erased" in done.stderr) == (2, True)
    path = tmp_path / "events.csv"
    path.write_text(f"subject,purposes,basis\nperson-0041,{P},b\nperson-0077,{P},b\n")
    said = run_json("ledger", "import", str(path), "--even-if-unknown", "--lake", str(lake), code=1)
    assert (said["events"], [line["line"] for line in said["lines"]]) == (1, [2])
    assert keys(lake) == ["school", "person-0077"]
    run_json("ledger", "withdraw", "--subject", "Zoë", "--lake", str(lake))


def test_lines_of_a_file_that_match_nothing_are_rejected(lake: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("kind,subject\nwithdraw,person-0041 \nwithdraw,person-0O41\n")
    said = run_json("ledger", "import", str(path), "--lake", str(lake), code=1)
    assert (said["events"], [line["line"] for line in said["lines"]]) == (1, [3])
    assert run_json("ledger", "import", str(path), "--even-if-unknown", "--lake", str(lake))["events"] == 1


def test_a_grant_of_a_file_for_somebody_who_resembles_another_is_rejected_or_named(lake: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    lines = [
        f"{name},{P},b"
        for name in (
            "Person-0041",
            "person-41",
            "ｐｅｒｓｏｎ-0041",
            "persn-0041",
            "person-0042",
            "nobody",
            "person-0041",
        )
    ]
    path.write_text("subject,purposes,basis\n" + "\n".join(lines) + "\n")
    said = run_json("ledger", "import", str(path), "--lake", str(lake), code=1)
    assert said["events"] == 4
    assert [line["line"] for line in said["lines"]] == [2, 3, 4]
    assert [line["line"] for line in said["questioned"]] == [5]


def test_a_withdrawal_names_others_who_are_written_nearly_the_same(lake: Path) -> None:
    with writing(load_config(lake=str(lake)), "a custodian") as context:
        write_corpus_file(
            context, [{"image_id": "school/2", "image": b"x", "source_id": "school", "subject_ref": "PERSON 41"}]
        )
    done = run_cli("ledger", "withdraw", "--subject", "person-0041", "--lake", str(lake))
    assert done.returncode == 0
    assert "the lake also has the subject 'PERSON 41'" in done.stderr
    done = run_cli("erase", "--subject", "person-0041", "--yes", "--lake", str(lake))
    assert "the lake also has the subject 'PERSON 41'" in done.stderr


def test_a_photo_is_known_by_its_id_whatever_its_letters(tmp_path: Path) -> None:
    """Lower case of a final sigma depends on the neighbours in Python, and not in Arrow."""
    image = "\u039d\u0399\u039a\u039f\u03a3/1.jpg"
    with writing(load_config(lake=str(tmp_path / "lake")), "a custodian") as context:
        write_corpus_file(context, [{"image_id": image, "image": b"x", "source_id": "s"}])
        known = Known.of(context.config, context.lake, [image, image.replace("1", "\uff11")])
    assert known.images == {image}
    assert [item.near for item in known.unknown("image", [image.replace("1", "\uff11")])] == [f"there is {image!r}"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["ledger", "withdraw", "--source", "s"],
        ["ledger", "grant", "--source", "s", "--basis", "b", "--purpose", P],
        ["ledger", "accept", "--yes"],
        ["erase", "--subject", "person-0041", "--yes"],
        ["correct", "undo", "1"],
        ["feed", "ack", "lease-1"],
        ["gallery", "export", "--out", "out", "--purpose", P, "--recipient", "gate"],
        ["vacuum"],
        ["report"],
        ["nightly", "-c", "CONFIG"],
    ],
)
def test_a_mistyped_lake_is_not_created(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "corpus").mkdir()
    with writing(load_config(lake=str(tmp_path / "other"), overrides={"corpus": str(tmp_path / "corpus")}), "x") as own:
        write_corpus_file(own, [{"image_id": "s/1", "image": b"x", "source_id": "s"}])
    (tmp_path / "config.yaml").write_text(f"corpus: {tmp_path / 'corpus'}\ngovernance: {{dpia: D}}\n")
    arguments = [str(tmp_path / "config.yaml") if word == "CONFIG" else word for word in arguments]
    done = run_cli(*arguments, "--lake", str(tmp_path / "mistyped"))
    assert done.returncode == 2, done.stderr
    assert "no facelake lake at this URI" in done.stderr
    assert not (tmp_path / "mistyped").exists()


def test_a_lake_over_an_own_corpus_is_made_on_request(tmp_path: Path) -> None:
    grant = ["--source", "s", "--basis", "b", "--purpose", P]
    run_json("ledger", "grant", *grant, "--create-lake", "--lake", str(tmp_path / "lake"))
    assert keys(tmp_path / "lake") == ["s"]


def test_control_characters_of_names_do_not_reach_the_terminal(lake: Path) -> None:
    done = run_cli(
        "ledger", "grant", "--subject", "x\x1b]0;owned\x07", "--basis", "\x1b[2J\u202egnp",
        "--purpose", P, "--lake", str(lake),
    )  # fmt: skip
    assert done.returncode == 0
    done = run_cli("ledger", "list", "--lake", str(lake))
    assert "\\u001b" in done.stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout + done.stderr)


def test_a_withdrawal_can_be_recorded_after_a_recipient_answered(lake: Path) -> None:
    """The answer is an event of the lease that names no purpose."""
    answer = {"seq": 1, "lease_id": "lease-1", "event": str(LeaseEvent.ACKNOWLEDGED), "recipient": "gate"}
    Lake.open(str(lake))["leases"].append([dict.fromkeys(LEASES.names) | answer])
    run_json("ledger", "withdraw", "--subject", "person-0041", "--lake", str(lake))
    assert keys(lake) == ["school", "person-0041"]


def test_a_grant_that_has_ended_is_pointed_out(lake: Path) -> None:
    grant = ["ledger", "grant", "--source", "school", "--basis", "b", "--purpose", P, "--lake", str(lake)]
    assert "ended on 2025-01-01" in run_cli(*grant, "--until", "2025-01-01").stderr
    assert "ended" not in run_cli(*grant, "--until", "2999-01-01").stderr


@pytest.mark.parametrize("name", ["web-scrape", "cctv", "unknown"])
def test_a_class_that_bars_a_source_for_good_is_refused_until_it_is_confirmed(
    lake: Path, tmp_path: Path, name: str
) -> None:
    grant = ["ledger", "grant", "--source", "school", "--purpose", P, "--basis", "b", "--class", name]
    done = run_cli(*grant, "--lake", str(lake))
    assert done.returncode == 2
    assert "would refuse 'school' for good" in done.stderr
    path = tmp_path / "grants.csv"
    path.write_text(f"source,purposes,basis,source_class\nschool,{P},b,{name}\n")
    done = run_cli("ledger", "import", str(path), "--lake", str(lake))
    assert done.returncode == 1
    assert "would refuse 'school' for good" in done.stdout
    assert keys(lake) == ["school"], "nothing was recorded"
    run_json(*grant, "--even-if-unknown", "--lake", str(lake))
    assert keys(lake) == ["school"] * 2


def test_a_photo_that_is_named_in_the_wrong_folder_is_offered(lake: Path) -> None:
    for wrong in ("school/2026/person-0041.jpg", "other/person-0041.jpg"):
        done = run_cli("erase", "--image", wrong, "--yes", "--lake", str(lake))
        assert done.returncode == 2
        assert "there is 'school/person-0041.jpg'" in done.stderr
    assert "there is" not in run_cli("erase", "--image", "school/0041.jpg", "--yes", "--lake", str(lake)).stderr


@pytest.mark.parametrize("basis", [(), ("--basis", ""), ("--basis", "  ")])
def test_an_import_without_a_basis_is_refused_before_a_lake_is_made(tmp_path: Path, basis: tuple[str, ...]) -> None:
    """An empty one comes from a script whose variable is not set."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"\xff\xd8\xff\xd9")
    lake = tmp_path / "made"
    refused = run_json("import", str(tmp_path / "photos"), *basis, "--lake", str(lake), code=2)["error"]
    assert "no legal basis is stated" in refused["what"]
    assert "--no-grant" in refused["next"]
    assert not lake.exists()


def test_what_an_ended_grant_and_an_expiry_do_is_said(lake: Path, tmp_path: Path) -> None:
    """The source's grant covers everyone: a subject's own events end nothing but the subject's own grants."""
    ended = ["ledger", "grant", "--basis", "b", "--purpose", P, "--until", "2026-01-01", "--lake", str(lake)]
    withdraw = "`facelake ledger withdraw --subject person-0041` ends their use too"
    stay = f"Photos of a source whose grant covers everyone stay; {withdraw}"
    told = run_cli(*ended, "--subject", "person-0041").stderr
    assert "ended on 2026-01-01: it changes nothing: this subject had no grant in force" in told
    assert stay in told
    run_json("ledger", "grant", "--basis", "b", "--purpose", P, "--subject", "person-0041", "--lake", str(lake))
    file = tmp_path / "e.csv"
    file.write_text("kind,subject,source\nexpire,person-0041,\nexpire,Zo\u00eb,\nexpire,,school\n")
    done = run_json("ledger", "import", str(file), "--lake", str(lake))
    problems = {item["line"]: item["problem"] for item in done["questioned"]}
    assert "ends the earlier grant of this subject. Photos" in problems[2]
    assert "changes nothing: this subject had no grant in force" in problems[3]
    assert problems[4].endswith(
        "ends the earlier one, and the next run refuses the photos but for those of subjects with a grant"
    )
    told = run_cli(*ended, "--source", "school").stderr
    assert "changes nothing: there was no grant of this source in force" in told
    assert "refuses the photos" not in told


def folder_of(tmp_path: Path, *people: str) -> Path:
    """A folder with a photo of each person."""
    for person in people:
        (tmp_path / "photos" / person).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / person / "a.jpg").write_bytes(b"\xff\xd8\xff\xd9" + person.encode())
    return tmp_path / "photos"


def test_photos_of_people_with_their_own_grants_are_imported_again_by_the_same_command(tmp_path: Path) -> None:
    """The advice to state a basis for the source would cover people who never agreed."""
    at = ["-c", str(tmp_path / "c.yaml")]
    (tmp_path / "c.yaml").write_text(f"lake: {tmp_path / 'lake'}\ngovernance: {{dpia: D-1}}\n")
    command = ["import", str(folder_of(tmp_path, "ann", "bo")), "--person-from", "^([^/]+)/", *at]
    said = run_cli(*command, "--no-grant").stdout
    assert "only photos of people with a grant of their own (0 in the ledger) are processed" in said
    assert f"facelake ledger grant --source photos --purpose {P} --basis 'signed release' {' '.join(at)}" in said
    run_json("ledger", "grant", "--subject", "ann", "--purpose", P, "--basis", "b", *at)
    folder_of(tmp_path, "cleo")
    again = run_cli(*command)
    assert again.returncode == 0
    assert "only photos of people with a grant of their own (1 in the ledger) are processed" in again.stdout
    counts = run_json("admit", *at)["stages"]["admit"]
    assert (counts["read"], counts["admitted"]) == (3, 1)
    refused = run_json(*command, "--basis", "signed release", code=2)["error"]
    assert "--basis would cover everyone in all of them" in refused["what"]
    assert "`facelake ledger grant --source photos`" in refused["next"]
    assert keys(tmp_path / "lake") == ["ann"]


def test_the_grant_of_an_import_is_ended_without_the_grants_of_people(tmp_path: Path) -> None:
    at = ["--lake", str(tmp_path / "lake")]
    config = tmp_path / "c.yaml"
    config.write_text("governance: {dpia: D-1}\n")
    at = ["-c", str(config), *at]
    folder = folder_of(tmp_path, "ann", "bo")
    said = run_cli("import", str(folder), "--basis", "b", "--person-from", "^([^/]+)/", *at).stdout
    assert f"`facelake ledger expire --source photos {' '.join(at)}` ends it" in said
    run_json("ledger", "grant", "--subject", "ann", "--purpose", P, "--basis", "b", *at)
    told = run_cli("ledger", "expire", "--source", "photos", *at).stderr
    assert "the next run refuses the photos but for those of subjects with a grant" in told
    assert run_json("nightly", "--only", "admit", "--accept-loss", *at)["stages"]["admit"]["admitted"] == 1
    told = run_cli("ledger", "withdraw", "--source", "photos", *at).stderr
    assert "holds for all its photos, also those of people with a grant of their own (the ledger has 1 person)" in told
    assert run_json("admit", *at)["stages"]["admit"]["admitted"] == 0


def test_a_grant_of_a_person_without_photos_is_pointed_out(lake: Path) -> None:
    grant = ["ledger", "grant", "--purpose", P, "--basis", "b", "--lake", str(lake), "--subject"]
    assert "no photo has the subject 'somebody': the grant has no effect" in run_cli(*grant, "somebody").stderr
    assert "no photo has" not in run_cli(*grant, "person-0041").stderr


def test_subjects_of_a_list_without_photos_are_named(lake: Path, tmp_path: Path) -> None:
    releases = tmp_path / "releases.csv"
    rows = "".join(f"{name},{P},b\n" for name in ("person-0041", "somebody", "nobody"))
    releases.write_text(f"subject,purposes,basis\n{rows}")
    done = run_cli("ledger", "import", str(releases), "--lake", str(lake))
    assert (done.returncode, "no photo has the subjects nobody, somebody: their grants have" in done.stderr) == (
        0,
        True,
    )


def test_a_grant_says_that_it_lifts_a_withdrawal(lake: Path, tmp_path: Path) -> None:
    at, grant = ["--lake", str(lake)], ["--subject", "person-0041", "--basis", "b", "--purpose"]
    assert "lifts" not in run_cli("ledger", "grant", *grant, P, *at).stderr
    run_json("ledger", "withdraw", "--subject", "person-0041", "--purpose", P, *at)
    releases = tmp_path / "releases.csv"
    releases.write_text(f"subject,purposes,basis\nperson-0041,{P},signed again\n")
    said = run_json("ledger", "import", str(releases), *at, code=1)
    assert (said["events"], said["lines"][0]["line"]) == (0, 2)
    assert run_json("ledger", "import", str(releases), "--lift-withdrawals", *at)["events"] == 1
    run_json("ledger", "withdraw", "--subject", "person-0041", *at)
    told = run_cli("ledger", "grant", *grant, P, *at).stderr
    assert "this grant of the subject 'person-0041' lifts the withdrawal of " in told
    assert "lifts" not in run_cli("ledger", "grant", *grant, P, *at).stderr


def test_no_lake_is_made_for_a_mistyped_purpose(tmp_path: Path) -> None:
    photos = tmp_path / "own"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"x")
    config = tmp_path / "own.yaml"
    config.write_text(f"lake: {tmp_path / 'lake'}\ngovernance: {{dpia: 'none: a test'}}\n")
    done = run_cli("import", str(photos), "-c", str(config), "--basis", "b", "--purpose", "identity-groping")
    assert done.returncode == 2
    assert "did you mean 'identity-grouping'" in done.stderr
    assert "nothing was imported" in done.stderr
    assert not (tmp_path / "lake").exists()


def test_a_source_that_only_the_ledger_has_may_be_the_mistyped_one(tmp_path: Path) -> None:
    """`--create-lake` takes any name."""
    at = ["--lake", str(tmp_path / "lake")]
    grant = ["ledger", "grant", "--purpose", P, "--basis", "b", *at, "--source"]
    run_json(*grant, "scool", "--create-lake")
    done = run_cli(*grant, "school")
    assert (done.returncode, "did you mean 'scool', which no photo has" in done.stderr) == (2, True), done.stderr
    with writing(load_config(lake=str(tmp_path / "lake")), "a custodian") as context:
        write_corpus_file(context, [{"image_id": "school/a.jpg", "image": b"x", "source_id": "school"}])
    run_json(*grant, "school")
    assert keys(tmp_path / "lake") == ["scool", "school"]
    done = run_cli(*grant, "schol")
    assert (done.returncode, "which no photo has" in done.stderr) == (2, False)


def test_every_photo_of_the_name_is_offered(lake: Path) -> None:
    with writing(load_config(lake=str(lake)), "a custodian") as context:
        rows = [{"image_id": f"school/{name}/a.jpg", "image": b"x", "source_id": "school"} for name in ("ann", "bo")]
        write_corpus_file(context, rows)
    done = run_cli("erase", "--image", "a.jpg", "--yes", "--lake", str(lake))
    assert (done.returncode, "there is 'school/ann/a.jpg' or 'school/bo/a.jpg'" in done.stderr) == (2, True)


def test_a_forgotten_source_is_asked_for(lake: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "ann")
    config = tmp_path / "own.yaml"
    config.write_text("governance: {dpia: D-1}\n")
    done = run_cli("import", str(folder), "-c", str(config), "--lake", str(lake))
    assert (
        done.returncode,
        "if they are of a source that the lake has (school), name it by --source" in done.stderr,
    ) == (
        2,
        True,
    )
    told = run_cli(
        "import", str(folder), "-c", str(config), "--lake", str(lake), "--no-grant", "--person-from", "^([^/]+)/"
    ).stdout
    assert "subject references in the imported photos: 1" in told
    assert "Next, for each person who agreed: facelake ledger grant --subject NAME" in told
