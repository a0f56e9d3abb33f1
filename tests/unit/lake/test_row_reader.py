"""Rows picked from data files equal the rows of the whole table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.contracts import ADMISSIONS, GROUPS, DataFileName
from facelake.errors import Corrupt
from facelake.lake import data_files
from facelake.lake.data_files import plain
from facelake.lake.lake import Lake
from facelake.lake.row_reader import pick_rows, pick_scattered, read_some
from facelake.stages.gallery.face_index import _lists_with, admissions_of_faces

_SIZES = (7, 1, 12)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_files, "_GROUP_ROWS", {"groups": 3, "admissions": 2})
        made = Lake.create(str(tmp_path_factory.mktemp("lake")))
        for number, size in enumerate(_SIZES):
            rows = [{"face_id": f"{number}-{i}", "group_id": i, "score": 0.5} for i in range(size)]
            made["groups"].commit([made["groups"].stage(pa.Table.from_pylist(rows, schema=plain(GROUPS)))])
    return made


places = st.integers(0, 2).flatmap(lambda file: st.tuples(st.just(file), st.integers(0, _SIZES[file] - 1)))


@given(st.lists(places, max_size=30))
def test_any_rows_in_any_order(lake: Lake, wanted: list[tuple[int, int]]) -> None:
    files = sorted(lake["groups"].snapshot().files, key=lambda item: _SIZES.index(item.rows))
    paths = [item.path for item in files]
    file, row = (np.array([pair[i] for pair in wanted], np.int64) for i in (0, 1))
    found = pick_scattered(lake.store, "groups", paths, file, row, ["face_id"])
    assert found["face_id"].to_pylist() == [f"{number}-{i}" for number, i in wanted]


def test_a_missing_row_is_reported_as_corrupt(lake: Lake) -> None:
    file = lake["groups"].snapshot().files[0]
    with pytest.raises(Corrupt, match=f"there is no row {file.rows}"):
        pick_rows(lake.store, "groups", file.path, np.array([file.rows]), ["face_id"])
    with pytest.raises(Corrupt, match="missing"):
        pick_rows(lake.store, "groups", "gone.parquet", np.array([0]), ["face_id"])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 1.0])
def test_some_rows_are_those_of_the_whole_file(tmp_path: Path, share: float) -> None:
    lake = Lake.create(str(tmp_path))
    rows = np.arange(25_000)  # thirteen row groups, of which up to four are read at once
    table = pa.Table.from_pylist(
        [{"image_id": f"p{row}", "admitted": True} for row in rows.tolist()], schema=plain(ADMISSIONS)
    )
    receipt = lake["admissions"].stage(table)
    take = np.random.default_rng(5).random(len(rows)) < share
    some = read_some(lake.store, "admissions", receipt.path, take, ["image_id"])
    assert some["image_id"].to_pylist() == [f"p{row}" for row in rows[take].tolist()]
    with pytest.raises(Corrupt, match="damaged"):
        read_some(lake.store, "admissions", receipt.path, take[1:], ["image_id"])


def test_an_admission_applies_to_its_own_photo_only(tmp_path: Path) -> None:
    lake = Lake.create(str(tmp_path))
    rows = [
        {"image_id": f"image-{i}", "corpus_file": "a.parquet", "corpus_row": i, "admitted": True, "source_id": f"s{i}"}
        for i in range(5)
    ]
    name = DataFileName.of_corpus_file("a.parquet", "digest")
    lake["admissions"].commit([lake["admissions"].stage(pa.Table.from_pylist(rows, schema=plain(ADMISSIONS)), name)])
    asked = [("image-3", "a.parquet", 3), ("image-3", "a.parquet", 2), ("image-1", "a.parquet", 1),
             ("image-1", "b.parquet", 1), ("image-9", "a.parquet", 9), ("image-0", "a.parquet", -1)]  # fmt: skip
    faces = pa.table(dict(zip(("image_id", "corpus_file", "corpus_row"), zip(*asked, strict=True), strict=True)))
    found = admissions_of_faces(lake, lake["admissions"].snapshot(), faces)
    assert found["source_id"].to_pylist() == ["s3", None, "s1", None, None, None]
    assert admissions_of_faces(lake, lake["rejects"].snapshot(), faces)["admitted"].to_pylist() == [None] * 6


def test_purposes() -> None:
    lists = pa.chunked_array([pa.array([["a"], None, [], ["b", "a"], ["ab"]], pa.list_(pa.string()))])
    assert _lists_with(lists, "a").tolist() == [True, False, False, True, False]
