"""A shuffle through files of a folder that all tasks can read.

A task appends all its blocks, for any keys, to one file, and writes an index of them beside it. A task that reduces a
share of the keys reads its blocks from all files. On one host this costs a copy into the page cache; a JVM would take
every block over a socket, sort it, write it, read it and send it over a socket again.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.contracts import I64
from facelake.engines.exchange import Block

_BUFFER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class BlockIndex:
    """Keys (n,) and sizes (n,) in bytes of the blocks of a file, in their order there."""

    key: I64
    size: I64


def write_blocks(folder: str, blocks: Iterable[Block]) -> str:
    """Write the blocks of one task; returns the file's name, which is new for every attempt."""
    name = uuid.uuid4().hex
    keys, sizes = [], []
    with (Path(folder) / name).open("wb", buffering=_BUFFER_BYTES) as file:
        for key, body in blocks:
            file.write(body)
            keys.append(key)
            sizes.append(len(body))
    index = BlockIndex(np.array(keys, np.int64), np.array(sizes, np.int64))
    (Path(folder) / f"{name}.index").write_bytes(encode(index))
    return name


def read_blocks(folder: str, names: Sequence[str], part: int, parts: int) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the keys of one part, ascending, each with its blocks from all named files in no particular order.

    Only the blocks of one key are in memory at a time.
    """
    indexes = [_index(folder, name, part, parts) for name in names]
    file = np.repeat(np.arange(len(names)), [len(index) for index in indexes])
    rows = np.concatenate(indexes) if indexes else np.zeros((0, 3), np.int64)
    if not len(rows):
        return
    order = np.argsort(rows[:, 0], kind="stable")
    keys, first = np.unique(rows[order, 0], return_index=True)
    handles = [os.open(Path(folder) / name, os.O_RDONLY) for name in names]
    try:
        for key, own in zip(keys.tolist(), np.split(order, first[1:]), strict=True):
            yield key, [_pread(handles[file[i]], int(rows[i, 2]), int(rows[i, 1])) for i in own]
    finally:
        for handle in handles:
            os.close(handle)


def remove_blocks(folder: str, names: Sequence[str]) -> None:
    """Delete block files and their indexes."""
    for name in names:
        (Path(folder) / name).unlink(missing_ok=True)
        (Path(folder) / f"{name}.index").unlink(missing_ok=True)


def _index(folder: str, name: str, part: int, parts: int) -> np.ndarray:
    """Return key, offset and size (n, 3) of a file's blocks for one part."""
    index = decode(BlockIndex, (Path(folder) / f"{name}.index").read_bytes())
    rows = np.stack([index.key, np.cumsum(index.size) - index.size, index.size], 1)
    own: np.ndarray = rows[rows[:, 0] % parts == part]
    return own


def _pread(handle: int, size: int, offset: int) -> bytes:
    body = os.pread(handle, size, offset)
    while len(body) < size:  # one call reads at most 2 GB
        more = os.pread(handle, size - len(body), offset + len(body))
        if not more:
            raise OSError(f"a block of {size} bytes at {offset} is truncated")
        body += more
    return body
