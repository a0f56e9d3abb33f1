"""Rows of manifests: places in all their spellings, and rows that cannot be read."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from facelake.errors import ConfigError
from facelake.lake.corpora.uris import identity_of, places_of
from tests.corpora import listed

WHO = {"source_id": {"constant": "s"}, "subject_ref": "person"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "ph").mkdir()
    (tmp_path / "lists").mkdir()
    for name in ("a b.jpg", unicodedata.normalize("NFD", "é.jpg"), "c.jpg", "100%.jpg"):
        (tmp_path / "ph" / name).write_bytes(unicodedata.normalize("NFC", name).encode())
    return tmp_path


def read(path: Path, uris: list[str], **section: Any) -> list[bytes]:
    path.write_text("\n".join(["uri", *uris]) + "\n")
    rows, _ = listed(path, **section)
    return [row["data"] for row in rows]


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("../ph/c.jpg", "c.jpg"),
        ("x/../../ph/c.jpg", "c.jpg"),
        ("./../ph/./c.jpg", "c.jpg"),
        ("../ph/a%20b.jpg", "a b.jpg"),
        ("../ph/a b.jpg", "a b.jpg"),
        ("../ph/100%.jpg", "100%.jpg"),
        ("file://{root}/ph/a%20b.jpg", "a b.jpg"),
        ("file://{root}/ph/a b.jpg", "a b.jpg"),
        ("file://{root}/ph/100%.jpg", "100%.jpg"),
        ("file://localhost{root}/ph/c.jpg", "c.jpg"),
        ("file:{root}/ph/c.jpg", "c.jpg"),
        ("FILE://{root}/ph/c.jpg", "c.jpg"),
        ("{root}/ph/é.jpg", "é.jpg"),
        ("../ph/é.jpg", "é.jpg"),
        ("../ph/%C3%A9.jpg", "é.jpg"),
        ("//{root}/ph/c.jpg", "c.jpg"),
    ],
)
def test_a_photo_is_found_by_every_usual_spelling(uri: str, name: str, photos: Path) -> None:
    assert read(photos / "lists/m.csv", [uri.format(root=photos)]) == [name.encode()]


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("c.jpg", "lists/c.jpg"),
        ("../c.jpg", "c.jpg"),
        ("../../c.jpg", "s3://b/c.jpg"),
        ("../../../c.jpg", "lists/../../../c.jpg"),
        ("s3a://b/p/c.jpg", "s3://b/p/c.jpg"),
        ("S3://b/p//c.jpg", "s3://b/p//c.jpg"),
        ("gs://b/c.jpg", "gs://b/c.jpg"),
    ],
)
def test_places_in_a_bucket(uri: str, place: str) -> None:
    assert places_of(uri, "lists", "s3://b/p") == [place]
    assert identity_of("c d.jpg", "s3://b/p") == identity_of("s3://b/p/c%20d.jpg", "s3://b/p")


def test_one_photo_by_several_spellings_with_different_persons_is_left_out(photos: Path) -> None:
    spelled = ["ph/c.jpg", "./ph/c.jpg", f"{photos}/ph/c.jpg", f"file://{photos}/ph/c.jpg", "lists/../ph/c.jpg"]
    for other in spelled[1:]:
        for person, count in (("p1", 2), ("p2", 0)):
            rows = [f"ph/c.jpg,p1,1\n{other},{person},2\n"]
            (photos / "m.csv").write_text("uri,person,image_id\n" + "".join(rows))
            found, left_out = listed(photos / "m.csv", columns=WHO)
            assert len(found) == count, other
            assert bool(left_out) == (not count)


def test_rows_that_name_no_file_do_not_end_the_run(photos: Path) -> None:
    os.symlink("l.jpg", photos / "l.jpg")
    uris = ["l.jpg", "x" * 300 + ".jpg", "a\\0.jpg", "ph", "ph/c.jpg/d.jpg", "~", "file://elsewhere/c.jpg", "ph/c.jpg"]
    (photos / "m.csv").write_text("\n".join(["uri", *uris]) + "\n")
    rows, left_out = listed(photos / "m.csv")
    assert ([row["data"] for row in rows], left_out[0][:9]) == ([b"c.jpg"], "7 missing")


@pytest.mark.parametrize("values", [[2**64, 5], [2**63, -1], [5, 2**63], [None, 2**70]])
def test_persons_in_json_lines_may_be_any_whole_numbers(values: list[Any], photos: Path) -> None:
    lines = [
        json.dumps({"uri": f"ph/{name}", "person": value})
        for name, value in zip(("c.jpg", "a b.jpg"), values, strict=True)
    ]
    (photos / "m.jsonl").write_text("\n".join(lines))
    rows, _ = listed(photos / "m.jsonl", columns=WHO)
    assert [row["subject_ref"] for row in rows] == [None if value is None else str(value) for value in values]


def test_file_names_that_cannot_be_read_do_not_end_a_run(tmp_path: Path) -> None:
    table = pa.table({"image_id": ["a"], "image": [b"a"]})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.parquet").rename(tmp_path / os.fsdecode(b"caf\xe9.parquet"))
    pq.write_table(table, tmp_path / "b.parquet")
    os.symlink("l.parquet", tmp_path / "l.parquet")
    rows, left_out = listed(tmp_path)
    assert ([row["data"] for row in rows], left_out) == ([b"a"], ["1 names that are not UTF-8: caf\\udce9.parquet"])


def test_a_column_that_occurs_twice_is_named(tmp_path: Path) -> None:
    arrays = [pa.array(["a"]), pa.array([b"a"]), pa.array([b"a"])]
    pq.write_table(pa.table(arrays, names=["image_id", "image", "image"]), tmp_path / "a.parquet")
    for uri in (tmp_path, tmp_path / "a.parquet"):
        for section in ({}, {"kind": "parquet"}, {"kind": "manifest"}):
            with pytest.raises(ConfigError, match="the column 'image' occurs twice"):
                listed(uri, **section)


def test_uris_of_a_table_are_relative_to_the_table(photos: Path) -> None:
    table = pa.table({"uri": ["ph/c.jpg", "ph/a b.jpg"], "who": ["p1", "p2"]})
    write_deltalake(str(photos), table, partition_by=["who"])
    columns = {"source_id": {"constant": "s"}, "subject_ref": {"column": "who", "regex": r"p(\d)"}}
    rows, left_out = listed(photos, columns=columns)
    assert ({row["subject_ref"]: row["data"] for row in rows}, left_out) == ({"1": b"c.jpg", "2": b"a b.jpg"}, [])


def test_a_regex_reads_a_partition_column_of_a_table_with_photos(tmp_path: Path) -> None:
    table = pa.table({"image_id": ["a", "b"], "image": [b"a", b"b"], "who": ["p1", "p2"]})
    write_deltalake(str(tmp_path / "t"), table, partition_by=["who"])
    columns = {"source_id": {"constant": "s"}, "subject_ref": {"column": "who", "regex": r"p(\d)"}}
    rows, _ = listed(tmp_path / "t", columns=columns)
    assert {row["image_id"]: row["subject_ref"] for row in rows} == {"a": "1", "b": "2"}


def test_a_uri_may_be_a_field_of_a_struct(photos: Path) -> None:
    pq.write_table(pa.table({"file": [{"uri": "ph/c.jpg"}]}), photos / "m.parquet")
    rows, _ = listed(photos / "m.parquet", columns={"source_id": {"constant": "s"}, "image": "file.uri"})
    assert [row["data"] for row in rows] == [b"c.jpg"]
