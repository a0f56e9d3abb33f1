"""Step settle: singletons are assigned to groups, misplaced faces are moved, and the remaining singletons grouped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.edges import Known, leftover_graph, leftover_pairs, mutual_or_strong
from facelake.cluster.labels import canonical
from facelake.cluster.linkage import NearGroups, settle, without_crowds
from facelake.cluster.mapequation import map_equation
from facelake.contracts import I32
from facelake.distinct import union
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.blocks import joined, neighbours_in
from facelake.stages.clustering.messages import FacePairs, Relabelled
from facelake.stages.clustering.step_results import Settled
from facelake.stages.clustering.steps.sums import ROWS_AT_ONCE, share_labels, sum_groups, sums_of
from facelake.stages.clustering.stored import FinalNeighbours, SharedLabels
from facelake.stages.clustering.work import Work

_NO_GROUPS = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class SingletonTasks:
    """Compares the faces of a part with the groups of their neighbours."""

    work: Work
    known: Known
    labels: str

    def settle(self, part: int) -> Iterator[Block]:
        """Send new labels of a part's faces that are singletons or in the wrong group."""
        of_part = neighbours_in(self.work.read(FinalNeighbours, part))
        faces, vectors = self.work.faces_of_part(part)
        shared = self.work.shared(SharedLabels, self.labels)
        labels, start = shared.labels, of_part.near.start
        near = union(labels[of_part.faces], labels[of_part.near.index])
        place = np.full(len(shared.row), -1, np.int32)
        place[near] = np.arange(len(near))
        sums, sizes = sums_of(self.work, shared.row[near]), shared.size[near].astype(np.int64)
        out = np.empty(len(faces), np.int32)
        for first in range(0, len(faces), ROWS_AT_ONCE):
            last = min(first + ROWS_AT_ONCE, len(faces))
            group = settle(
                vectors[first:last].astype(np.float32),
                place[labels[of_part.faces[first:last]]],
                NearGroups(
                    start[first : last + 1] - start[first],
                    place[labels[of_part.near.index[start[first] : start[last]]]],
                ),
                sums,
                sizes,
                self.known.cuts,
            )
            out[first:last] = near[group]
        moved = out != labels[faces]
        yield part, encode(Relabelled(faces[moved], out[moved]))

    def leftovers(self, part: int) -> Iterator[Block]:
        """Send pairs of faces of this part that are still singletons."""
        of_part = neighbours_in(self.work.read(FinalNeighbours, part))
        shared = self.work.shared(SharedLabels, self.labels)
        alone = shared.size[shared.labels] == 1
        yield part, encode(FacePairs(*leftover_pairs(of_part, alone, self.known)))


def assign_singletons(
    work: Work, exchange: Exchange, parts: int, linked: I32, part: I32, known: Known, *, seed: int
) -> Settled:
    """Assign singletons to groups and group the rest of them.

    Args:
        work: the work store.
        exchange: the engine.
        parts: number of parts.
        linked: (F,) labels after linking.
        part: (F,) part where each face is at home.
        known: normalisation and calibration.
        seed: of the grouping.
    """
    labels, several = linked.copy(), np.flatnonzero(np.bincount(linked) >= 2).astype(np.int32)
    groups = share_labels(work, "settle-sums", labels, part, several)
    sum_groups(work, exchange, parts, groups)
    for _, body in sorted(exchange.run(range(parts), SingletonTasks(work, known, groups.name).settle)):
        moved = decode(Relabelled, body)
        labels[moved.faces] = moved.labels
    labels = canonical(without_crowds(linked, labels, np.bincount(linked)))
    groups = share_labels(work, "settled", labels, part, _NO_GROUPS)
    blocks = sorted(exchange.run(range(parts), SingletonTasks(work, known, groups.name).leftovers))
    pairs = joined([decode(FacePairs, body) for _, body in blocks])
    return Settled(_with_leftovers(labels, pairs, known, seed))


def _with_leftovers(labels: I32, pairs: FacePairs, known: Known, seed: int) -> I32:
    """Return labels (F,) in which the faces of the pairs are grouped among themselves."""
    taken = mutual_or_strong(pairs.a, pairs.b, pairs.value, known.cuts)
    a, b, value = pairs.a[taken], pairs.b[taken], pairs.value[taken]
    faces = union(a, b)
    at, to = (np.searchsorted(faces, side).astype(np.int32) for side in (a, b))
    graph = leftover_graph(len(faces), at, to, value, known.cuts)
    out = labels.astype(np.int64)
    out[faces] = len(labels) + map_equation(len(faces), [graph], seed)
    return canonical(out)
