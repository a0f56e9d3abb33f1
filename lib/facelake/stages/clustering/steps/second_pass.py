"""Step deep: the second-pass search, in which faces with few neighbours are compared with whole cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.calibrate import Calibration
from facelake.cluster.edges import mirrored, ordered, with_few_neighbours
from facelake.cluster.lists import nearest
from facelake.cluster.neighbours import fold_queries
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.blocks import (
    NO_PARTS,
    by_key,
    gather,
    joined,
    neighbours_by_key,
    neighbours_in,
    neighbours_of,
    united,
)
from facelake.stages.clustering.messages import Queries
from facelake.stages.clustering.step_results import Indexed, SecondPass
from facelake.stages.clustering.stored import (
    CellFaces,
    CellMap,
    FinalNeighbours,
    FoundNeighbours,
    OccupiedCells,
    ReversePairs,
)
from facelake.stages.clustering.work import Work

_FEW_NEIGHBOURS = 4
_NO_INTEGERS, _NO_COSINES = np.zeros(0, np.int32), np.zeros(0, np.float16)
_NO_NEIGHBOURS = FoundNeighbours(_NO_INTEGERS, np.zeros(0, np.uint16), _NO_INTEGERS, _NO_COSINES, NO_PARTS)
_NO_PAIRS = ReversePairs(_NO_INTEGERS, _NO_INTEGERS, _NO_COSINES)


@dataclass(frozen=True, slots=True)
class SecondPassTasks:
    """Compares faces that have few neighbours with all faces of their nearest cells."""

    work: Work
    cuts: Calibration
    k: int
    """most neighbours of a face"""
    cells: int
    """cells that a face is compared with; 0: every pair was compared already"""

    def call(self, part: int) -> Iterator[Block]:
        """Send the faces of a part that have few neighbours to their nearest cells."""
        of_part = neighbours_in(self.work.read(FoundNeighbours, part))
        few = with_few_neighbours(of_part, self.cuts.graph_cut, least=_FEW_NEIGHBOURS)
        no_vectors = np.zeros((0, self.work.dim), np.float16)
        yield 0, encode(Queries(_NO_INTEGERS, no_vectors, np.array([part], np.int32)))
        if not self.cells:
            return
        faces, vectors = self.work.faces_of_part(part)
        half = vectors[np.searchsorted(faces, of_part.faces[few])]
        cells = nearest(half.astype(np.float32), self.work.shared(CellMap).cells, self.cells)
        row = np.repeat(np.arange(len(half)), cells.shape[1])
        asks = np.full(len(row), part, np.int32)
        yield from by_key(cells.ravel(), Queries(of_part.faces[few][row], half[row], asks))

    def answer(self, cell: int, blocks: list[bytes]) -> Iterator[Block]:
        """Send the neighbours of the asking faces, among all faces at home in a cell, to the parts that asked."""
        queries = [decode(Queries, block) for block in blocks]
        for part in sorted({int(part) for query in queries for part in query.part}):
            yield part, encode(_NO_NEIGHBOURS)
        asking = [block for block, query in zip(blocks, queries, strict=True) if len(query.faces)]
        if not asking or not self.work.shared(OccupiedCells).occupied[cell]:
            return
        sent, home = gather(Queries, asking), self.work.read(CellFaces, cell)
        answers = fold_queries(sent.faces, sent.vectors, home.faces, home.vectors, self.k, self.cuts.deep_floor)
        here = np.full(len(answers.near.index), self.work.shared(CellMap).part[cell], np.uint16)
        yield from neighbours_by_key(sent.part, answers, here)

    def merge(self, part: int, blocks: list[bytes]) -> Iterator[Block]:
        """Write the final neighbours of a part's faces; send each pair also to the part of its other side."""
        first = self.work.read(FoundNeighbours, part)
        of_part, near_part = united([first, *(decode(FoundNeighbours, block) for block in blocks)], self.k)
        self.work.write(neighbours_of(FinalNeighbours, of_part, near_part), part)
        yield part, encode(_NO_PAIRS)
        yield from by_key(near_part, ReversePairs(*mirrored(of_part)))

    def mirror(self, part: int, blocks: list[bytes]) -> Iterator[Block]:
        """Write the pairs of a part's faces as found by the other side."""
        pairs = joined([decode(ReversePairs, block) for block in blocks])
        self.work.write(ReversePairs(*ordered(pairs.here, pairs.other, pairs.cosine)), part)
        yield part, b""


def search_again(exchange: Exchange, tasks: SecondPassTasks, index: Indexed) -> SecondPass:
    """Run the second pass over all parts."""
    exchange.run(range(index.parts), tasks.call, tasks.answer, tasks.merge, tasks.mirror, keys=index.cells)
    return SecondPass()
