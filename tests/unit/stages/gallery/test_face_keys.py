"""Faces as keys: numbering, lookups, and ids whose keys collide."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.cluster import columns
from facelake.errors import Corrupt
from facelake.stages.gallery.face_keys import faces_of_ids

ids = st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=30, unique=True)


@given(ids, ids)
def test_find_agrees_with_a_dictionary(known: list[str], asked: list[str]) -> None:
    faces, order = faces_of_ids(lambda: [pa.array(known)], "test")
    number = {known[at]: i for i, at in enumerate(order)}
    assert faces.find(pa.array(asked, pa.string())).tolist() == [number.get(name, -1) for name in asked]


def test_another_salt_gives_other_keys() -> None:
    names = pa.array([f"face-{i}" for i in range(100)])
    assert not np.intersect1d(columns.keys(names), columns.keys(names, 1)).size
    assert (columns.keys(names, 1) == columns.keys(names, 1)).all()


def test_ids_that_collide_are_told_apart_by_another_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = columns.keys

    def weak(column: pa.Array, salt: int = 0) -> np.ndarray:
        return whole(column, salt) & 7 if salt == 0 else whole(column, salt)

    monkeypatch.setattr(columns, "keys", weak)
    names = [f"face-{i}" for i in range(50)]
    faces, order = faces_of_ids(lambda: [pa.array(names)], "test")
    assert faces.salt == 1
    assert faces.find(pa.array(names))[order].tolist() == list(range(50))


def test_an_id_twice_is_an_error() -> None:
    with pytest.raises(Corrupt, match="twice"):
        faces_of_ids(lambda: [pa.array(["a", "b"]), pa.array(["a"])], "test")
