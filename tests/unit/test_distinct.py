"""Sets of integers as sorted arrays, against Python's sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facelake.distinct import among, distinct, union, without

_ints = st.lists(st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1), max_size=40)


def _array(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


@given(_ints, _ints)
def test_they_are_what_sets_say(left: list[int], right: list[int]) -> None:
    a, b = _array(left), _array(right)
    assert distinct(a).tolist() == sorted(set(left))
    assert union(a, b).tolist() == sorted({*left, *right})
    assert without(a, b).tolist() == sorted(set(left) - set(right))
    assert among(a, distinct(b)).tolist() == [value in right for value in left]


def test_types_and_inputs_stay_as_they_are() -> None:
    values = np.array([3, 1, 3], np.int32)
    assert distinct(values).dtype == np.int32
    assert values.tolist() == [3, 1, 3]
    assert distinct(np.zeros((0,), np.uint64)).dtype == np.uint64
