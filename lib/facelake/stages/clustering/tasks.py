"""The tasks of clustering on workers: each reads blocks, calls the package `cluster`, writes, and passes blocks on.

Names of what lies in the work store: `scan/<file>`, `rows/<file>` (per input file), `cells/<cell>` (faces and vectors
at home in a cell), `found|edges|reverse|graph|local/<part>` (parts are runs of cells), `sums/<chunk>`, `labels/<step>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa

from facelake.cluster import columns
from facelake.cluster.array_codec import pack, unpack
from facelake.cluster.bounding import divided_group
from facelake.cluster.calibrate import Similarities
from facelake.cluster.edges import (
    Known,
    graph_block,
    group_pairs,
    leftover_pairs,
    mirrored,
    ordered,
    with_few_neighbours,
)
from facelake.cluster.labels import add_sums
from facelake.cluster.linkage import settle
from facelake.cluster.lists import Index, divided, lists_of, nearest
from facelake.cluster.mapequation import map_equation
from facelake.cluster.neighbours import (
    Found,
    Ragged,
    Search,
    compared_pairs,
    exact_join,
    fold_queries,
    join_lists,
)
from facelake.cluster.nuisance import without
from facelake.contracts import F16, F32, I32, Bool
from facelake.engines.exchange import Block
from facelake.lake.object_store import ObjectStore
from facelake.lake.store import cached_store
from facelake.stages.clustering.blocks import (
    NO_MIRROR,
    NO_PAIRS,
    NO_PARTS,
    by_key,
    found_by,
    gather,
    pack_found,
    pairs_of,
    united,
    unpack_found,
)
from facelake.stages.clustering.source import Source
from facelake.vectors import unit_rows

CHUNK = 4096  # groups per file of sums
_ROWS = 20_000


@lru_cache(maxsize=6)
def _cached(uri: str, s3: str, key: str, run: str) -> dict[str, np.ndarray]:
    return unpack(cached_store(uri, s3).read(key))


@dataclass(frozen=True, slots=True)
class Work:
    """Everything that a task needs to know; travels to the workers."""

    source: Source
    uri: str
    s3: str
    run: str
    """names input and settings: under one run, a name in the work store means one content (but for `sums/`)"""
    dim: int
    min_quality: float = 0.0
    faces: int = 0
    search: Search = field(default_factory=Search)
    cell_probes: int = 8
    deep_cells: int = 8
    train_share: float = 1.0
    wave: int = 0
    tasks: int = 1
    """among how many tasks groups to divide are shared out"""
    waves: int = 1
    """cells are joined in so many turns, every waves-th cell in each: fewer vectors are on their way at once"""
    known: Known | None = None
    labels: str = ""
    """name of the labels that the driver gave out last"""

    # ---- the work store

    @property
    def store(self) -> ObjectStore:
        """Where steps leave what they made."""
        return cached_store(self.uri, self.s3)

    def read(self, key: str) -> dict[str, np.ndarray]:
        """Arrays under a key."""
        return unpack(self.store.read(key))

    def shared(self, key: str) -> dict[str, np.ndarray]:
        """Arrays under a key, kept in the worker."""
        return _cached(self.uri, self.s3, key, self.run)

    def write(self, name: str, /, **arrays: np.ndarray) -> None:
        """Write arrays under a name."""
        self.store.write(name, pack(**arrays))

    @property
    def facts(self) -> Known:
        """What the steps before have found out; tasks that need it run after them."""
        assert self.known is not None
        return self.known

    def _project(self, vectors: F32) -> F32:
        return without(vectors, self.shared("nuisance")["directions"])

    def _index(self) -> Index:
        held = self.shared("all-lists")
        return Index(self.shared("cell-map")["cells"], held["lists"], held["first"])

    def _part_of_cell(self) -> I32:
        return self.shared("cell-map")["part"]

    def _faces(self, item: int, wanted: Callable[[I32], Bool] | None = None) -> Iterator[tuple[I32, F32]]:
        """Numbers and unit vectors of a file's faces that take part (and are wanted), as they came."""
        numbers, first = self.read(f"rows/{item}")["number"], 0
        for batch in self.source.batches(item, ["embedding"]):
            mine = numbers[first : first + batch.num_rows]
            first += batch.num_rows
            take = mine >= 0
            if wanted:
                take[take] = wanted(mine[take])
            column = batch.column(0) if take.all() else batch.column(0).filter(pa.array(take))
            vectors, _ = columns.vectors(column, self.dim)
            yield mine[take], vectors

    # ---- scan: what the driver must know of each row

    def scan(self, item: int) -> Iterator[Block]:
        """Write keys, photos, quality, content hash and state of a file's rows."""
        parts: list[tuple[np.ndarray, ...]] = []
        for batch in self.source.batches(item, ["face_id", "image_id", "quality", "embedding"]):
            found, state = columns.vectors(batch.column("embedding"), self.dim)
            quality = batch.column("quality").to_numpy(zero_copy_only=False).astype(np.float32)
            poor = (quality == 0) | (quality < self.min_quality)  # 0: embed could not confirm the landmarks
            quality = np.nan_to_num(quality)
            state[(state == columns.State.SOUND) & poor] = columns.State.TOO_POOR
            ids = columns.keys(batch.column("face_id")), columns.keys(batch.column("image_id"))
            parts.append((*ids, quality, columns.vector_keys(found), state))
        if not parts:
            parts = [tuple(np.zeros(0, kind) for kind in ("i8", "i8", "f4", "i8", "u1"))]
        keys, photos, quality, content, state = (np.concatenate(column) for column in zip(*parts, strict=True))
        self.write(f"scan/{item}", key=keys, photo=photos, quality=quality, content=content, state=state)
        yield item, b""

    def sample(self, item: int) -> Iterator[Block]:
        """Write the vectors of the chosen faces of a file."""
        chosen = self.shared("sample-faces")["chosen"]
        faces, vectors = [], []
        for numbers, found in self._faces(item, lambda mine: chosen[mine] > 0):
            faces.append(numbers)
            vectors.append(found.astype(np.float16))
        if faces:
            self.write(f"sample/{item}", faces=np.concatenate(faces), vectors=np.concatenate(vectors))
            yield item, b""

    # ---- lists: the index's second level, a cell at a time

    def train(self, item: int) -> Iterator[Block]:
        """A share of the faces to their nearest cell."""
        cells = self.shared("cell-centroids")["cells"]
        for numbers, found in self._faces(item, lambda mine: columns.chosen(mine, self.search.seed, self.train_share)):
            vectors = self._project(found)
            yield from by_key(nearest(vectors, cells, 1)[:, 0], faces=numbers, vectors=vectors.astype(np.float16))

    def make_lists(self, cell: int, blocks: list[bytes]) -> Iterator[Block]:
        """The lists of one cell, and the cells that it is divided into."""
        held, seed = gather(blocks), self.search.seed + cell
        faces = len(held["faces"]) / self.train_share
        lists = lists_of(held["vectors"].astype(np.float32), max(1, round(faces / self.search.list_size)), seed)
        cells, lists, count = divided(lists, self.shared("cell-centroids")["cells"][cell], faces, seed)
        self.write(f"lists/{cell}", cells=cells, lists=lists, count=count, weight=faces * count / count.sum())
        yield cell, b""

    # ---- join: neighbours inside lists

    def spread(self, item: int) -> Iterator[Block]:
        """Each face to those cells of its lists whose turn it is; lists are looked up in the first wave only."""
        index, known = self._index(), self.read(f"assigned/{item}")["lists"] if self.wave else None
        looked_up, first = [], 0
        for numbers, found in self._faces(item):
            vectors = self._project(found)
            if known is None:
                lists = index.assign(vectors, self.search.probes, self.cell_probes)
                looked_up.append(lists)
            else:
                lists = known[first : first + len(numbers)]
                first += len(numbers)
            cell = np.where(lists >= 0, np.searchsorted(index.first, lists, side="right") - 1, -1)
            half = vectors.astype(np.float16)
            order = np.argsort(cell, axis=1, kind="stable")
            by_cell = np.take_along_axis(cell, order, 1)
            new = np.ones_like(by_cell, bool)
            new[:, 1:] = by_cell[:, 1:] != by_cell[:, :-1]
            row, column = np.nonzero(new & (by_cell >= 0) & (by_cell % self.waves == self.wave))
            yield from by_key(by_cell[row, column], faces=numbers[row], lists=lists[row], vectors=half[row])
        if looked_up and self.waves > 1:
            self.write(f"assigned/{item}", lists=np.concatenate(looked_up))

    def join(self, cell: int, blocks: list[bytes]) -> Iterator[Block]:
        """Neighbours of the faces in a cell's lists, to the parts where the faces are at home."""
        held, index = gather(blocks), self._index()
        faces, lists, vectors = held["faces"], held["lists"], held["vectors"].astype(np.float32)
        home = (np.searchsorted(index.first, lists[:, 0], side="right") - 1).astype(np.int32)
        here = home == cell
        self.write(f"cells/{cell}", faces=faces[here], vectors=held["vectors"][here])
        if self.faces <= self.search.exact_below:
            found, pairs = exact_join(vectors, self.search.k, self.search.floor), len(vectors) ** 2
        else:
            first, last = index.first[cell], index.first[cell + 1]
            row, column = np.nonzero((lists >= first) & (lists < last))
            local = (lists[row, column] - first).astype(np.int32)
            found = join_lists(vectors, row.astype(np.int32), local, index.lists[first:last], self.search)
            pairs = compared_pairs(local, self.search)
        self.write(f"compared/{cell}", pairs=np.array([pairs]))
        part = self._part_of_cell()[home]
        ragged = found.ragged()
        yield from found_by(part, faces, Ragged(ragged.start, faces[ragged.index], ragged.cosine), part[ragged.index])

    def unite(self, part: int, blocks: list[bytes]) -> Iterator[Block]:
        """The best neighbours of each face of a part, from all its cells of this wave and of those before."""
        if self.wave:
            with suppress(FileNotFoundError):  # no cell of an earlier wave had anything for this part
                blocks = [self.store.read(f"found/{part}"), *blocks]
        found, near_part = united(blocks, self.search.k)
        _write_found(self, f"found/{part}", found, near_part)
        seen = Similarities.of(found.near)
        yield part, pack(every=seen.every, best=seen.best)

    # ---- deep: faces with hardly any neighbour are compared with whole cells

    def call(self, part: int) -> Iterator[Block]:
        """Send the faces of a part that have few neighbours to their nearest cells."""
        found, _ = _read_found(self, f"found/{part}")
        alone = with_few_neighbours(found, self.facts.cuts.graph_cut, least=4)
        nothing = np.zeros(0, np.int32), np.zeros((0, self.dim), np.float16)
        yield 0, pack(faces=nothing[0], vectors=nothing[1], part=np.array([part], np.int32))
        if not self.deep_cells:
            return
        faces, vectors = self._vectors(part)
        half = vectors[np.searchsorted(faces, found.faces[alone])]
        cells = nearest(half.astype(np.float32), self.shared("cell-map")["cells"], self.deep_cells)
        row = np.repeat(np.arange(len(half)), cells.shape[1])
        asked = np.full(len(row), part, np.int32)
        yield from by_key(cells.ravel(), faces=found.faces[alone][row], vectors=half[row], part=asked)

    def answer(self, cell: int, blocks: list[bytes]) -> Iterator[Block]:
        """The neighbours of asking faces among all faces at home in a cell."""
        parts = sorted({int(p) for block in blocks for p in unpack(block)["part"]})
        asking = [block for block in blocks if len(unpack(block)["faces"])]
        for part in parts:
            yield part, pack_found(np.zeros(0, np.int32), Ragged(np.zeros(1, np.int64), *NO_PAIRS), NO_PARTS)
        if not asking or not self._has(cell):
            return
        held, home = gather(asking), self.read(f"cells/{cell}")
        floor = self.facts.cuts.deep_floor
        found = fold_queries(held["faces"], held["vectors"], home["faces"], home["vectors"], self.search.k, floor)
        here = np.full(len(found.near.index), self._part_of_cell()[cell], np.uint16)
        yield from found_by(held["part"], found.faces, found.near, here)

    def merge(self, part: int, blocks: list[bytes]) -> Iterator[Block]:
        """The final neighbours of a part's faces; each pair also to the part of its other side."""
        found, near_part = _read_found(self, f"found/{part}")
        found, near_part = united([pack_found(found.faces, found.near, near_part), *blocks], self.search.k)
        _write_found(self, f"edges/{part}", found, near_part)
        yield part, pack(**pairs_of(*NO_MIRROR))
        yield from by_key(near_part, **pairs_of(*mirrored(found)))

    def mirror(self, part: int, blocks: list[bytes]) -> Iterator[Block]:
        """Keep the pairs of a part's faces as others see them."""
        held = [unpack(block) for block in blocks]
        columns = (np.concatenate([item[name] for item in held]) for name in ("here", "other", "cosine"))
        self.write(f"reverse/{part}", **pairs_of(*ordered(*columns)))
        yield part, b""

    # ---- groups

    def local(self, part: int) -> Iterator[Block]:
        """The graph of a part, and groups inside it."""
        found, _ = _read_found(self, f"edges/{part}")
        seen = self.read(f"reverse/{part}")
        block = graph_block(found, seen["other"], seen["here"], seen["cosine"], self.facts)
        self.write(f"graph/{part}", nodes=block.nodes, start=block.start, target=block.target, weight=block.weight)
        inner = block.inner()
        labels = map_equation(len(inner.nodes), [inner], self.search.seed, rounds=2)
        self.write(f"local/{part}", faces=found.faces, labels=labels)
        yield part, pack(edges=np.array([len(block.target)]))

    def loose(self, part: int) -> Iterator[Block]:
        """The faces of groups to divide (labels' `row` >= 0), to the tasks that divide them."""
        faces, vectors = self._vectors(part)
        held = self.shared(self.labels)
        row = held["row"][held["labels"][faces]]
        here = row >= 0
        yield from by_key(row[here] % self.tasks, faces=faces[here], vectors=vectors[here], row=row[here])

    def divide(self, task: int, blocks: list[bytes]) -> Iterator[Block]:
        """Parts of the groups of a task, numbered from 0 over all of them."""
        held = gather(blocks)
        labels, count = np.empty(len(held["faces"]), np.int32), 0
        for group in np.unique(held["row"]):
            here = held["row"] == group
            vectors = held["vectors"][here].astype(np.float32)
            labels[here] = divided_group(vectors, self.facts.cuts.edge) + count
            count = int(labels[here].max()) + 1
        yield task, pack(faces=held["faces"], labels=labels)

    def pairs(self, part: int) -> Iterator[Block]:
        """Pairs of groups with an edge in this part."""
        found, _ = _read_found(self, f"edges/{part}")
        pairs = group_pairs(found, self.shared(self.labels)["labels"], self.facts)
        yield part, pack(low=pairs.low, high=pairs.high, cosine=pairs.cosine)

    def add(self, part: int) -> Iterator[Block]:
        """A part's share of the sums of wanted groups (labels' `row` >= 0), to the chunks where they belong."""
        faces, vectors = self._vectors(part)
        held = self.shared(self.labels)
        row = held["row"][held["labels"][faces]]
        wanted = np.unique(row[row >= 0])
        sums = np.zeros((len(wanted), self.dim), np.float32)
        for start in range(0, len(faces), _ROWS):
            mine = row[start : start + _ROWS]
            place = np.where(mine >= 0, np.searchsorted(wanted, mine), -1).astype(np.int32)
            add_sums(vectors[start : start + _ROWS].astype(np.float32), place, sums)
        asked = np.full(len(wanted), part, np.int32)
        yield from by_key(wanted // CHUNK, rows=wanted.astype(np.int32), sums=sums, part=asked)

    def total(self, chunk: int, blocks: list[bytes]) -> Iterator[Block]:
        """The sums of one chunk of groups, added in the order of the parts."""
        held = sorted((unpack(block) for block in blocks), key=lambda item: int(item["part"][0]))
        sums = np.zeros((CHUNK, self.dim), np.float32)
        for item in held:
            sums[item["rows"] % CHUNK] += item["sums"]
        self.write(f"sums/{chunk}", sums=sums)
        yield chunk, b""

    def settle(self, part: int) -> Iterator[Block]:
        """New labels of a part's faces that are alone or sit in the wrong group."""
        found, _ = _read_found(self, f"edges/{part}")
        faces, vectors = self._vectors(part)
        held = self.shared(self.labels)
        labels, known = held["labels"], self.facts
        near = np.unique(np.concatenate([labels[found.faces], labels[found.near.index]]))
        place = np.full(len(held["row"]), -1, np.int32)
        place[near] = np.arange(len(near))
        sums = self._sums(held["row"][near])
        out = np.empty(len(faces), np.int32)
        start = found.near.start
        for first in range(0, len(faces), _ROWS):
            last = min(first + _ROWS, len(faces))
            mine = place[labels[found.faces[first:last]]]
            around = place[labels[found.near.index[start[first] : start[last]]]]
            out[first:last] = near[
                settle(
                    vectors[first:last].astype(np.float32), mine, start[first : last + 1] - start[first], around,
                    sums, held["size"][near], known.cuts,
                )
            ]  # fmt: skip
        moved = out != labels[faces]
        yield part, pack(faces=faces[moved], labels=out[moved])

    def leftovers(self, part: int) -> Iterator[Block]:
        """Pairs of faces of this part that no group took."""
        found, _ = _read_found(self, f"edges/{part}")
        held = self.shared(self.labels)
        a, b, value = leftover_pairs(found, held["size"][held["labels"]] == 1, self.facts)
        yield part, pack(a=a, b=b, value=value)

    def scores(self, part: int) -> Iterator[Block]:
        """Cosine of each of a part's faces to the centroid of its group."""
        faces, vectors = self._vectors(part)
        held = self.shared(self.labels)
        labels = held["labels"][faces]
        near, place = np.unique(labels, return_inverse=True)
        sums = unit_rows(self._sums(held["row"][near]), least=1e-9)
        score = np.ones(len(faces), np.float32)
        for first in range(0, len(faces), _ROWS):
            mine = slice(first, first + _ROWS)
            score[mine] = np.einsum("ij,ij->i", vectors[mine].astype(np.float32), sums[place[mine]])
        score[held["size"][labels] == 1] = 1
        yield part, pack(faces=faces, score=np.clip(score, -1, 1))

    def _has(self, cell: int) -> bool:
        return bool(self.shared("sizes")["cell"][cell])

    def _vectors(self, part: int) -> tuple[I32, F16]:
        """The faces at home in a part, ascending, and their vectors."""
        sizes = self.shared("sizes")["cell"]
        cells = np.flatnonzero((self._part_of_cell() == part) & (sizes > 0))
        held = [self.read(f"cells/{cell}") for cell in cells]
        if not held:
            return np.zeros(0, np.int32), np.zeros((0, self.dim), np.float16)
        faces = np.concatenate([item["faces"] for item in held])
        order = np.argsort(faces, kind="stable")
        return faces[order], np.concatenate([item["vectors"] for item in held])[order]

    def _sums(self, row: I32) -> F32:
        """Sums of groups by their row; zero where the row is below 0."""
        out = np.zeros((len(row), self.dim), np.float32)
        for chunk in np.unique(row[row >= 0] // CHUNK):
            mine = np.flatnonzero((row >= 0) & (row // CHUNK == chunk))
            out[mine] = self.read(f"sums/{chunk}")["sums"][row[mine] % CHUNK]
        return out


def _write_found(work: Work, key: str, found: Found, near_part: np.ndarray) -> None:
    work.store.write(key, pack_found(found.faces, found.near, near_part))


def _read_found(work: Work, key: str) -> tuple[Found, np.ndarray]:
    return unpack_found(work.read(key))
