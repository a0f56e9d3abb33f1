"""Import of folders, prefixes and tar files: what is known is not read, and what is left out is counted and named."""

from __future__ import annotations

import io
import os
import tarfile
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from facelake.config import Config, S3Section
from facelake.contracts import EventKind, Scope, SourceClass
from facelake.errors import ConfigError, Refused
from facelake.lake.corpora.parquet import Corpus
from facelake.lake.lake import Lake
from facelake.lake.store import open_store
from facelake.nightly import writing
from facelake.stages.admission import import_images
from facelake.stages.admission.import_grants import Grant
from facelake.stages.admission.import_images import import_folder
from facelake.stages.admission.import_sources import ImportSource, naming_of
from facelake.stages.admission.known_references import Known
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.admission.shared_references import of_several_sources
from facelake.testing.servers import Server
from tests.conftest import run_cli

PHOTO = b"\xff\xd8\xff photo "


def imported(tmp_path: Path, location: str, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """The counts of an import, and its notices."""
    notes: list[str] = []
    with writing(Config(lake=str(tmp_path / "lake")), "test", lambda event: notes.append(str(event))) as context:
        return dict(import_folder(context, location, source="s", **options).counts), notes


def corpus(tmp_path: Path) -> dict[str, bytes]:
    reader = Corpus(str(tmp_path / "lake/corpus"))
    rows = [row for path in reader.paths() for row in reader.images(path, 0, reader.inspect(path).rows)]
    photos = {ident: data for _, ident, data in rows}
    assert len(photos) == len(rows)
    return photos


@pytest.fixture
def awkward(tmp_path: Path) -> Path:
    root, other = tmp_path / "awkward", tmp_path / "elsewhere"
    (root / "@eaDir/a.jpg").mkdir(parents=True)
    (root / "@eaDir/a.jpg/thumb.jpg").write_bytes(PHOTO)
    for folder in ("thumbs", "2019/Thumbnails"):
        (root / folder).mkdir(parents=True)
        (root / folder / "a.jpg").write_bytes(PHOTO + b"small")
    (root / "a.jpg").write_bytes(PHOTO + b"a")
    (root / "no-suffix").write_bytes(PHOTO + b"n")
    (root / "a.xmp").write_text("<x/>")
    (root / unicodedata.normalize("NFC", "café.jpg")).write_bytes(PHOTO + b"c")
    other.mkdir()
    (other / "b.jpg").write_bytes(PHOTO + b"b")
    os.symlink(other, root / "linked")
    os.symlink(root, root / "loop")
    os.symlink("/nowhere", root / "dead.jpg")
    os.symlink(other / "b.jpg", root / "link.jpg")
    os.mkfifo(root / "pipe.jpg")
    return root


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, awkward: Path) -> None:
    counts, notes = imported(tmp_path, str(awkward))
    assert sorted(corpus(tmp_path)) == ["s/a.jpg", "s/café.jpg", "s/no-suffix"]
    text = "\n".join(notes)
    for line in (
        "2 links: link.jpg, linked",
        "1 loops: loop",
        "1 dead links: dead.jpg",
        "3 thumbnails: 2019/Thumbnails, @eaDir, thumbs",
    ):
        assert f"left out: {line}" in text
    assert "1 not files: pipe.jpg" in text
    assert "1 not photos: a.xmp" in text
    assert (counts["imported"], counts["skipped"], counts["files"]) == (3, 9, 12)
    assert counts["skipped_links"] == 2


def test_links_are_followed_when_asked_and_loops_never(tmp_path: Path, awkward: Path) -> None:
    os.symlink(awkward / "linked", awkward / "linked-again")
    counts, notes = imported(tmp_path, str(awkward), follow_links=True)
    assert {"s/link.jpg", "s/linked/b.jpg"} <= set(corpus(tmp_path))
    assert "2 loops: linked-again, loop" in "\n".join(notes)
    assert counts["imported"] == 5


def test_a_known_file_is_not_read_again(tmp_path: Path) -> None:
    photos = tmp_path / "p"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (photos / name).write_bytes(PHOTO + name.encode())
    assert imported(tmp_path, str(photos))[0]["imported"] == 3
    stat = (photos / "a.jpg").stat()
    (photos / "a.jpg").write_bytes(PHOTO + b"A.jpg")
    os.utime(photos / "a.jpg", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # looks unchanged, so its content is not seen
    os.utime(photos / "b.jpg")
    (photos / "c.jpg").write_bytes(PHOTO + b"other")
    counts, _ = imported(tmp_path, str(photos))
    assert (counts["present"], counts["changed"], counts["imported"]) == (2, 1, 0)


def test_an_import_that_was_killed_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "p"
    photos.mkdir()
    for number in range(40):
        (photos / f"{number:02d}.jpg").write_bytes(PHOTO + bytes(1000) + b"%d" % number)
    monkeypatch.setattr(import_images, "_PART_BYTES", 10_000)
    written = import_images.write_corpus_file

    def fails_at_third(context: Any, rows: Any, name: str | None = None) -> str:
        if len(list((tmp_path / "lake/corpus").glob("*.parquet"))) == 2:
            raise Refused("killed")
        return written(context, rows, name)

    monkeypatch.setattr(import_images, "write_corpus_file", fails_at_third)
    with pytest.raises(Refused):
        imported(tmp_path, str(photos))
    monkeypatch.setattr(import_images, "write_corpus_file", written)
    counts, _ = imported(tmp_path, str(photos))
    assert (counts["present"], counts["imported"]) == (20, 20)
    assert len(corpus(tmp_path)) == 40


def test_a_prefix_and_a_tar_are_imported(tmp_path: Path, weed_env: Server) -> None:
    store = open_store("s3://lake/import")
    for name in ("a.jpg", "deep/b.jpg", "deep/notes.txt"):
        store.write(name, name.encode() if name.endswith("txt") else PHOTO + name.encode())
    for present in (0, 2):
        counts, _ = imported(tmp_path, "s3://lake/import")
        assert (counts["imported"], counts["present"], counts["skipped"]) == (2 - present, present, 1)
    with tarfile.open(tmp_path / "more.tar", "w") as tar:
        for name in ("c.jpg", "deep/d.png", "c.json"):
            member = tarfile.TarInfo(name)
            member.size = len(PHOTO)
            tar.addfile(member, io.BytesIO(PHOTO))
    for present in (0, 2):
        counts, _ = imported(tmp_path, str(tmp_path / "more.tar"))
        assert (counts["imported"], counts["present"]) == (2 - present, present)
    with tarfile.open(tmp_path / "more.tar", "w") as tar:  # as `tar -C folder .` writes it
        for name in ("./c.jpg", "./deep/d.png", "./.thumbnails/e.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(PHOTO)
            tar.addfile(member, io.BytesIO(PHOTO))
    counts, _ = imported(tmp_path, str(tmp_path / "more.tar"))
    assert (counts["imported"], counts["present"], counts["skipped"]) == (0, 2, 1)
    assert sorted(corpus(tmp_path)) == ["s/a.jpg", "s/c.jpg", "s/deep/b.jpg", "s/deep/d.png"]


def test_both_unicode_forms_of_a_name_are_one_photo(tmp_path: Path) -> None:
    photos = tmp_path / "p"
    photos.mkdir()
    (photos / unicodedata.normalize("NFD", "café.jpg")).write_bytes(PHOTO)
    assert imported(tmp_path, str(photos))[0]["imported"] == 1
    (photos / unicodedata.normalize("NFD", "café.jpg")).rename(photos / unicodedata.normalize("NFC", "café.jpg"))
    assert imported(tmp_path, str(photos))[0]["present"] == 1
    assert list(corpus(tmp_path)) == [f"s/{unicodedata.normalize('NFC', 'café.jpg')}"]


@pytest.mark.parametrize("pack", [False, True])
def test_two_files_of_one_name_never_replace_each_other(tmp_path: Path, pack: bool) -> None:
    photos = tmp_path / "p"
    photos.mkdir()
    for form in ("NFD", "NFC"):
        (photos / unicodedata.normalize(form, "café.jpg")).write_bytes(PHOTO + form.encode())
    location = str(photos)
    if pack:
        location += ".tar"
        with tarfile.open(location, "w") as tar:
            for form in ("NFC", "NFD"):
                tar.add(photos / unicodedata.normalize(form, "café.jpg"), "café.jpg")
    for replace_changed in (False, True, True):
        counts, notes = imported(tmp_path, location, replace_changed=replace_changed)
        assert (counts["changed"], counts["replaced"], counts["skipped_second_files_of_one_name"]) == (0, 0, 1)
        assert any("second files of one name: caf" in note for note in notes)
        assert list(corpus(tmp_path).values()) == [PHOTO + b"NFC"]


@pytest.mark.parametrize("name", ["web-scrape", "cctv", "unknown"])
def test_photos_that_no_run_may_process_are_not_imported(tmp_path: Path, name: str) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.jpg").write_bytes(PHOTO)
    with pytest.raises(ConfigError, match=f"photos of class {name} are never processed"):
        imported(tmp_path, str(tmp_path / "p"), grant=Grant("b", source_class=SourceClass(name)))
    assert not (tmp_path / "lake/corpus").exists()
    assert not Lake.open(str(tmp_path / "lake"))["ledger"].read().num_rows


def test_an_import_refuses_a_purpose_that_is_nearly_a_known_one(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.jpg").write_bytes(PHOTO)
    with pytest.raises(ConfigError, match=r"no purpose 'identity-groupin' \(did you mean 'identity-grouping'"):
        imported(tmp_path, str(tmp_path / "p"), grant=Grant("b", ("identity-groupin",)))
    assert not (tmp_path / "lake/corpus").exists()
    assert imported(tmp_path, str(tmp_path / "p"), grant=Grant("b", ("print",)))[0]["granted"] == 1
    config = Config(lake=str(tmp_path / "lake"), purpose="prnt")
    with writing(config, "test") as context, pytest.raises(ConfigError, match=r"no purpose 'prnt' \(did you mean"):
        import_folder(context, str(tmp_path / "p"), source="other", grant=Grant("b"))


def test_new_photos_do_not_come_in_under_a_statement_made_for_others(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(PHOTO)
    first = Grant("signed release 1", evidence="form 1")
    assert imported(tmp_path, str(photos), grant=first)[0]["granted"] == 1
    (photos / "b.jpg").write_bytes(PHOTO + b"2")
    for other in (Grant("signed release 2", evidence="form 1"), Grant("signed release 1", evidence="form 2")):
        with pytest.raises(ConfigError, match="new photos would stand under it"):
            imported(tmp_path, str(photos), grant=other)
    assert list(corpus(tmp_path)) == ["s/a.jpg"], "nothing was imported"
    for same in (first, Grant("signed release 1"), None):
        imported(tmp_path, str(photos), grant=same)
    assert sorted(corpus(tmp_path)) == ["s/a.jpg", "s/b.jpg"]


def test_persons_by_folder_and_references_that_come_later(tmp_path: Path) -> None:
    photos = tmp_path / "class 4b"
    for name in ("anna-k/1.jpg", "anna-k/2.jpg", "ben-l/1.jpg", "3.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(PHOTO + name.encode())
    with pytest.raises(ConfigError, match="matches none of the 4 photos"):
        imported(tmp_path, str(photos), person_from=r"^(pupil-\d+)_")
    assert not (tmp_path / "lake/corpus").exists()
    assert imported(tmp_path, str(photos))[0]["imported"] == 4

    counts, notes = imported(tmp_path, str(photos), person_from=r"^([^/]+)/")
    assert (counts["named"], counts["present"], counts["imported"]) == (3, 1, 0)
    assert any("3 imported without a subject reference before" in note for note in notes)
    rows = [row for path in (tmp_path / "lake/corpus").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    named = {row["image_id"]: row["subject_ref"] for row in rows if row["image_id"]}
    assert named == {"s/anna-k/1.jpg": "anna-k", "s/anna-k/2.jpg": "anna-k", "s/ben-l/1.jpg": "ben-l", "s/3.jpg": None}
    assert imported(tmp_path, str(photos), person_from=r"^([^/]+)/")[0]["present"] == 4


def test_wrong_references_are_named_and_corrected_on_request(tmp_path: Path) -> None:
    photos = tmp_path / "p"
    photos.mkdir()
    for name in ("200001_a_1.jpg", "200001_b_1.jpg", "200002_1.jpg"):
        (photos / name).write_bytes(PHOTO + name.encode())
    greedy, right = r"^(.+)_", r"^([^_]+)_"
    imported(tmp_path, str(photos), person_from=greedy)
    counts, notes = imported(tmp_path, str(photos), person_from=right)
    assert (counts["present"], counts["named"]) == (3, 0)
    assert any("2 imported with another subject reference than --person-from gives" in note for note in notes)
    counts, notes = imported(tmp_path, str(photos), person_from=right, replace_changed=True)
    assert (counts["present"], counts["named"], counts["replaced"]) == (1, 2, 0)
    assert any("2 imported with another subject reference before, and given that of" in note for note in notes)
    rows = [row for path in (tmp_path / "lake/corpus").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    named = {row["image_id"]: (row["subject_ref"], row["image"]) for row in rows if row["image_id"]}
    assert named == {f"s/{f.name}": (f.name.partition("_")[0], f.read_bytes()) for f in photos.iterdir()}
    assert imported(tmp_path, str(photos), person_from=right, replace_changed=True)[0]["present"] == 3


def test_a_person_regex_without_a_group_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not say which part"):
        naming_of(r"^\d+_")
    assert naming_of(r"^(\d+)_").subject("200042_a.jpg") == "200042"
    assert naming_of(r"^(\d+)_", "north-").subject("x/200042_a.jpg") == "north-200042"
    assert naming_of(None).subject("200042_a.jpg") is None
    with pytest.raises(ConfigError, match="no subject references"):
        naming_of(None, "north-")


def test_references_that_two_sources_share_are_named_and_can_be_told_apart(tmp_path: Path) -> None:
    """Two schools number their pupils alike: 0041 is another child in each."""
    said: dict[str, list[str]] = {}
    for school, prefix in (("north", ""), ("south", ""), ("east", "east-")):
        folder = tmp_path / school
        folder.mkdir()
        for name in ("0041_a.jpg", f"{school}_a.jpg"):
            (folder / name).write_bytes(PHOTO + school.encode() + name.encode())
        notes: list[str] = []
        with writing(Config(lake=str(tmp_path / "lake")), "test", lambda e, to=notes: to.append(str(e))) as context:
            counts = import_folder(context, str(folder), person_from="^([^_]+)_", person_prefix=prefix).counts
        assert (counts["imported"], counts["subjects"]) == (2, 2)
        said[school] = [note for note in notes if "also in photos of" in note]
    assert (said["north"], said["east"]) == ([], [])
    assert "1 subject reference also in photos of 'north': '0041'" in said["south"][0]
    with writing(Config(lake=str(tmp_path / "lake")), "test") as context:
        known = Known.of(context.config, context.lake, subjects=["0041", "north", "east-0041"])
        told = list(of_several_sources(known))
    assert [line.partition(":")[0] for line in told] == [
        "photos of 2 sources name the subject '0041' ('north', 'south')"
    ]


def test_patterns_of_the_config_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    (folder / "private").mkdir(parents=True)
    for name in ("a.jpg", "private/b.jpg"):
        (folder / name).write_bytes(PHOTO + name.encode())
    config = Config.model_validate({"lake": str(tmp_path / "lake"), "corpus": {"exclude": ["private"]}})
    with writing(config, "test") as context:
        counts = import_folder(context, str(folder), source="s").counts
    assert (counts["imported"], counts["skipped"], list(corpus(tmp_path))) == (1, 1, ["s/a.jpg"])


def test_no_new_lake_is_made_where_one_was(tmp_path: Path) -> None:
    """Its disk is not mounted: the import would begin a lake without a ledger."""
    folder, lake, copies = tmp_path / "p", tmp_path / "lake", tmp_path / "copies"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(PHOTO)
    config = Config.model_validate({"lake": str(lake), "governance": {"ledger_copy": str(copies)}})
    for _ in range(2):
        with writing(config, "test") as context:
            import_folder(context, str(folder), source="s")
    lake.rename(tmp_path / "unmounted")
    with pytest.raises(ConfigError, match="there was a lake here") as refused, writing(config, "test"):
        pass
    assert not lake.exists(), "nothing is written where a disk may be mounted"
    mark = Path(refused.value.next_step.rpartition("delete ")[2].removeprefix("file://"))
    mark.unlink()
    with writing(config, "test") as context:
        assert import_folder(context, str(folder), source="s").counts["imported"] == 1


def test_changed_absent_and_unlabelled_photos_are_named_and_changed_ones_replaced_on_request(tmp_path: Path) -> None:
    photos = tmp_path / "p"
    photos.mkdir()
    for name in ("200001.jpg", "200002.jpg", "200003.jpg", "holiday.jpg"):
        (photos / name).write_bytes(PHOTO + name.encode())
    pattern = r"^(\d+)"
    counts, notes = imported(tmp_path, str(photos), person_from=pattern)
    assert counts["unlabelled"] == 1
    assert any("--person-from does not match: holiday.jpg" in note for note in notes)
    assert not any("fewer than 6 bytes" in note for note in notes)
    (photos / "201.jpg").write_bytes(PHOTO + b"short")
    _, notes = imported(tmp_path, str(photos), person_from=pattern)
    assert any("fewer than 6 bytes, which erasures cannot search for: 201.jpg" in note for note in notes)
    (photos / "201.jpg").unlink()
    (photos / "200001.jpg").write_bytes(PHOTO + b"brighter")
    (photos / "200002.jpg").unlink()
    counts, notes = imported(tmp_path, str(photos), person_from=pattern)
    assert (counts["changed"], counts["absent"], counts["present"]) == (1, 2, 2)
    assert any("--replace takes the new one): 200001.jpg" in note for note in notes)
    assert any("stay in the lake" in note and "s/200002.jpg" in note for note in notes)
    counts, _ = imported(tmp_path, str(photos), person_from=pattern, replace_changed=True)
    assert (counts["changed"], counts["replaced"], counts["imported"]) == (0, 1, 0)
    stored = {name: data for name, data in corpus(tmp_path).items() if name}
    assert stored["s/200001.jpg"] == PHOTO + b"brighter"
    assert stored["s/200002.jpg"] == PHOTO + b"200002.jpg"
    assert imported(tmp_path, str(photos), person_from=pattern, replace_changed=True)[0]["present"] == 3


def test_new_photos_do_not_lose_their_subjects_by_a_forgotten_option(tmp_path: Path) -> None:
    photos = tmp_path / "p"
    photos.mkdir()
    (photos / "200001_a.jpg").write_bytes(PHOTO + b"a")
    imported(tmp_path, str(photos), person_from=r"^(\d+)_")
    assert imported(tmp_path, str(photos))[0]["present"] == 1  # nothing is new
    (photos / "200001_b.jpg").write_bytes(PHOTO + b"b")
    with pytest.raises(ConfigError, match=r"would have none.*--person-from"):
        imported(tmp_path, str(photos))
    assert len(corpus(tmp_path)) == 1
    assert imported(tmp_path, str(photos), person_from="")[0]["imported"] == 1


def test_the_whole_disk_and_home_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "eve"
    (home / "photos").mkdir(parents=True)
    (tmp_path / "to-root").symlink_to("/")
    monkeypatch.setenv("HOME", str(home))
    for folder in ("/", str(home), str(home.parent), str(tmp_path / "to-root"), "~"):
        with pytest.raises(ConfigError, match="the root of the disk, your home folder or a folder above it"):
            ImportSource.of(folder, S3Section())
    assert ImportSource.of(str(home / "photos"), S3Section()).name == "photos"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user without a home
    monkeypatch.chdir(home)
    assert ImportSource.of(str(home), S3Section()).name == "eve"


def test_a_grant_for_another_purpose_is_said_not_to_be_enough(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"a")
    given = ("import", str(tmp_path / "photos"), "--lake", str(tmp_path / "lake"))
    said = run_cli(*given, "--basis", "b", "--purpose", "printing")
    assert said.returncode == 0
    assert "no grant of 'photos' names 'identity-grouping', the purpose of this config" in said.stderr
    again = run_cli(*given)
    assert "the grants of 'photos' are for other purposes" in again.stderr
    assert "is stated for 'identity-grouping'" in again.stderr
    both = run_cli(*given, "--basis", "b", "--purpose", "printing", "--purpose", "identity-grouping")
    assert "no grant of" not in both.stderr
    assert "import starts: 1 photo " in both.stderr


def test_another_pattern_takes_no_photo_from_somebody_who_has_withdrawn(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("ann_smith.jpg", "bob_jones.jpg"):
        (folder / name).write_bytes(PHOTO + name.encode())
    imported(tmp_path, str(folder), person_from="^([a-z]+)_")
    with writing(Config(lake=str(tmp_path / "lake")), "test") as context:
        record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann")])
    (folder / "ann_smith.jpg").write_bytes(PHOTO + b"edited")
    _, notes = imported(tmp_path, str(folder), person_from="_([a-z]+)", replace_changed=True)
    rows = [row for path in (tmp_path / "lake/corpus").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    named = {row["image_id"]: row["subject_ref"] for row in rows if row["image_id"]}
    assert named == {"s/ann_smith.jpg": "ann", "s/bob_jones.jpg": "jones"}
    assert any("keep the subject reference of their import, whose person has withdrawn" in note for note in notes)


def test_a_basis_lifts_no_withdrawal_of_the_source_that_begins_later(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(PHOTO)
    later = datetime(2999, 12, 24, tzinfo=UTC)
    with writing(Config(lake=str(tmp_path / "lake")), "test") as context:
        record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SOURCE, "s", valid_from=later)])
    counts, notes = imported(tmp_path, str(tmp_path / "photos"), grant=Grant("b"))
    assert counts["granted"] == 0
    assert any("'s' withdrew on" in note and "importing does not lift this" in note for note in notes)
