"""Step rejoin: groups of one person are joined by templates normalised within persons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.calibrate import Calibration
from facelake.cluster.within_person import LEAST_FACES, LEAST_GROUPS, MOST_GROUPS, Groups, join_normalised
from facelake.contracts import F64, I32, I64
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.messages import PartMoment
from facelake.stages.clustering.step_results import Rejoined
from facelake.stages.clustering.steps.sums import ROWS_AT_ONCE, SharedGroups, all_sums, share_labels
from facelake.stages.clustering.stored import SharedLabels
from facelake.stages.clustering.work import Work


@dataclass(frozen=True, slots=True)
class MomentTasks:
    """Adds up the outer products of the vectors of groups."""

    work: Work
    labels: str

    def moment(self, part: int) -> Iterator[Block]:
        """Send a part's share of the second moment."""
        faces, vectors = self.work.faces_of_part(part)
        shared = self.work.shared(SharedLabels, self.labels)
        grouped = vectors[shared.row[shared.labels[faces]] >= 0]
        moment = np.zeros((self.work.dim, self.work.dim), np.float64)
        for start in range(0, len(grouped), ROWS_AT_ONCE):
            batch = grouped[start : start + ROWS_AT_ONCE].astype(np.float32)
            moment += batch.T @ batch
        yield part, encode(PartMoment(moment))


def rejoin_groups(work: Work, exchange: Exchange, parts: int, labels: I32, part: I32, cuts: Calibration) -> Rejoined:
    """Join groups of one person that differ as photos of one person do; none where there are few or very many groups.

    Args:
        work: the work store.
        exchange: the engine.
        parts: number of parts.
        labels: (F,) labels after groups were divided.
        part: (F,) part where each face is at home.
        cuts: the calibration.
    """
    several = compared_groups(np.bincount(labels))
    if len(several) < LEAST_GROUPS:
        return Rejoined(labels, "")
    groups = share_labels(work, "rejoin-sums", labels, part, several)
    number, text = join_normalised(_summed(work, exchange, parts, groups), cuts)
    return Rejoined(groups.joined(labels, number), text)


def compared_groups(size: I64) -> I32:
    """Return the groups (n,) that are compared: of two faces and more, or where these are too many, of four and more.

    None where these are too many as well.

    Args:
        size: (groups,) faces of each.
    """
    for least in (2, LEAST_FACES):
        groups = np.flatnonzero(size >= least).astype(np.int32)
        if len(groups) <= MOST_GROUPS:
            return groups
    return groups[:0]


def _summed(work: Work, exchange: Exchange, parts: int, groups: SharedGroups) -> Groups:
    sums = all_sums(work, exchange, parts, groups)
    blocks = sorted(exchange.run(range(parts), MomentTasks(work, groups.name).moment))
    moment: F64 = np.sum([decode(PartMoment, body).moment for _, body in blocks], axis=0)
    return Groups(sums, groups.size[groups.summed], moment)
