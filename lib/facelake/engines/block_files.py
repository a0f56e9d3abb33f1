"""Blocks by key through files of a folder that all tasks can read: a shuffle without anybody in between.

A task writes all its blocks, for whatever keys, one behind another into one file, and beside it where each lies. A task
that reduces a share of the keys reads its blocks out of all files. On one host this costs a copy into the page cache,
where a JVM would take every block over a socket, sort it, write it, read it and hand it over a socket again.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from facelake.cluster.array_codec import pack, unpack
from facelake.engines.exchange import Block

_BUFFER_BYTES = 4 << 20


def write_blocks(folder: str, blocks: Iterable[Block]) -> str:
    """Write the blocks of one task; returns the name under which they are read. Each attempt has a name of its own."""
    name = uuid.uuid4().hex
    keys, sizes = [], []
    with (Path(folder) / name).open("wb", buffering=_BUFFER_BYTES) as file:
        for key, body in blocks:
            file.write(body)
            keys.append(key)
            sizes.append(len(body))
    index = pack(key=np.array(keys, np.int64), size=np.array(sizes, np.int64))
    (Path(folder) / f"{name}.index").write_bytes(index)
    return name


def read_blocks(folder: str, names: Sequence[str], part: int, parts: int) -> Iterator[tuple[int, list[bytes]]]:
    """Every key of one of so many parts, ascending, with its blocks out of all named files, in no order.

    Held in memory are the blocks of one key.
    """
    found = [_where(folder, name, part, parts) for name in names]
    file = np.repeat(np.arange(len(names)), [len(one) for one in found])
    rows = np.concatenate(found) if found else np.zeros((0, 3), np.int64)
    if not len(rows):
        return
    order = np.argsort(rows[:, 0], kind="stable")
    keys, first = np.unique(rows[order, 0], return_index=True)
    handles = [os.open(Path(folder) / name, os.O_RDONLY) for name in names]
    try:
        for key, mine in zip(keys.tolist(), np.split(order, first[1:]), strict=True):
            yield key, [_pread(handles[file[i]], int(rows[i, 2]), int(rows[i, 1])) for i in mine]
    finally:
        for handle in handles:
            os.close(handle)


def remove_blocks(folder: str, names: Sequence[str]) -> None:
    """Delete files that were read to the end."""
    for name in names:
        (Path(folder) / name).unlink(missing_ok=True)
        (Path(folder) / f"{name}.index").unlink(missing_ok=True)


def _where(folder: str, name: str, part: int, parts: int) -> np.ndarray:
    """Key, offset and size (n, 3) of a file's blocks for one part."""
    held = unpack((Path(folder) / f"{name}.index").read_bytes())
    rows = np.stack([held["key"], np.cumsum(held["size"]) - held["size"], held["size"]], 1)
    mine: np.ndarray = rows[rows[:, 0] % parts == part]
    return mine


def _pread(handle: int, size: int, offset: int) -> bytes:
    body = os.pread(handle, size, offset)
    while len(body) < size:  # a read of more than 2 GB comes in pieces
        more = os.pread(handle, size - len(body), offset + len(body))
        if not more:
            raise OSError(f"a block of {size} bytes at {offset} is cut short")
        body += more
    return body
