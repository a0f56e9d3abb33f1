"""Scores against definitions written out."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.bench.scores import cluster_scores

labels = st.integers(1, 15).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2))


@given(labels)
def test_scores_are_their_definitions(case: tuple[list[int], list[int]]) -> None:
    truth, groups = case
    found = cluster_scores(truth, groups)
    pairs = list(combinations(range(len(truth)), 2))
    same = [p for p in pairs if groups[p[0]] == groups[p[1]]]
    wanted = [p for p in pairs if truth[p[0]] == truth[p[1]]]
    hit = len(set(same) & set(wanted))
    assert found["pairwise"]["precision"] == pytest.approx(hit / len(same) if same else 1)
    assert found["pairwise"]["recall"] == pytest.approx(hit / len(wanted) if wanted else 1)
    n = len(truth)
    both = [[j for j in range(n) if truth[i] == truth[j] and groups[i] == groups[j]] for i in range(n)]
    assert found["bcubed"]["precision"] == pytest.approx(
        sum(len(both[i]) / groups.count(groups[i]) for i in range(n)) / n
    )
    assert found["bcubed"]["recall"] == pytest.approx(sum(len(both[i]) / truth.count(truth[i]) for i in range(n)) / n)
