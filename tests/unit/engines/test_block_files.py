"""Blocks through files: what is written by key is read by key, once, whoever reads which part."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facelake.engines.block_files import read_blocks, remove_blocks, write_blocks

tasks = st.lists(st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=30)), max_size=12), max_size=5)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(written=tasks, parts=st.integers(1, 9))
def test_every_block_is_read_once_by_the_part_of_its_key(
    tmp_path: Path, written: list[list[tuple[int, bytes]]], parts: int
) -> None:
    folder = str(tmp_path)
    names = [write_blocks(folder, iter(blocks)) for blocks in written]
    write_blocks(folder, [(0, b"of an attempt that was lost")])
    wanted: dict[int, list[bytes]] = defaultdict(list)
    for blocks in written:
        for key, body in blocks:
            wanted[key].append(body)
    found: dict[int, list[bytes]] = {}
    for part in range(parts):
        mine = dict(read_blocks(folder, names, part, parts))
        assert list(mine) == sorted(mine)
        assert not found.keys() & mine.keys()
        found |= mine
    assert {key: sorted(blocks) for key, blocks in found.items()} == {k: sorted(b) for k, b in wanted.items()}
    remove_blocks(folder, names)
    assert len(os.listdir(folder)) == 2
    for name in os.listdir(folder):
        (tmp_path / name).unlink()


def test_a_file_that_was_cut_is_an_error(tmp_path: Path) -> None:
    name = write_blocks(str(tmp_path), [(1, b"whole"), (1, b"truncated")])
    with (tmp_path / name).open("r+b") as file:
        file.truncate(9)
    with pytest.raises(OSError, match="truncated"):
        list(read_blocks(str(tmp_path), [name], 0, 1))
