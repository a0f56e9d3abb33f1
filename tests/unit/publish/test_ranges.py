"""Ranges of identity ids."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.publish import new_identity_id
from facelake.publish.ranges import bits_for, range_of_file, ranges_of, stem_of

IDS = sorted(new_identity_id(1, i) for i in range(5_000))


@pytest.mark.parametrize("bits", [0, 1, 5, 9, 15])
def test_ranges_ascend_with_the_ids_and_are_even(bits: int) -> None:
    numbers = ranges_of(IDS, bits)
    assert (np.diff(numbers) >= 0).all()
    assert numbers.min() >= 0
    assert numbers.max() < 1 << bits
    if bits <= 5:
        counts = np.bincount(numbers, minlength=1 << bits)
        assert counts.max() < 2 * counts.mean()


def test_a_range_of_fewer_bits_holds_whole_ranges_of_more() -> None:
    np.testing.assert_array_equal(ranges_of(IDS, 9) >> 4, ranges_of(pa.array(IDS), 5))


def test_no_ids_have_no_ranges() -> None:
    assert ranges_of([], 5).tolist() == []


@given(st.integers(0, 15), st.integers(0, 32_767))
def test_names_of_files_tell_their_range(bits: int, number: int) -> None:
    assert range_of_file(f"{stem_of(bits, number)}-0123456789abcdef.parquet") == (bits, number)
    assert range_of_file("part-0123456789abcdef.parquet") is None


def test_bits_grow_with_the_gallery_and_do_not_flutter() -> None:
    assert bits_for(10, 128, 8, None) == 0
    assert bits_for(1_200_000, 512, 8, None) == 9
    assert bits_for(10**9, 512, 8, None) == 15
    sizes = [int(1_000_000 * 1.012**run) for run in range(60)]
    bits, changes = None, 0
    for size in sizes:
        new = bits_for(size, 512, 8, bits)
        changes += bits is not None and new != bits
        bits = new
    assert changes <= 1
