"""Step overlap: groups that are parts of one person, whose photos vary continuously, are joined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.bounding import BOUND
from facelake.cluster.calibrate import Calibration
from facelake.cluster.overlap import (
    LEAST_FACES,
    SAMPLED_CUTS,
    Links,
    Sums,
    join_within_bound,
    link_cuts,
    matched,
    overlapping,
    plausible_pairs,
)
from facelake.cluster.sampled_links import (
    Sample,
    faces_per_group,
    large_groups,
    recounted,
    sampled,
    worth_sampling,
)
from facelake.contracts import I32
from facelake.distinct import distinct, union
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.blocks import joined, neighbours_in
from facelake.stages.clustering.messages import PartSample
from facelake.stages.clustering.step_results import Overlapped
from facelake.stages.clustering.steps.sums import SharedGroups, all_sums, share_labels
from facelake.stages.clustering.stored import FinalNeighbours, SharedLabels
from facelake.stages.clustering.work import Work

_NO_GROUPS = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class OverlapTasks:
    """Counts links between groups."""

    work: Work
    cuts: Calibration
    labels: str

    def links(self, part: int) -> Iterator[Block]:
        """Send the links of a part's faces to faces of other groups, a block for each cut."""
        of_part = neighbours_in(self.work.read(FinalNeighbours, part))
        shared = self.work.shared(SharedLabels, self.labels)
        face, near = of_part.sources(), of_part.near.index
        group, other = shared.labels[face], shared.labels[near]
        across = np.flatnonzero((group != other) & (np.minimum(shared.size[group], shared.size[other]) >= LEAST_FACES))
        face, near = face[across], near[across]
        value = of_part.near.cosine[across]
        cuts = link_cuts(self.cuts)
        for number, cut in enumerate(cuts):
            strong = value >= cut
            yield part * len(cuts) + number, encode(Links.of(face[strong], near[strong], shared.labels))


@dataclass(frozen=True, slots=True)
class SampleTasks:
    """Takes samples of groups."""

    work: Work
    labels: str
    wanted: int
    """faces of a group"""

    def faces(self, part: int) -> Iterator[Block]:
        """Send a part's sampled faces of the groups that have rows."""
        faces, vectors = self.work.faces_of_part(part)
        shared = self.work.shared(SharedLabels, self.labels)
        group = shared.labels[faces]
        at = np.flatnonzero((shared.row[group] >= 0) & sampled(faces, shared.size[group].astype(np.int64), self.wanted))
        yield part, encode(PartSample(shared.row[group[at]], faces[at], vectors[at]))


def join_overlapping(
    work: Work, exchange: Exchange, parts: int, labels: I32, part: I32, cuts: Calibration
) -> Overlapped:
    """Join groups that overlap.

    Similarities are taken as they are, without the discount for poor faces: what these have in common is in the mean of
    two groups too, which says how many links to expect.

    Args:
        work: the work store.
        exchange: the engine.
        parts: number of parts.
        labels: (F,) labels after groups were divided.
        part: (F,) part where each face is at home.
        cuts: the calibration.
    """
    shared, least = share_labels(work, "overlap", labels, part, _NO_GROUPS), link_cuts(cuts)
    blocks = sorted(exchange.run(range(parts), OverlapTasks(work, cuts, shared.name).links))
    of_cut = [
        _candidates([decode(Links, body) for key, body in blocks if key % len(least) == number], shared)
        for number in range(len(least))
    ]
    linked = union(large_groups(shared.size), *(side for links in of_cut for side in (links.group, links.other)))
    if not len(linked):
        return Overlapped(labels, "")
    shared = share_labels(work, "overlap-sums", labels, part, linked.astype(np.int32))
    groups = Sums(all_sums(work, exchange, parts, shared), shared.size[shared.summed])
    alike = _alike(shared, groups, cuts)
    to_sample = shared.summed[worth_sampling(alike, groups)]
    sample = _sample(work, exchange, parts, share_labels(work, "overlap-sample", labels, part, to_sample), shared)
    chosen = []
    for links, cut in zip(of_cut, least, strict=True):
        listed = Links(shared.row[links.group], shared.row[links.other], links.links, links.most)
        chosen.append(_overlapping(_rows(listed, np.flatnonzero(~sample.holds(listed))), groups, cuts, cut))
    sampled_cuts = link_cuts(cuts, SAMPLED_CUTS)
    for links, cut in zip(recounted(alike, groups.size, sample, sampled_cuts), sampled_cuts, strict=True):
        chosen.append(_overlapping(links, groups, cuts, cut))
    pairs = joined(chosen)
    row = join_within_bound(pairs.group, pairs.other, groups, BOUND * cuts.edge)
    text = f"{len(row) - len(distinct(row))} joins among {len(row)} groups that are large or have many links"
    return Overlapped(shared.joined(labels, row), text)


def _alike(shared: SharedGroups, groups: Sums, cuts: Calibration) -> Links:
    """Return the pairs of large groups that may be of one person, by their rows."""
    large = np.sort(shared.row[large_groups(shared.size)])
    pairs = plausible_pairs(Sums(groups.sums[large], groups.size[large]), cuts)
    return Links(large[pairs.group], large[pairs.other], pairs.links, pairs.most)


def _overlapping(links: Links, groups: Sums, cuts: Calibration, cut: float) -> Links:
    return _rows(links, np.flatnonzero(overlapping(links, groups, cuts, cut)))


def _candidates(of_parts: list[Links], groups: SharedGroups) -> Links:
    """Return the pairs of groups that have enough links, over all parts."""
    links = joined(of_parts).summed()
    return _rows(links, np.flatnonzero(matched(links, groups.size)))


def _sample(work: Work, exchange: Exchange, parts: int, groups: SharedGroups, numbered: SharedGroups) -> Sample:
    """Return sampled faces of groups that have rows, with the rows that the groups have in `numbered`."""
    if not len(groups.summed):
        return Sample(_NO_GROUPS, _NO_GROUPS, np.zeros((0, work.dim), np.float16))
    tasks = SampleTasks(work, groups.name, faces_per_group(len(groups.summed), work.dim))
    found = joined([decode(PartSample, body) for _, body in sorted(exchange.run(range(parts), tasks.faces))])
    row = numbered.row[groups.summed[found.row]]
    order = np.lexsort((found.face, row))
    return Sample(row[order], found.face[order], found.vectors[order])


def _rows(links: Links, rows: np.ndarray) -> Links:
    return Links(links.group[rows], links.other[rows], links.links[rows], links.most[rows])
