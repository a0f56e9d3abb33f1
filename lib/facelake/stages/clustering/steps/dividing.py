"""Step bound: groups whose faces are not similar enough on the mean are divided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.bounding import BOUND, LEAST_FACES, divided_group, mean_similarity
from facelake.cluster.labels import canonical
from facelake.contracts import I32
from facelake.distinct import distinct
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.blocks import by_key, gather
from facelake.stages.clustering.messages import FacesToDivide, Relabelled
from facelake.stages.clustering.step_results import Bounded
from facelake.stages.clustering.steps.sums import share_labels, sum_groups, sums_in_order
from facelake.stages.clustering.stored import SharedLabels
from facelake.stages.clustering.work import Work


@dataclass(frozen=True, slots=True)
class DividingTasks:
    """Divides groups, which are shared out among `tasks` tasks by their row."""

    work: Work
    labels: str
    edge: float
    """least mean cosine inside a group"""
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
            labels[here] = divided_group(sent.vectors[here].astype(np.float32), self.edge) + count
            count = int(labels[here].max()) + 1
        yield task, encode(Relabelled(sent.faces, labels))


def divide_groups(work: Work, exchange: Exchange, parts: int, labels: I32, part: I32, edge: float) -> Bounded:
    """Divide groups whose faces are not similar enough.

    Args:
        work: the work store.
        exchange: the engine.
        parts: number of parts.
        labels: (F,) labels after singleton assignment.
        part: (F,) part where each face is at home.
        edge: cosine above which a pair of single faces may be joined.
    """
    loose, text = _loose_groups(work, exchange, parts, labels, part, edge)
    out, count = labels.astype(np.int64), len(labels)
    if len(loose):
        groups = share_labels(work, "loose", labels, part, loose)
        keys = min(len(loose), parts)
        tasks = DividingTasks(work, groups.name, edge, keys)
        for _, body in sorted(exchange.run(range(parts), tasks.loose, tasks.divide, keys=keys)):
            moved = decode(Relabelled, body)
            out[moved.faces] = moved.labels.astype(np.int64) + count
            count += int(moved.labels.max()) + 1
    return Bounded(canonical(out), len(loose), text)


def _loose_groups(work: Work, exchange: Exchange, parts: int, labels: I32, part: I32, edge: float) -> tuple[I32, str]:
    """Return the groups whose faces are not similar enough, and a summary."""
    candidates = np.flatnonzero(np.bincount(labels) >= LEAST_FACES).astype(np.int32)
    if not len(candidates):
        return candidates, ""
    groups = share_labels(work, "bound-sums", labels, part, candidates)
    sum_groups(work, exchange, parts, groups)
    loose = [
        of_chunk[mean_similarity(sums, groups.size[of_chunk]) < BOUND * edge]
        for of_chunk, sums in sums_in_order(work, groups)
    ]
    below = np.sort(np.concatenate(loose)).astype(np.int32)
    return below, f"{len(below)} groups below the mean similarity divided"
