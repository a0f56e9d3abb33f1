"""Which groups step rejoin compares."""

from __future__ import annotations

import numpy as np
import pytest

from facelake.stages.clustering.steps import rejoining


def test_of_too_many_groups_only_those_of_four_faces_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    size = np.array([1, 2, 3, 4, 5])
    monkeypatch.setattr(rejoining, "MOST_GROUPS", 4)
    assert rejoining.compared_groups(size).tolist() == [1, 2, 3, 4]
    monkeypatch.setattr(rejoining, "MOST_GROUPS", 3)
    assert rejoining.compared_groups(size).tolist() == [3, 4]
    monkeypatch.setattr(rejoining, "MOST_GROUPS", 1)
    assert rejoining.compared_groups(size).tolist() == []
