"""`include` and `exclude` mean the same in every layout, and what they leave out is counted."""

from __future__ import annotations

import io
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.errors import ConfigError
from facelake.lake.corpora.selection import Selection
from tests.corpora import listed

NAMES = ("open/a.jpg", "private/a.jpg", "private/sub/a.jpg", "top.jpg")
PATTERNS = {
    "private": 2,
    "private/": 2,
    "/private": 2,
    "./private": 2,
    "private/**": 2,
    "**/private/**": 2,
    "**/private": 2,
    "private/*": 2,
    "sub": 1,
    "sub/": 1,
    "private/sub": 1,
    "private/sub/": 1,
    "/private/sub/": 1,
    "**/sub": 1,
    "private/**/a.jpg": 2,
    "**/a.jpg": 3,
    "a.jpg": 3,
    "/a.jpg": 0,
    "/top.jpg": 1,
    "/sub": 0,
    "priv": 0,
    "**": 4,
}


def images(folder: Path, suffix: str) -> None:
    for name in NAMES:
        path = folder / name.replace(".jpg", suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".jpg":
            path.write_bytes(name.encode())
        elif suffix == ".tar":
            with tarfile.open(path, "w") as tar:
                member = tarfile.TarInfo("x.jpg")
                member.size = len(name)
                tar.addfile(member, io.BytesIO(name.encode()))
        else:
            photo = {"bytes": name.encode(), "path": name}
            pq.write_table(pa.table({"image": [photo if suffix == ".parquet" else name]}), path)


def files(folder: Path) -> str:
    images(folder, ".jpg")
    return ""


def shards(folder: Path) -> str:
    images(folder, ".tar")
    return ""


def tables(folder: Path) -> str:
    images(folder, ".parquet")
    return ""


def one_tar(folder: Path) -> str:
    images(folder / "x", ".jpg")
    with tarfile.open(folder / "all.tar", "w") as tar:
        for name in NAMES:
            tar.add(folder / "x" / name, name)
    return "all.tar"


def manifest(folder: Path) -> str:
    images(folder, ".jpg")
    (folder / "m.csv").write_text("\n".join(["uri", *NAMES]) + "\n")
    return "m.csv"


SUFFIXES: dict[Callable[[Path], str], str] = {files: ".jpg", shards: ".tar", tables: ".parquet"}


@pytest.mark.parametrize("layout", [files, shards, tables, one_tar, manifest])
def test_a_pattern_leaves_out_the_same_in_every_layout(layout: Callable[[Path], str], tmp_path: Path) -> None:
    name = layout(tmp_path)
    suffix = SUFFIXES.get(layout, ".jpg")
    for pattern, count in PATTERNS.items():
        exclude = [pattern.replace(".jpg", suffix)]
        try:
            rows, left_out = listed(tmp_path / name, exclude=exclude)
        except ConfigError as err:
            assert "leave out every" in str(err) or "no photos in a known layout" in str(err)  # noqa: PT017
            rows, left_out = [], ["all"]
        assert len(rows) == len(NAMES) - count, pattern
        assert bool(left_out) == bool(count), pattern
        if count:
            rows, left_out = listed(tmp_path / name, include=exclude)
            assert len(rows) == count, pattern
            assert bool(left_out) == (count < len(NAMES)), pattern


def test_patterns_and_names_are_compared_in_one_unicode_form() -> None:
    for form in ("NFC", "NFD"):
        selection = Selection((), (unicodedata.normalize(form, "privé/*"),))
        for stored in ("NFC", "NFD"):
            assert selection.excluded(unicodedata.normalize(stored, "privé/a.jpg"))


def test_a_slash_at_the_end_binds_a_pattern_to_folders() -> None:
    selection = Selection((), ("a/",))
    assert selection.excluded("b/a") is None
    assert selection.excluded("b/a/c") == ("excluded", "b/a")


def test_a_manifest_may_name_photos_in_hidden_folders(tmp_path: Path) -> None:
    images(tmp_path / ".cache", ".jpg")
    (tmp_path / "m.csv").write_text("uri\n.cache/open/a.jpg\n")
    assert len(listed(tmp_path / "m.csv")[0]) == 1
    assert listed(tmp_path / "m.csv", exclude=[".cache"]) == ([], ["1 hidden: .cache/open/a.jpg"])


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    images(tmp_path, ".tar")
    images(tmp_path, ".jpg")
    with pytest.raises(ConfigError, match="holds tar files and photos"):
        listed(tmp_path)
    rows, left_out = listed(tmp_path, kind="webdataset")
    assert (len(rows), left_out[0][:18]) == (4, "4 of another kind:")
    rows, left_out = listed(tmp_path, kind="files")
    assert (len(rows), left_out[0][:13]) == (4, "4 not photos:")
    pq.write_table(pa.table({"image": [b"\0\1"], "name": ["x"]}), tmp_path / "features.parquet")
    with pytest.raises(ConfigError, match="holds Parquet files with photos and tar files and photos"):
        listed(tmp_path)


def test_the_parquet_files_that_img2dataset_writes_beside_its_tar_files_are_not_counted(tmp_path: Path) -> None:
    images(tmp_path, ".tar")
    for name in ("top", "open/a", "other"):
        pq.write_table(pa.table({"key": ["0"]}), tmp_path / f"{name}.parquet")
    rows, left_out = listed(tmp_path)
    assert (len(rows), left_out) == (4, ["1 of another kind: other.parquet"])


def test_the_case_of_a_suffix_does_not_matter(tmp_path: Path) -> None:
    images(tmp_path / "t", ".tar")
    images(tmp_path / "p", ".parquet")
    images(tmp_path / "m", ".jpg")
    (tmp_path / "t/top.tar").rename(tmp_path / "t/TOP.TAR")
    (tmp_path / "p/top.parquet").rename(tmp_path / "p/TOP.PARQUET")
    (tmp_path / "m/M.CSV").write_text("uri\ntop.jpg\n")
    assert [len(listed(tmp_path / name)[0]) for name in ("t", "p", "m/M.CSV")] == [4, 4, 1]


def test_links_of_the_cache_of_hugging_face_are_followed(tmp_path: Path) -> None:
    images(tmp_path / "blobs", ".parquet")
    folder = tmp_path / "snapshots/abc/data"
    folder.mkdir(parents=True)
    (tmp_path / "blobs/top.parquet").rename(tmp_path / "blobs/e3b0")
    (folder / "train-0.parquet").symlink_to("../../../blobs/e3b0")
    for section in ({}, {"kind": "huggingface"}, {"follow_links": True}):
        assert len(listed(tmp_path / "snapshots/abc", **section)[0]) == 1
