"""Step index: coarse cells, their inverted lists, and parts, which are runs of cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster import columns
from facelake.cluster.labels import canonical
from facelake.cluster.lists import cells_of, divided, lists_of, nearest
from facelake.cluster.neighbours import Search
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.blocks import by_key, gather, joined
from facelake.stages.clustering.messages import FaceVectors
from facelake.stages.clustering.step_results import Indexed
from facelake.stages.clustering.steps.sample import sample_vectors
from facelake.stages.clustering.stored import AllLists, CellCentroids, CellMap, TrainedCell
from facelake.stages.clustering.work import Work

_TRAIN_PER_LIST = 20
_FACES_PER_PART, _LEAST_PARTS = 100_000, 8


@dataclass(frozen=True, slots=True)
class IndexTasks:
    """Trains the lists of each cell on a share of the faces."""

    work: Work
    search: Search
    share: float

    def train(self, item: int) -> Iterator[Block]:
        """Send a share of a file's faces to their nearest cell."""
        cells, search = self.work.shared(CellCentroids).cells, self.search
        for numbers, faces in self.work.faces_of_file(
            item, lambda numbers: columns.chosen(numbers, search.seed, self.share)
        ):
            vectors = self.work.project(faces)
            yield from by_key(nearest(vectors, cells, 1)[:, 0], FaceVectors(numbers, vectors.astype(np.float16)))

    def make_lists(self, cell: int, blocks: list[bytes]) -> Iterator[Block]:
        """Write the lists of one cell, and the cells that it is divided into."""
        sent, seed = gather(FaceVectors, blocks), self.search.seed + cell
        faces = len(sent.faces) / self.share
        lists = lists_of(sent.vectors.astype(np.float32), max(1, round(faces / self.search.list_size)), seed)
        cells, lists, count = divided(lists, self.work.shared(CellCentroids).cells[cell], faces, seed)
        self.work.write(TrainedCell(cells, lists, count, faces * count / count.sum()), cell)
        yield cell, b""


def make_index(work: Work, exchange: Exchange, search: Search, faces: int) -> Indexed:
    """Train the index; a corpus small enough to compare all pairs has one cell and one list."""
    vectors = work.project(sample_vectors(work)[0])
    if faces <= search.exact_below:
        centroid = vectors[:1]
        return _write_index(work, faces, TrainedCell(centroid, centroid, np.ones(1, np.int64), np.ones(1)))
    cells = cells_of(vectors, faces, search.seed)
    work.write(CellCentroids(cells))
    tasks = IndexTasks(work, search, min(1.0, _TRAIN_PER_LIST / search.list_size))
    blocks = exchange.run(work.files, tasks.train, tasks.make_lists, keys=len(cells))
    return _write_index(
        work, faces, joined([work.read(TrainedCell, cell) for cell in sorted(cell for cell, _ in blocks)])
    )


def _write_index(work: Work, faces: int, trained: TrainedCell) -> Indexed:
    cells, weight = trained.cells, trained.weight
    first = np.concatenate([[0], np.cumsum(trained.count)]).astype(np.int64)
    parts = max(-(-faces // _FACES_PER_PART), min(_LEAST_PARTS, len(cells)))
    before = (np.cumsum(weight) - weight) / weight.sum()
    part = canonical(np.minimum((before * parts).astype(np.int32), parts - 1))
    work.write(AllLists(trained.lists, first))
    work.write(CellMap(cells, part))
    return Indexed(len(cells), int(first[-1]), int(part.max()) + 1)
