"""Step bound: groups whose faces are not similar enough on the mean, and crowds of look-alikes, are divided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.bounding import BOUND, LEAST_FACES, divided_group, mean_similarity
from facelake.cluster.calibrate import Calibration
from facelake.cluster.crowds import NearGroups, crowds, surroundings
from facelake.cluster.labels import canonical
from facelake.contracts import F32, I32
from facelake.distinct import distinct
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.blocks import by_key, gather, neighbours_in
from facelake.stages.clustering.messages import FacesToDivide, PartSurroundings, Relabelled
from facelake.stages.clustering.step_results import Bounded
from facelake.stages.clustering.steps.sums import share_labels, sum_groups, sums_in_order, sums_of
from facelake.stages.clustering.stored import FinalNeighbours, SharedLabels
from facelake.stages.clustering.work import Work


@dataclass(frozen=True, slots=True)
class DividingTasks:
    """Divides groups, which are shared out among `tasks` tasks by their row."""

    work: Work
    labels: str
    least: F32
    """(groups,) least mean cosine inside the parts of each group, by its row"""
    tasks: int

    def loose(self, part: int) -> Iterator[Block]:
        """Send the faces of groups to divide to the tasks that divide them."""
        faces, vectors = self.work.faces_of_part(part)
        shared = self.work.shared(SharedLabels, self.labels)
        row = shared.row[shared.labels[faces]]
        here = row >= 0
        yield from by_key(row[here] % self.tasks, FacesToDivide(faces[here], vectors[here], row[here]))

    def divide(self, task: int, blocks: list[bytes]) -> Iterator[Block]:
        """Send the parts of a task's groups, numbered from 0 over all of them."""
        sent = gather(FacesToDivide, blocks)
        labels, count = np.empty(len(sent.faces), np.int32), 0
        for group in distinct(sent.row):
            here = sent.row == group
            labels[here] = divided_group(sent.vectors[here].astype(np.float32), float(self.least[group])) + count
            count = int(labels[here].max()) + 1
        yield task, encode(Relabelled(sent.faces, labels))


@dataclass(frozen=True, slots=True)
class SurroundingsTasks:
    """Counts the groups around groups."""

    work: Work
    labels: str
    deviation: float
    """of different people's similarities"""

    def count(self, part: int) -> Iterator[Block]:
        """Send how much of the surroundings of each group the faces of a part are."""
        of_part = neighbours_in(self.work.read(FinalNeighbours, part))
        _, vectors = self.work.faces_of_part(part)
        shared = self.work.shared(SharedLabels, self.labels)
        own, near = shared.labels[of_part.faces], shared.labels[of_part.near.index]
        row = np.where(np.repeat(own, np.diff(of_part.near.start)) == near, -1, shared.row[near])
        rows = distinct(row[row >= 0]).astype(np.int32)
        size = np.zeros(len(shared.row), np.int64)
        size[shared.row[shared.row >= 0]] = shared.size[shared.row >= 0]
        place = np.where(row >= 0, np.searchsorted(rows, row), -1).astype(np.int32)
        groups = NearGroups(place, sums_of(self.work, rows), size[rows])
        around = surroundings(vectors, shared.size[own].astype(np.int64), of_part.near, groups, self.deviation)
        yield part, encode(PartSurroundings(rows, around))


def divide_groups(work: Work, exchange: Exchange, parts: int, labels: I32, part: I32, cuts: Calibration) -> Bounded:
    """Divide groups whose faces are not similar enough, and crowds.

    Args:
        work: the work store.
        exchange: the engine.
        parts: number of parts.
        labels: (F,) labels after singleton assignment.
        part: (F,) part where each face is at home.
        cuts: the calibration. Inside the parts of a loose group the mean cosine is at least `edge`, inside those of a
            crowd the level of one person, which look-alikes do not reach.
    """
    chosen, least, text = _to_divide(work, exchange, parts, labels, part, cuts)
    out, count = labels.astype(np.int64), len(labels)
    if len(chosen):
        groups = share_labels(work, "loose", labels, part, chosen)
        keys = min(len(chosen), parts)
        of_row = least[np.searchsorted(chosen, groups.summed)]
        tasks = DividingTasks(work, groups.name, of_row, keys)
        for _, body in sorted(exchange.run(range(parts), tasks.loose, tasks.divide, keys=keys)):
            moved = decode(Relabelled, body)
            out[moved.faces] = moved.labels.astype(np.int64) + count
            count += int(moved.labels.max()) + 1
    return Bounded(canonical(out), len(chosen), text)


def _to_divide(
    work: Work, exchange: Exchange, parts: int, labels: I32, part: I32, cuts: Calibration
) -> tuple[I32, F32, str]:
    """Return the groups to divide, ascending, the least mean cosine inside the parts of each, and a summary."""
    candidates = np.flatnonzero(np.bincount(labels) >= LEAST_FACES).astype(np.int32)
    if not len(candidates):
        return candidates, np.zeros(0, np.float32), ""
    groups = share_labels(work, "bound-sums", labels, part, candidates)
    sum_groups(work, exchange, parts, groups)
    by_row = groups.summed
    mean = [mean_similarity(sums, groups.size[of_chunk]) for of_chunk, sums in sums_in_order(work, groups)]
    loose = np.concatenate(mean) < BOUND * cuts.edge
    around = np.zeros(len(by_row))
    for _, body in sorted(exchange.run(range(parts), SurroundingsTasks(work, groups.name, cuts.impostor_sd).count)):
        found = decode(PartSurroundings, body)
        around[found.rows] += found.groups
    crowd = crowds(around, groups.size[by_row])
    chosen = np.flatnonzero(loose | crowd)
    chosen = chosen[np.argsort(by_row[chosen])]
    least = np.where(crowd[chosen], cuts.level, cuts.edge).astype(np.float32)
    text = f"{int((loose & ~crowd).sum())} groups below the mean similarity and {int(crowd.sum())} crowds divided"
    return by_row[chosen], least, text
