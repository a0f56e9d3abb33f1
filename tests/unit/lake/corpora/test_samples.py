"""Samples of tar files: whose a photo is, by texts with dots in their names; names and members that cannot be read."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from facelake.errors import ConfigError
from tests.corpora import listed

WHO = {"source_id": {"constant": "s"}, "subject_ref": "json.person"}


def write(path: Path, members: dict[str, bytes | dict[str, str]]) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def persons(path: Path) -> tuple[dict[str, str | None], list[str]]:
    rows, left_out = listed(path, columns=WHO)
    return {row["image_id"].partition("#")[0]: row["subject_ref"] for row in rows}, left_out


def test_texts_of_keys_with_dots_belong_to_the_photo_of_the_same_name(tmp_path: Path) -> None:
    members: dict[str, bytes | dict[str, str]] = {}
    for name in ("anna", "bo"):
        members[f"2024.06.01-{name}.jpg"] = name.encode()
        members[f"2024.06.01-{name}.json"] = {"person": name}
    write(tmp_path / "a.tar", members)
    assert persons(tmp_path) == ({"2024.06.01-anna.jpg": "anna", "2024.06.01-bo.jpg": "bo"}, [])


@pytest.mark.parametrize(
    ("members", "known"),
    [
        ({"1.jpg": b"a", "1.meta.json": {"person": "p"}}, {}),
        ({"1.jpg": b"a", "1.json": {"person": "p"}, "1.meta.json": {"camera": "c"}}, {"1.jpg": "p"}),
        ({"1.jpg": b"a", "1.seg.png": b"b", "1.json": {"person": "p"}}, {"1.jpg": "p", "1.seg.png": "p"}),
        ({"1.a.jpg": b"a", "1.a.json": {"person": "p"}, "1.json": {"person": "q"}}, {}),
        ({"1.jpg": b"a", "1.a.jpg": b"b", "1.a.json": {"person": "p"}}, {"1.a.jpg": "p"}),
        ({"1.a.jpg": b"a", "1.a.meta.json": {"person": "p"}}, {}),
        ({"1.a.b.jpg": b"a", "1.a.json": {"person": "p"}}, {}),
        ({"1.a.jpg": b"a", "1.b.jpg": b"b", "1.b.json": {"person": "p"}}, {"1.a.jpg": None, "1.b.jpg": "p"}),
        ({"1.a.jpg": b"a", "1.a.json": b"{broken"}, {}),
        ({"1.a.jpg": b"a", "1.a.txt": b"a caption"}, {"1.a.jpg": None}),
        ({"1.jpg": b"a", "1.JSON": {"person": "p"}}, {"1.jpg": "p"}),
    ],
)
def test_a_photo_whose_person_is_in_doubt_is_left_out(
    members: dict[str, bytes | dict[str, str]], known: dict[str, str | None], tmp_path: Path
) -> None:
    write(tmp_path / "a.tar", members)
    found, left_out = persons(tmp_path)
    assert found == known
    photos = sum(name.endswith((".jpg", ".png")) for name in members)
    assert bool(left_out) == (len(known) < photos)


def test_many_photos_with_one_first_part_take_no_longer(tmp_path: Path) -> None:
    members: dict[str, bytes | dict[str, str]] = {}
    for number in range(3000):
        members[f"2024.{number}.jpg"] = b"%d" % number
        members[f"2024.{number}.json"] = {"person": str(number)}
    write(tmp_path / "a.tar", members)
    found, left_out = persons(tmp_path)
    assert (len(found), found["2024.77.jpg"], left_out) == (3000, "77", [])


def test_a_name_that_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"a.jpg": b"a", os.fsdecode(b"caf\xe9.jpg"): b"b", os.fsdecode(b"caf\xe9.json"): {}})
    assert persons(tmp_path) == ({"a.jpg": None}, [r"1 names that are not UTF-8: a.tar/caf\udce9.jpg"])


def test_sparse_members_are_left_out(tmp_path: Path) -> None:
    """Their bytes are not in one piece, so that workers would read others than the index."""
    for name in ("a.jpg", "b.json"):
        with (tmp_path / name).open("wb") as file:
            file.write(b"start")
            file.seek(1 << 20)
            file.write(b"end")
    (tmp_path / "b.jpg").write_bytes(b"b")
    command = ["tar", "-C", str(tmp_path), "-S", "-cf", str(tmp_path / "a.tar"), "a.jpg", "b.jpg", "b.json"]
    subprocess.run(command, check=True)
    found, left_out = persons(tmp_path / "a.tar")
    assert found == {}
    assert left_out == [
        "1 sparse, whose bytes are not in one piece: a.tar/a.jpg",
        "1 with unreadable fields: a.tar/b.jpg",
    ]


def test_tar_files_that_were_put_together_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"1.jpg": b"a"})
    write(tmp_path / "b.tar", {"2.jpg": b"b"})
    whole = (tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").unlink()
    (tmp_path / "a.tar").write_bytes(whole)
    with pytest.raises(ConfigError, match="more data after the end of the archive"):
        listed(tmp_path)
