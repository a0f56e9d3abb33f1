"""Steps local and groups: the graph of edges, groups inside each part, then groups of the whole corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.edges import Known, graph_block
from facelake.cluster.mapequation import Block as GraphBlock
from facelake.cluster.mapequation import map_equation
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.blocks import neighbours_in
from facelake.stages.clustering.messages import EdgeCount
from facelake.stages.clustering.step_results import Grouped, LocallyGrouped
from facelake.stages.clustering.stored import FinalNeighbours, GraphRows, LocalGroups, ReversePairs
from facelake.stages.clustering.work import Work


@dataclass(frozen=True, slots=True)
class GroupingTasks:
    """Makes a part's share of the graph."""

    work: Work
    known: Known
    seed: int

    def local(self, part: int) -> Iterator[Block]:
        """Write the graph's rows of a part's faces, and groups inside the part."""
        of_part = neighbours_in(self.work.read(FinalNeighbours, part))
        reverse = self.work.read(ReversePairs, part)
        block = graph_block(of_part, reverse.other, reverse.here, reverse.cosine, self.known)
        self.work.write(GraphRows(block.nodes, block.start, block.target, block.weight), part)
        inner = block.inner()
        labels = map_equation(len(inner.nodes), [inner], self.seed, rounds=2)
        self.work.write(LocalGroups(of_part.faces, labels), part)
        yield part, encode(EdgeCount(len(block.target)))


class StoredGraph:
    """The graph's blocks in the work store, one part in memory at a time."""

    def __init__(self, work: Work, parts: int) -> None:
        self._work, self._parts = work, parts

    def __len__(self) -> int:
        return self._parts

    def __getitem__(self, at: int, /) -> GraphBlock:
        rows = self._work.read(GraphRows, at)
        return GraphBlock(rows.nodes, rows.start, rows.target, rows.weight)


def group_parts(exchange: Exchange, tasks: GroupingTasks, parts: int) -> LocallyGrouped:
    """Make the graph and the groups inside each part."""
    blocks = exchange.run(range(parts), tasks.local)
    return LocallyGrouped(sum(decode(EdgeCount, body).edges for _, body in blocks))


def group_corpus(work: Work, parts: int, faces: int, seed: int) -> Grouped:
    """Group all faces, starting from the groups inside parts; runs in the driver."""
    labels, part_of_face, count = np.zeros(faces, np.int32), np.zeros(faces, np.int32), 0
    for part in range(parts):
        local = work.read(LocalGroups, part)
        labels[local.faces] = local.labels + count
        part_of_face[local.faces] = part
        count += int(local.labels.max(initial=-1)) + 1
    labels = map_equation(faces, StoredGraph(work, parts), seed, initial=labels)
    return Grouped(labels, part_of_face)
