"""How well groups match the truth.

Pairwise precision and recall over pairs of faces; BCubed (Bagga and Baldwin, 1998; Amigó et al., 2009) averages
precision and recall over faces, so that large identities do not drown small ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def _f(precision: float, recall: float) -> float:
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _triple(precision: float, recall: float) -> dict[str, float]:
    return {"precision": precision, "recall": recall, "f": _f(precision, recall)}


def cluster_scores(truth: Sequence[Hashable], groups: Sequence[Hashable]) -> dict[str, dict[str, float]]:
    """Pairwise and BCubed scores of a grouping; with no pair to find or found, the score is 1."""
    both = Counter(zip(truth, groups, strict=True))
    of_truth, of_group = Counter(truth), Counter(groups)

    def pairs(counts: Counter[Hashable]) -> int:
        return sum(n * (n - 1) // 2 for n in counts.values())

    hit, predicted, wanted = pairs(Counter(both)), pairs(of_group), pairs(of_truth)
    faces = max(len(truth), 1)
    precision = sum(n * n / of_group[g] for (_, g), n in both.items()) / faces
    recall = sum(n * n / of_truth[t] for (t, _), n in both.items()) / faces
    pairwise = _triple(hit / predicted if predicted else 1.0, hit / wanted if wanted else 1.0)
    return {"pairwise": pairwise, "bcubed": _triple(precision, recall)}
