"""Blocks that clustering tasks hand each other: rows by key, faces with their neighbours, pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from facelake.cluster.array_codec import pack, unpack
from facelake.cluster.edges import starts_of
from facelake.cluster.neighbours import Found, Ragged, union
from facelake.contracts import F16, I32
from facelake.engines.exchange import Block

NO_PAIRS = np.zeros(0, np.int32), np.zeros(0, np.float16)
NO_PARTS = np.zeros(0, np.uint16)
NO_MIRROR = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float16)


def by_key(key: np.ndarray, **columns: np.ndarray) -> Iterator[Block]:
    """Rows of columns of one length, packed by key."""
    if not len(key):
        return
    order = np.argsort(key, kind="stable")
    keys, starts = np.unique(key[order], return_index=True)
    for one, rows_ in zip(keys, np.split(order, starts[1:]), strict=True):
        yield int(one), pack(**{name: column[rows_] for name, column in columns.items()})


def gather(blocks: list[bytes]) -> dict[str, np.ndarray]:
    """The rows of all blocks, ordered by face, so that it does not matter how they came."""
    held = [unpack(block) for block in blocks]
    faces = np.concatenate([item["faces"] for item in held])
    order = np.argsort(faces, kind="stable")
    names = [name for name in held[0] if name != "faces"]
    return {"faces": faces[order]} | {name: np.concatenate([item[name] for item in held])[order] for name in names}


def pack_found(faces: I32, near: Ragged, near_part: np.ndarray) -> bytes:
    """Faces with their neighbours, and the part where each neighbour is at home, as one block."""
    counts = np.diff(near.start).astype(np.uint16)
    parts = near_part.astype(np.uint16)
    return pack(faces=faces, counts=counts, index=near.index, cosine=near.cosine, part=parts)


def found_by(key: np.ndarray, faces: I32, near: Ragged, near_part: np.ndarray) -> Iterator[Block]:
    """Faces with their neighbours, packed by key."""
    counts = np.diff(near.start)
    order, pairs = np.argsort(key, kind="stable"), np.argsort(np.repeat(key, counts), kind="stable")
    keys, first = np.unique(key[order], return_index=True)
    ends = np.append(first, len(order))
    at = starts_of(counts[order])
    for one, begin, end in zip(keys, ends[:-1], ends[1:], strict=True):
        mine, theirs = order[begin:end], pairs[at[begin] : at[end]]
        ragged = Ragged(starts_of(counts[mine]), near.index[theirs], near.cosine[theirs])
        yield int(one), pack_found(faces[mine], ragged, near_part[theirs])


def unpack_found(held: dict[str, np.ndarray]) -> tuple[Found, np.ndarray]:
    """What pack_found packed: faces with their neighbours, and the part (pairs,) of each neighbour."""
    near = Ragged(starts_of(held["counts"]), held["index"], held["cosine"])
    return Found(held["faces"], near), held["part"]


def united(blocks: list[bytes], k: int) -> tuple[Found, np.ndarray]:
    """What several cells found for the faces of a part, with the part of each neighbour."""
    held = [unpack_found(unpack(block)) for block in blocks]
    faces = np.unique(np.concatenate([found.faces for found, _ in held])).astype(np.int32)
    best = union([(found.faces, found.near) for found, _ in held], faces, k)
    near = best.ragged()
    known, place = np.unique(np.concatenate([found.near.index for found, _ in held]), return_index=True)
    parts = np.concatenate([part for _, part in held])[place]
    return Found(faces, near), parts[np.searchsorted(known, near.index)] if len(known) else NO_PARTS


def pairs_of(here: I32, other: I32, cosine: F16) -> dict[str, np.ndarray]:
    """Pairs as columns: the face at home in the part that gets them, the one that found it, their cosine."""
    return {"here": here, "other": other, "cosine": cosine}
