"""Step join: neighbours inside inverted lists, and from them the similarity of faces of one person."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.calibrate import Similarities
from facelake.cluster.neighbours import (
    CELL_PROBES,
    FaceNeighbours,
    Neighbours,
    Ragged,
    Search,
    compared_pairs,
    exact_join,
    join_lists,
)
from facelake.contracts import F32, I64
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.blocks import by_key, gather, neighbours_by_key, neighbours_of, united
from facelake.stages.clustering.messages import FacesOfCell
from facelake.stages.clustering.step_results import Indexed, Joined
from facelake.stages.clustering.stored import (
    AssignedLists,
    CellFaces,
    CellMap,
    ComparedPairs,
    FoundNeighbours,
    JoinedWave,
    OccupiedCells,
)
from facelake.stages.clustering.work import Work


@dataclass(frozen=True, slots=True)
class JoinTasks:
    """Joins the cells of one wave: every `waves`-th cell, so that fewer vectors are sent at once."""

    work: Work
    search: Search
    exact: bool
    """compare all pairs of the corpus"""
    wave: int = 0
    waves: int = 1

    def spread(self, item: int) -> Iterator[Block]:
        """Send each face to those cells of its lists that are in this wave; lists are looked up in the first."""
        index = self.work.index()
        known = self.work.read(AssignedLists, item).lists if self.wave else None
        looked_up, first = [], 0
        for numbers, faces in self.work.faces_of_file(item):
            vectors = self.work.project(faces)
            if known is None:
                lists = index.assign(vectors, self.search.probes, CELL_PROBES)
                looked_up.append(lists)
            else:
                lists = known[first : first + len(numbers)]
                first += len(numbers)
            cell = np.where(lists >= 0, np.searchsorted(index.first, lists, side="right") - 1, -1)
            row, cell = self._of_wave(cell)
            yield from by_key(cell, FacesOfCell(numbers[row], lists[row], vectors.astype(np.float16)[row]))
        if looked_up and self.waves > 1:
            self.work.write(AssignedLists(np.concatenate(looked_up)), item)

    def _of_wave(self, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs (row, cell) of this wave, each once, from the cells (n, nprobe) of each row's lists."""
        by_cell = np.sort(cell, axis=1)
        new = np.ones_like(by_cell, bool)
        new[:, 1:] = by_cell[:, 1:] != by_cell[:, :-1]
        row, column = np.nonzero(new & (by_cell >= 0) & (by_cell % self.waves == self.wave))
        return row, by_cell[row, column]

    def join(self, cell: int, blocks: list[bytes]) -> Iterator[Block]:
        """Write the faces at home in a cell; send the neighbours of all its faces to the parts of those faces."""
        sent, index = gather(FacesOfCell, blocks), self.work.index()
        home = (np.searchsorted(index.first, sent.lists[:, 0], side="right") - 1).astype(np.int32)
        here = home == cell
        self.work.write(CellFaces(sent.faces[here], sent.vectors[here]), cell)
        first, last = int(index.first[cell]), int(index.first[cell + 1])
        near, pairs = self._neighbours(sent, first, index.lists[first:last])
        self.work.write(ComparedPairs(pairs), cell)
        part = self.work.shared(CellMap).part[home]
        ragged = near.ragged()
        of_cell = FaceNeighbours(sent.faces, Ragged(ragged.start, sent.faces[ragged.index], ragged.cosine))
        yield from neighbours_by_key(part, of_cell, part[ragged.index].astype(np.uint16))

    def _neighbours(self, sent: FacesOfCell, first: int, centroids: F32) -> tuple[Neighbours, int]:
        """Return the neighbours of a cell's faces as positions, and how many pairs were compared.

        Args:
            sent: the faces.
            first: number of the cell's first list.
            centroids: (lists, dim) of the cell.
        """
        vectors, lists = sent.vectors.astype(np.float32), sent.lists
        if self.exact:
            return exact_join(vectors, self.search.k, self.search.floor), len(vectors) ** 2
        row, column = np.nonzero((lists >= first) & (lists < first + len(centroids)))
        local = (lists[row, column] - first).astype(np.int32)
        near = join_lists(vectors, row.astype(np.int32), local, centroids, self.search)
        return near, compared_pairs(local, self.search)

    def unite(self, part: int, blocks: list[bytes]) -> Iterator[Block]:
        """Write the best neighbours of a part's faces, from all cells of this wave and of those before."""
        sent = [decode(FoundNeighbours, block) for block in blocks]
        if self.wave:
            with suppress(FileNotFoundError):  # no cell of an earlier wave had anything for this part
                sent.insert(0, self.work.read(FoundNeighbours, part))
        of_part, near_part = united(sent, self.search.k)
        self.work.write(neighbours_of(FoundNeighbours, of_part, near_part), part)
        yield part, encode(Similarities.of(of_part.near))


def join_cells(
    work: Work, exchange: Exchange, search: Search, index: Indexed, *, faces: int, scratch_bytes: float
) -> Joined:
    """Join all cells in as few waves as the scratch space allows.

    Args:
        work: the work store.
        exchange: the engine.
        search: how neighbours are searched.
        index: size of the index.
        faces: number of faces of the corpus.
        scratch_bytes: of vectors that workers may send each other at once.
    """
    waves = _waves(search, index.cells, 2.0 * work.dim * faces, scratch_bytes)
    of_part: dict[int, Similarities] = {}  # as of the last wave that had neighbours for the part
    for wave in range(waves):
        of_part |= _join_wave(JoinTasks(work, search, faces <= search.exact_below, wave, waves), exchange, index.cells)
    occupied = np.zeros(index.cells, np.uint8)
    occupied[[int(name) for name in work.names(CellFaces)]] = 1
    work.write(OccupiedCells(occupied))
    pairs = sum(work.read(ComparedPairs, name).pairs for name in work.names(ComparedPairs))
    every = np.sum([part.every for part in of_part.values()], axis=0)
    best = np.sum([part.best for part in of_part.values()], axis=0)
    return Joined(Similarities(every, best), pairs)


def _waves(search: Search, cells: int, vector_bytes: float, scratch_bytes: float) -> int:
    """In how many waves cells are joined: a face is sent to nearly as many cells as it has lists, if there are many."""
    sent_bytes = vector_bytes * min(search.probes, cells)
    return min(cells, max(1, math.ceil(sent_bytes / scratch_bytes)))


def _join_wave(tasks: JoinTasks, exchange: Exchange, cells: int) -> dict[int, Similarities]:
    """Histograms of the parts' neighbours so far; a wave that is complete is not run again."""
    work, name = tasks.work, f"{tasks.wave}-of-{tasks.waves}"
    with suppress(FileNotFoundError):
        return _by_part(work.read(JoinedWave, name))
    keys = -(-cells // tasks.waves)
    blocks = sorted(exchange.run(work.files, tasks.spread, tasks.join, tasks.unite, keys=keys))
    of_part = [decode(Similarities, body) for _, body in blocks]
    part = np.array([part for part, _ in blocks], np.int64)
    joined = JoinedWave(part, _stacked([item.every for item in of_part]), _stacked([item.best for item in of_part]))
    work.write(joined, name)
    return _by_part(joined)


def _stacked(rows: list[I64]) -> I64:
    return np.stack(rows) if rows else np.zeros((0, 0), np.int64)


def _by_part(wave: JoinedWave) -> dict[int, Similarities]:
    rows = zip(wave.part.tolist(), wave.every, wave.best, strict=True)
    return {part: Similarities(every, best) for part, every, best in rows}
