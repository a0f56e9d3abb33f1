"""Counts and lists in sentences."""

from __future__ import annotations

import pytest

from facelake.plural import counted, first_of


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a, b"),
        (["a", "b", "c"], "a, b and 1 more"),
        (list("abcde"), "a, b and 3 more"),
    ],
)
def test_a_long_list_is_cut_short(names: list[str], text: str) -> None:
    assert first_of(names, 2) == text


def test_a_count_has_its_noun() -> None:
    assert [counted(1, "photo"), counted(1_200, "photo"), counted(0, "identity", "identities")] == [
        "1 photo",
        "1,200 photos",
        "0 identities",
    ]
