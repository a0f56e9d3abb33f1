"""Blocks between tasks: rows arrive whole, whatever their keys and the order of the blocks."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facelake.cluster.array_codec import decode
from facelake.cluster.edges import starts_of
from facelake.cluster.neighbours import FaceNeighbours, Ragged
from facelake.stages.clustering.blocks import by_key, gather, joined, neighbours_by_key, neighbours_in, united
from facelake.stages.clustering.messages import FaceVectors
from facelake.stages.clustering.stored import FoundNeighbours

KEYS = st.lists(st.integers(0, 5), max_size=30)


@given(KEYS, st.randoms(use_true_random=False))
def test_rows_are_gathered_by_face_in_any_order_of_blocks(keys: list[int], random: Random) -> None:
    faces = np.arange(len(keys), dtype=np.int32)
    rows = FaceVectors(faces, np.repeat(faces[:, None], 4, axis=1).astype(np.float16))
    blocks = list(by_key(np.array(keys, np.int64), rows))
    assert [key for key, _ in blocks] == sorted(set(keys))
    for key, body in blocks:
        assert decode(FaceVectors, body).faces.tolist() == [face for face, of in enumerate(keys) if of == key]
    random.shuffle(blocks)
    if blocks:
        back = gather(FaceVectors, [body for _, body in blocks])
        np.testing.assert_array_equal(back.faces, faces)
        np.testing.assert_array_equal(back.vectors, rows.vectors)


def test_values_are_joined_one_after_the_other() -> None:
    first, second = (FaceVectors(np.array([face], np.int32), np.full((1, 2), face, np.float16)) for face in (7, 3))
    both = joined([first, second])
    assert both.faces.tolist() == [7, 3]
    assert both.vectors.tolist() == [[7, 7], [3, 3]]


def neighbours(of_face: dict[int, list[tuple[int, float]]]) -> FaceNeighbours:
    """Faces with (neighbour, cosine), best first."""
    pairs = [pair for face in of_face.values() for pair in face]
    index, cosine = (np.array([pair[i] for pair in pairs]) for i in (0, 1))
    start = starts_of(np.array([len(face) for face in of_face.values()], np.int64))
    faces = np.array(list(of_face), np.int32)
    return FaceNeighbours(faces, Ragged(start, index.astype(np.int32), cosine.astype(np.float16)))


def test_neighbours_by_key_keep_their_faces_and_parts() -> None:
    whole = neighbours({1: [(5, 0.9), (6, 0.5)], 4: [], 9: [(1, 0.25)]})
    blocks = dict(neighbours_by_key(np.array([1, 0, 0]), whole, np.array([3, 2, 8], np.uint16)))
    first, second = (decode(FoundNeighbours, blocks[key]) for key in (0, 1))
    assert neighbours_in(first).faces.tolist() == [4, 9]
    assert neighbours_in(first).sources().tolist() == [9]
    assert (first.index.tolist(), first.part.tolist()) == ([1], [8])
    assert neighbours_in(second).sources().tolist() == [1, 1]
    assert (second.index.tolist(), second.part.tolist()) == ([5, 6], [3, 2])


def test_united_neighbours_are_the_best_of_all_cells_with_their_parts() -> None:
    cells = [neighbours({1: [(5, 0.5), (6, 0.25)]}), neighbours({1: [(7, 0.75)], 2: [(5, 0.5)]})]
    parts = [np.array([3, 2], np.uint16), np.array([8, 3], np.uint16)]
    blocks = [
        decode(FoundNeighbours, body)
        for cell, part in zip(cells, parts, strict=True)
        for _, body in neighbours_by_key(np.zeros(len(cell.faces), np.int64), cell, part)
    ]
    best, part = united(blocks, k=2)
    assert best.faces.tolist() == [1, 2]
    assert best.near.index.tolist() == [7, 5, 5]
    assert part.tolist() == [8, 3, 3]
