"""Step link: groups of one person are joined, first along edges, then where two are modes (age, pose) of one person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.edges import Known, group_pairs
from facelake.cluster.labels import canonical
from facelake.cluster.linkage import Pairs, join_groups
from facelake.cluster.mode_merging import connected, mode_pairs
from facelake.contracts import F32, I32, I64
from facelake.distinct import union
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.blocks import joined, neighbours_in
from facelake.stages.clustering.messages import GroupPairs
from facelake.stages.clustering.step_results import Grouped, Linked
from facelake.stages.clustering.steps.sums import SharedGroups, share_labels, sum_groups, sums_in_order
from facelake.stages.clustering.stored import FinalNeighbours, SharedLabels
from facelake.stages.clustering.work import Work

_NO_GROUPS = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class LinkingTasks:
    """Reads the edges of a part."""

    work: Work
    known: Known
    labels: str

    def pairs(self, part: int) -> Iterator[Block]:
        """Send the pairs of groups with an edge in this part."""
        of_part = neighbours_in(self.work.read(FinalNeighbours, part))
        pairs = group_pairs(of_part, self.work.shared(SharedLabels, self.labels).labels, self.known)
        yield part, encode(GroupPairs(pairs.low, pairs.high, pairs.cosine))


def link_groups(work: Work, exchange: Exchange, parts: int, grouped: Grouped, known: Known, seed: int) -> Linked:
    """Join groups of one person.

    Args:
        work: the work store.
        exchange: the engine.
        parts: number of parts.
        grouped: labels and parts of the faces.
        known: normalisation and calibration.
        seed: of the random numbers of mode merging.
    """
    labels = grouped.labels
    shared = share_labels(work, "linked", labels, grouped.part, _NO_GROUPS)
    blocks = exchange.run(range(parts), LinkingTasks(work, known, shared.name).pairs)
    sent = joined([decode(GroupPairs, body) for _, body in blocks])
    pairs = Pairs.of(sent.low, sent.high, sent.cosine)
    linked = union(pairs.low, pairs.high)
    if not len(linked):
        return Linked(labels, 0, "")
    groups = share_labels(work, "link-sums", labels, grouped.part, linked)
    sum_groups(work, exchange, parts, groups)
    group, evidence = _joined_groups(work, pairs, groups, known, seed)
    return Linked(canonical(group[labels]), len(pairs.low), evidence)


def _joined_groups(work: Work, pairs: Pairs, groups: SharedGroups, known: Known, seed: int) -> tuple[I32, str]:
    """Return the joined group (groups,) that each is part of, numbered by one of its members; and the evidence."""
    by_row, row = groups.summed, groups.row
    sums = np.empty((len(by_row), work.dim), np.float32)
    for of_chunk, part in sums_in_order(work, groups):
        first = row[of_chunk[0]]
        sums[first : first + len(of_chunk)] = part
    at = Pairs(row[pairs.low], row[pairs.high], pairs.cosine)
    number, root = join_groups(sums, groups.size[by_row], at, known.cuts)
    faces = np.bincount(number, groups.size[by_row], len(root)).astype(np.int64)
    modes, evidence = _merged_modes(sums[root], faces, _between(at, number), known, seed)
    number = modes[number]
    lowest = np.full(len(by_row), np.iinfo(np.int32).max, np.int32)
    np.minimum.at(lowest, number, by_row)
    out = np.arange(len(groups.size), dtype=np.int32)
    out[by_row] = lowest[number]
    return out, evidence


def _between(pairs: Pairs, number: I32) -> Pairs:
    """Return the pairs whose groups were not joined, as pairs of joined groups."""
    low, high = number[pairs.low], number[pairs.high]
    across = low != high
    return Pairs.of(np.minimum(low, high)[across], np.maximum(low, high)[across], pairs.cosine[across])


def _merged_modes(sums: F32, faces: I64, pairs: Pairs, known: Known, seed: int) -> tuple[I32, str]:
    """Return the group (groups,) after mode merging that each group is part of; and the evidence."""
    low, high, evidence = mode_pairs(sums, faces, pairs, known.cuts, seed)
    return connected(len(faces), low, high), evidence
