"""A marked region removes the detection that overlaps it by half, and no other."""

from __future__ import annotations

import numpy as np
import pytest

from facelake.contracts import Face, Outcome, Reject
from facelake.embed.geometry import overlap
from facelake.embed.not_faces import without_marked


def face(*box: float) -> Face:
    """A face with a box and nothing else that matters here."""
    return Face(np.array(box, np.float32), np.zeros((5, 2), np.float32), 0.9, 0.8, np.zeros(4, np.float16))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 10, 10), 1.0),
        ((0, 0, 10, 5), 0.5),
        ((5, 0, 15, 10), 1 / 3),
        ((20, 20, 30, 30), 0.0),
        ((3, 3, 3, 3), 0.0),
    ],
)
def test_overlap(box: tuple[float, ...], expected: float) -> None:
    assert overlap(np.array([0, 0, 10, 10], np.float32), np.array([box], np.float32))[0] == pytest.approx(expected)


def test_only_marked_faces_are_removed() -> None:
    outcome = Outcome(0, "a", "digest", 100, 100, (face(0, 0, 10, 10), face(50, 50, 80, 80)), None)
    moved = np.array([[1, 0, 11, 10]], np.float32)
    assert [f.box[0] for f in without_marked(outcome, {"digest": moved}).faces] == [50]
    assert without_marked(outcome, {"other": moved}) is outcome
    everything = without_marked(outcome, {"digest": np.array([[0, 0, 10, 10], [50, 50, 80, 80]], np.float32)})
    assert (everything.faces, everything.reject) == ((), Reject.NOT_A_FACE)
