"""After the steps: cosine of each face to the centroid of its group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.contracts import F32, I32
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.messages import FaceScores
from facelake.stages.clustering.steps.sums import ROWS_AT_ONCE, share_labels, sum_groups, sums_of
from facelake.stages.clustering.stored import SharedLabels
from facelake.stages.clustering.work import Work
from facelake.vectors import unit_rows


@dataclass(frozen=True, slots=True)
class ScoreTasks:
    """Compares the faces of a part with the centroids of their groups."""

    work: Work
    labels: str

    def scores(self, part: int) -> Iterator[Block]:
        """Send the cosine of each of a part's faces; 1 for a singleton."""
        faces, vectors = self.work.faces_of_part(part)
        shared = self.work.shared(SharedLabels, self.labels)
        labels = shared.labels[faces]
        near, place = np.unique(labels, return_inverse=True)
        centroids = unit_rows(sums_of(self.work, shared.row[near]), least=1e-9)
        score = np.ones(len(faces), np.float32)
        for first in range(0, len(faces), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            score[rows] = np.einsum("ij,ij->i", vectors[rows].astype(np.float32), centroids[place[rows]])
        score[shared.size[labels] == 1] = 1
        yield part, encode(FaceScores(faces, np.clip(score, -1, 1)))


def scores_of(work: Work, exchange: Exchange, parts: int, labels: I32, part: I32) -> F32:
    """Return the cosine (F,) of each face to the centroid of its group."""
    groups = share_labels(work, "final", labels, part, np.flatnonzero(np.bincount(labels) >= 2).astype(np.int32))
    sum_groups(work, exchange, parts, groups)
    out = np.ones(len(labels), np.float32)
    for _, body in exchange.run(range(parts), ScoreTasks(work, groups.name).scores):
        scored = decode(FaceScores, body)
        out[scored.faces] = scored.score
    return out
