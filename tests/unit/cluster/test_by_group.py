"""Items by group, against a plain reference."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facelake.cluster.by_group import ByGroup


@given(st.lists(st.integers(0, 6)), st.lists(st.integers(0, 6), unique=True))
def test_members_are_the_items_of_the_groups_in_order(group: list[int], wanted: list[int]) -> None:
    items, place = ByGroup.of(np.array(group, np.int64), 7).members(np.array(wanted, np.int64))
    expected = [(item, at) for at, number in enumerate(wanted) for item, own in enumerate(group) if own == number]
    assert list(zip(items.tolist(), place.tolist(), strict=True)) == expected
