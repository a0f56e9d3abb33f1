"""Step overlap: groups that are parts of one person, whose photos vary continuously, are joined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.edges import Known
from facelake.cluster.labels import canonical
from facelake.cluster.mode_merging import connected
from facelake.cluster.overlap import LEAST_FACES, Links, Sums, matched, overlapping
from facelake.contracts import I32
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.blocks import joined, neighbours_in
from facelake.stages.clustering.step_results import Overlapped
from facelake.stages.clustering.steps.sums import share_labels, sum_groups, sums_in_order
from facelake.stages.clustering.stored import FinalNeighbours, SharedLabels
from facelake.stages.clustering.work import Work

_NO_GROUPS = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class OverlapTasks:
    """Counts links between groups."""

    work: Work
    known: Known
    labels: str

    def links(self, part: int) -> Iterator[Block]:
        """Send the links of a part's faces to faces of other groups, above the graph's cut."""
        of_part = neighbours_in(self.work.read(FinalNeighbours, part))
        shared = self.work.shared(SharedLabels, self.labels)
        face, near = of_part.sources(), of_part.near.index
        group, other = shared.labels[face], shared.labels[near]
        across = np.flatnonzero((group != other) & (np.minimum(shared.size[group], shared.size[other]) >= LEAST_FACES))
        face, near = face[across], near[across]
        value = self.known.value(face, near, of_part.near.cosine[across])
        strong = value >= self.known.cuts.graph_cut
        yield part, encode(Links.of(face[strong], near[strong], shared.labels))


def join_overlapping(work: Work, exchange: Exchange, parts: int, labels: I32, part: I32, known: Known) -> Overlapped:
    """Join groups that overlap.

    Args:
        work: the work store.
        exchange: the engine.
        parts: number of parts.
        labels: (F,) labels after groups were divided.
        part: (F,) part where each face is at home.
        known: normalisation and calibration.
    """
    shared = share_labels(work, "overlap", labels, part, _NO_GROUPS)
    blocks = sorted(exchange.run(range(parts), OverlapTasks(work, known, shared.name).links))
    links = joined([decode(Links, body) for _, body in blocks]).summed()
    links = _rows(links, np.flatnonzero(matched(links, shared.size)))
    linked = np.unique(np.concatenate([links.group, links.other])).astype(np.int32)
    if not len(linked):
        return Overlapped(labels, "")
    shared = share_labels(work, "overlap-sums", labels, part, linked)
    sum_groups(work, exchange, parts, shared)
    sums = np.concatenate([of_chunk for _, of_chunk in sums_in_order(work, shared)])
    at = Links(shared.row[links.group], shared.row[links.other], links.links, links.most)
    parts_of_one = overlapping(at, Sums(sums, shared.size[shared.summed]), known.cuts)
    group = connected(len(shared.size), links.group[parts_of_one], links.other[parts_of_one])
    text = f"{int(parts_of_one.sum())} pairs of groups joined of {len(parts_of_one)} with many links"
    return Overlapped(canonical(group[labels]), text)


def _rows(links: Links, rows: np.ndarray) -> Links:
    return Links(links.group[rows], links.other[rows], links.links[rows], links.most[rows])
