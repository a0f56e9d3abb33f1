"""The steps of clustering. Each leaves its results in the work store, so that a killed run resumes.

    scan      keys, quality, content hash of every row; exact duplicates collapse, invalid vectors are set aside
    sample    similarities of different people; effects of low quality
    index     cells and lists
    join      neighbours inside lists; from them the similarity of faces of one person
    deep      faces with few neighbours are compared with whole cells
    local     edges, and groups inside each part
    groups    groups of the whole
    link      groups of one person are joined
    settle    singletons are attached, misplaced faces moved, remaining singletons grouped
    bound     groups whose faces are not similar enough on the mean are divided

The driver holds numbers per face, never vectors or edges: about 60 bytes per face at the most (docs/clustering.md).
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from facelake.cluster import columns
from facelake.cluster.array_codec import pack, unpack
from facelake.cluster.bounding import BOUND, LEAST_FACES, MOST_FACES, mean_similarity
from facelake.cluster.calibrate import Calibration, Prior, Similarities, calibrate, with_level
from facelake.cluster.edges import Known, leftover_graph
from facelake.cluster.labels import canonical
from facelake.cluster.linkage import Pairs, join_groups
from facelake.cluster.lists import cells_of
from facelake.cluster.mapequation import map_equation
from facelake.cluster.mode_merging import connected, mode_pairs
from facelake.cluster.neighbours import Search
from facelake.cluster.nuisance import nuisance_directions, without
from facelake.cluster.quality_norm import Gate, bin_bounds, make_gate
from facelake.config import ClusterSection
from facelake.contracts import F32, I32, I64, U8
from facelake.engines.exchange import Exchange
from facelake.errors import Corrupt
from facelake.lake.object_store import ObjectStore
from facelake.stages.clustering.result import Clustered, StoredGraph, number_rows
from facelake.stages.clustering.tasks import CHUNK, Work

STEPS = ("scan", "sample", "index", "join", "deep", "local", "groups", "link", "settle", "bound")
_SAMPLE = 100_000
_TRAIN_PER_LIST = 20
_FACES_PER_PART, _LEAST_PARTS = 100_000, 8
Say = Callable[[str, bool], None]
"""told of each step when it begins (False) and when it is done (True)"""


@dataclass(slots=True)
class Steps:
    """One clustering over one work store; `work.run` names the input and settings."""

    work: Work
    exchange: Exchange
    settings: ClusterSection
    prior: Prior
    say: Say
    scratch_bytes: float = math.inf
    """of vectors that workers may hand each other at once"""
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def store(self) -> ObjectStore:
        """The work store."""
        return self.work.store

    def run(self) -> Clustered:
        """All steps, those that are done already from what they left."""
        self._forget_other_state()
        rows_ = self._step("scan", self._scan)
        self.work = replace(self.work, faces=int(rows_["faces"][0]))
        faces = self.work.faces
        if not faces:
            return self._result(rows_, np.zeros(0, np.int32))
        bins = self._sampled()
        self._step("index", self._index)
        self._joined(bins)
        self._step("deep", self._deep)
        self._step("local", self._local)
        self._step("groups", self._groups)
        self._step("link", self._link)
        self._step("settle", self._settle)
        labels = self._step("bound", self._bound)["labels"]
        return self._result(rows_, labels)

    def keep_measures(self, store: ObjectStore, key: str) -> None:
        """Copy what was measured of the corpus to where it outlives the work store."""
        if self.work.known:
            gate = self.work.known.gate
            directions = self.work.read("nuisance")["directions"]
            store.write(key, pack(directions=directions, bounds=gate.bounds, inflation=gate.inflation))

    def clear(self) -> None:
        """Drop all that the steps left; the state first: what is half dropped is not taken for something done."""
        self.store.delete("state")
        for item in list(self.store.list("")):
            self.store.delete(item.key)

    # ---- bookkeeping

    def _forget_other_state(self) -> None:
        try:
            if self.store.read("state").decode() == self.work.run:
                return
        except FileNotFoundError:
            pass
        self.clear()
        self.store.write("state", self.work.run.encode())

    def _step(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        try:
            done = unpack(self.store.read(f"done/{name}"))
            kept = json.loads(self.store.read(f"done/{name}.json"))
            self.figures[name], self.notes = kept["figures"], kept["notes"]
            self.say(name, True)
            return done
        except FileNotFoundError:
            pass
        self.say(name, False)
        began = time.monotonic()
        made = make()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.figures[name] = {"seconds": round(time.monotonic() - began, 3), "driver_peak_bytes": peak}
        kept = {"figures": self.figures[name], "notes": self.notes}
        self.store.write(f"done/{name}.json", json.dumps(kept).encode())
        self.store.write(f"done/{name}", pack(**made))
        self.say(name, True)
        return made

    def _done(self, name: str) -> dict[str, np.ndarray]:
        return unpack(self.store.read(f"done/{name}"))

    def _parts(self) -> range:
        return range(int(self._done("index")["parts"][0]))

    # ---- scan

    def _scan(self) -> dict[str, np.ndarray]:
        files = range(len(self.work.source))
        self.exchange.run(files, self.work.scan)
        scans = [self.work.read(f"scan/{item}") for item in files]
        names = ("key", "content", "state", "quality", "photo")
        keys, content, state, quality, photo = (np.concatenate([scan[name] for scan in scans]) for name in names)
        order = np.argsort(keys, kind="stable")
        if len(keys) and (keys[order][1:] == keys[order][:-1]).any():
            raise Corrupt("two rows share a face id", where="the faces to cluster", next_step="remove the doubled rows")
        number, first = number_rows(order, content, state)
        ends = np.cumsum([len(scan["key"]) for scan in scans])[:-1]
        for item, (mine, leads) in enumerate(zip(np.split(number, ends), np.split(first, ends), strict=True)):
            self.work.write(f"rows/{item}", number=np.where(leads, mine, -1).astype(np.int32), group=mine)
        faces = int(first.sum())
        by_number = np.flatnonzero(first)[np.argsort(number[first], kind="stable")]
        states = np.bincount(state, minlength=len(columns.State))
        return {
            "faces": np.array([faces]),
            "states": states,
            "quality": quality[by_number],
            "photo": photo[by_number],
        }

    # ---- sample

    def _sampled(self) -> U8:
        held = self._step("sample", self._sample)
        gate = Gate(held["bounds"], held["inflation"])
        cuts = Calibration(**self.notes["calibration"])
        bins = gate.bins(self._done("scan")["quality"])
        self.work = replace(self.work, known=Known(bins, gate, cuts), search=self._search(cuts))
        return bins

    def _search(self, cuts: Calibration) -> Search:
        s = self.settings
        return Search(s.neighbours, cuts.floor, s.probes, s.list_size, s.exact_below, s.seed)

    def _sample(self) -> dict[str, np.ndarray]:
        scan, seed = self._done("scan"), self.settings.seed
        faces = self.work.faces
        chosen = columns.chosen(scan["photo"], seed, _SAMPLE / faces)  # whole photos: their faces are impostors
        self.work.write("sample-faces", chosen=chosen.astype(np.uint8))
        self.exchange.run(range(len(self.work.source)), self.work.sample)
        vectors, numbers = self._sample_vectors()
        quality, photos = scan["quality"][numbers], scan["photo"][numbers]
        bounds = bin_bounds(scan["quality"])
        directions, text = nuisance_directions(vectors, quality)
        self.work.write("nuisance", directions=directions)
        vectors = without(vectors, directions)
        gate = make_gate(vectors, quality, bounds, seed)
        cuts = calibrate(vectors, photos, faces, self.prior, seed, self.settings.threshold)
        self.notes |= {"nuisance": text, "gate": gate.manifest(), "calibration": _numbers(cuts)}
        return {"bounds": bounds, "inflation": gate.inflation}

    def _sample_vectors(self) -> tuple[F32, I32]:
        held = [self.work.read(item.key) for item in self.store.list("sample/")]
        numbers = np.concatenate([item["faces"] for item in held])
        order = np.argsort(numbers, kind="stable")
        return np.concatenate([item["vectors"] for item in held])[order].astype(np.float32), numbers[order]

    # ---- index

    def _index(self) -> dict[str, np.ndarray]:
        vectors, _ = self._sample_vectors()
        vectors = without(vectors, self.work.read("nuisance")["directions"])
        faces, settings = self.work.faces, self.settings
        if faces <= settings.exact_below:
            one = vectors[:1]
            return self._write_index(one, one, np.ones(1, np.int64), np.ones(1))
        cells = cells_of(vectors, faces, settings.seed)
        self.work.write("cell-centroids", cells=cells)
        self.work = replace(self.work, train_share=min(1.0, _TRAIN_PER_LIST / settings.list_size))
        files = range(len(self.work.source))
        trained = sorted(
            key for key, _ in self.exchange.run(files, self.work.train, self.work.make_lists, keys=len(cells))
        )
        held = [self.work.read(f"lists/{cell}") for cell in trained]
        columns = (np.concatenate([item[name] for item in held]) for name in ("cells", "lists", "count", "weight"))
        return self._write_index(*columns)

    def _write_index(self, cells: F32, lists: F32, count: I64, weight: np.ndarray) -> dict[str, np.ndarray]:
        first = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        parts = max(-(-self.work.faces // _FACES_PER_PART), min(_LEAST_PARTS, len(cells)))
        before = (np.cumsum(weight) - weight) / weight.sum()
        part = np.minimum((before * parts).astype(np.int32), parts - 1)
        part = canonical(part)
        self.work.write("all-lists", lists=lists, first=first)
        self.work.write("cell-map", cells=cells, part=part)
        return {"cells": np.array([len(cells)]), "lists": np.array([first[-1]]), "parts": np.array([part.max() + 1])}

    # ---- neighbours

    def _joined(self, bins: U8) -> None:
        held = self._step("join", self._join)
        seen = Similarities(held["every"], held["best"])
        cuts = with_level(Calibration(**self.notes["calibration"]), seen, self.work.faces)
        self.notes["calibration"] = _numbers(cuts)
        self.work = replace(self.work, known=Known(bins, self.work.facts.gate, cuts))

    def _join(self) -> dict[str, np.ndarray]:
        work, cells = self.work, int(self._done("index")["cells"][0])
        seen: dict[int, dict[str, np.ndarray]] = {}  # of each part, as of the last wave that had something for it
        for wave in range(waves := self._waves(cells)):
            seen |= self._join_wave(replace(work, wave=wave, waves=waves), cells)
        there = np.zeros(cells, np.uint8)
        there[[int(item.key.rpartition("/")[2]) for item in self.store.list("cells/")]] = 1
        work.write("sizes", cell=there)
        pairs = sum(int(work.read(item.key)["pairs"][0]) for item in self.store.list("compared/"))
        return {name: np.sum([item[name] for item in seen.values()], axis=0) for name in ("every", "best")} | {
            "pairs": np.array([pairs])
        }

    def _waves(self, cells: int) -> int:
        """In how many turns cells are joined: a face goes to nearly as many as it has lists, where there are many."""
        draws = min(self.settings.probes, cells)
        sent_bytes = 2.0 * self.work.dim * self.work.faces * draws
        return min(cells, max(1, math.ceil(sent_bytes / self.scratch_bytes)))

    def _join_wave(self, work: Work, cells: int) -> dict[int, dict[str, np.ndarray]]:
        """What the parts' faces score with their neighbours so far; a wave that is done is not done again."""
        name = f"waves/{work.wave}-of-{work.waves}"
        with suppress(FileNotFoundError):
            return _by_part(work.read(name))
        keys = -(-cells // work.waves)
        seen = sorted(self.exchange.run(range(len(work.source)), work.spread, work.join, work.unite, keys=keys))
        held = [unpack(body) for _, body in seen]
        counts = {name: np.stack([item[name] for item in held]) for name in ("every", "best")} if held else {}
        work.write(name, part=np.array([part for part, _ in seen], np.int64), **counts)
        return _by_part(work.read(name))

    def _deep(self) -> dict[str, np.ndarray]:
        cells = int(self._done("index")["cells"][0])
        exact = self.work.faces <= self.settings.exact_below
        work = self.work = replace(self.work, deep_cells=0 if exact else self.settings.deep_cells)
        self.exchange.run(self._parts(), work.call, work.answer, work.merge, work.mirror, keys=cells)
        return {}

    # ---- groups

    def _local(self) -> dict[str, np.ndarray]:
        found = self.exchange.run(self._parts(), self.work.local)
        return {"edges": np.array([sum(int(unpack(body)["edges"][0]) for _, body in found)])}

    def _groups(self) -> dict[str, np.ndarray]:
        faces = self.work.faces
        labels, part_of_face, count = np.zeros(faces, np.int32), np.zeros(faces, np.int32), 0
        for part in self._parts():
            held = self.work.read(f"local/{part}")
            labels[held["faces"]] = held["labels"] + count
            part_of_face[held["faces"]] = part
            count += int(held["labels"].max(initial=-1)) + 1
        labels = map_equation(faces, StoredGraph(self.work, len(self._parts())), self.settings.seed, initial=labels)
        return {"labels": labels, "part": part_of_face}

    def _bound(self) -> dict[str, np.ndarray]:
        labels, part = self._done("settle")["labels"], self._done("groups")["part"]
        loose = self._loose_groups(labels, part)
        out, count = labels.astype(np.int64), len(labels)
        if len(loose):
            self._share("loose", labels, part, loose)
            keys = min(len(loose), len(self._parts()))
            work = replace(self.work, tasks=keys)
            for _, body in sorted(self.exchange.run(self._parts(), work.loose, work.divide, keys=keys)):
                moved = unpack(body)
                out[moved["faces"]] = moved["labels"].astype(np.int64) + count
                count += int(moved["labels"].max()) + 1
        return {"labels": canonical(out), "divided": np.array([len(loose)])}

    def _loose_groups(self, labels: I32, part: I32) -> I32:
        """The groups whose faces are not similar enough on the mean, without those too large to divide."""
        wanted = np.flatnonzero(np.bincount(labels) >= LEAST_FACES).astype(np.int32)
        if not len(wanted):
            return wanted
        row, size = self._sum_up("bound-sums", labels, part, wanted)
        loose = [
            groups[mean_similarity(sums, size[groups]) < BOUND * self.work.facts.cuts.edge]
            for groups, sums in self._sums_of(row, wanted)
        ]
        found = np.sort(np.concatenate(loose))
        small = size[found] <= MOST_FACES
        self.notes["divided"] = f"{small.sum()} groups below the mean similarity divided, {(~small).sum()} too large"
        return np.asarray(found[small], np.int32)

    def _link(self) -> dict[str, np.ndarray]:
        held = self._done("groups")
        labels = held["labels"]
        self._share("linked", labels, held["part"], np.zeros(0, np.int32))
        found = [unpack(body) for _, body in self.exchange.run(self._parts(), self.work.pairs)]
        pairs = Pairs.of(*(np.concatenate([item[name] for item in found]) for name in ("low", "high", "cosine")))
        wanted = np.unique(np.concatenate([pairs.low, pairs.high]))
        if not len(wanted):
            return {"labels": labels, "pairs": np.array([0])}
        row, size = self._sum_up("link-sums", labels, held["part"], wanted)
        joined = self._joined_groups(pairs, row, wanted, size)
        return {"labels": canonical(joined[labels]), "pairs": np.array([len(pairs.low)])}

    def _joined_groups(self, pairs: Pairs, row: I32, wanted: I32, size: I64) -> I32:
        """The group (groups,) that each is part of, numbered by one of its members."""
        sums, by_row = np.empty((len(wanted), self.work.dim), np.float32), np.empty(len(wanted), np.int32)
        for groups, part in self._sums_of(row, wanted):
            here = slice(row[groups[0]], row[groups[0]] + len(groups))
            sums[here], by_row[here] = part, groups
        at = Pairs(row[pairs.low], row[pairs.high], pairs.cosine)
        number, root = join_groups(sums, size[by_row], at, self.work.facts.cuts)
        faces = np.bincount(number, size[by_row], len(root)).astype(np.int64)
        number = self._with_modes(sums[root], faces, at, number)
        lowest = np.full(len(wanted), np.iinfo(np.int32).max, np.int32)
        np.minimum.at(lowest, number, by_row)
        out = np.arange(len(size), dtype=np.int32)
        out[by_row] = lowest[number]
        return out

    def _with_modes(self, sums: F32, faces: I64, pairs: Pairs, number: I32) -> I32:
        """Groups joined further where two are modes of one person; sums and faces are those of joined groups."""
        low, high = number[pairs.low], number[pairs.high]
        across = low != high
        low, high = np.minimum(low, high)[across], np.maximum(low, high)[across]
        open_ = Pairs.of(low, high, pairs.cosine[across])
        a, b, text = mode_pairs(sums, faces, open_, self.work.facts.cuts, self.settings.seed)
        self.notes["modes"] = text
        return connected(len(faces), a, b)[number]

    def _settle(self) -> dict[str, np.ndarray]:
        held = self._done("groups")
        labels, part = self._done("link")["labels"].copy(), held["part"]
        size = np.bincount(labels)
        self._sum_up("settle-sums", labels, part, np.flatnonzero(size >= 2).astype(np.int32))
        for _, body in sorted(self.exchange.run(self._parts(), self.work.settle)):
            moved = unpack(body)
            labels[moved["faces"]] = moved["labels"]
        labels = canonical(labels)
        self._share("settled", labels, part, np.zeros(0, np.int32))
        pairs = [unpack(body) for _, body in sorted(self.exchange.run(self._parts(), self.work.leftovers))]
        return {"labels": self._group_leftovers(labels, pairs)}

    def _group_leftovers(self, labels: I32, pairs: list[dict[str, np.ndarray]]) -> I32:
        a, b, value = (np.concatenate([item[name] for item in pairs]) for name in ("a", "b", "value"))
        faces = np.unique(np.concatenate([a, b]))
        at, to = (np.searchsorted(faces, side).astype(np.int32) for side in (a, b))
        graph = leftover_graph(len(faces), at, to, value, self.work.facts.cuts)
        out = labels.astype(np.int64)
        out[faces] = len(labels) + map_equation(len(faces), [graph], self.settings.seed)
        return canonical(out)

    def _share(self, name: str, labels: I32, part: I32, wanted: I32) -> tuple[I32, I64]:
        """Put labels where tasks read them; wanted groups get rows of sums, near ones near each other."""
        size = np.bincount(labels).astype(np.int64)
        row = np.full(len(size), -1, np.int32)
        if len(wanted):
            home = np.empty(len(size), np.int32)
            home[labels[::-1]] = part[::-1]  # of its first face
            row[wanted[np.argsort(home[wanted], kind="stable")]] = np.arange(len(wanted))
        self.work = replace(self.work, labels=f"labels/{name}")
        self.work.write(self.work.labels, labels=labels, row=row, size=size.astype(np.int32))
        return row, size

    def _sum_up(self, name: str, labels: I32, part: I32, wanted: I32) -> tuple[I32, I64]:
        row, size = self._share(name, labels, part, wanted)
        for item in list(self.store.list("sums/")):
            self.store.delete(item.key)
        self.exchange.run(self._parts(), self.work.add, self.work.total, keys=len(self._parts()))
        return row, size

    def _sums_of(self, row: I32, wanted: I32) -> Iterator[tuple[I32, F32]]:
        """Yield groups (n,) in the order of their rows, and their sums (n, dim), a file at a time.

        Args:
            row: (groups,) as `_sum_up` returns it.
            wanted: the groups that have a row.
        """
        by_row = np.empty(len(wanted), np.int32)
        by_row[row[wanted]] = wanted
        for first in range(0, len(wanted), CHUNK):
            groups = by_row[first : first + CHUNK]
            yield groups, self.work.read(f"sums/{first // CHUNK}")["sums"][: len(groups)]

    def scores(self, labels: I32) -> F32:
        """Cosine (faces,) of each face to the centroid of its group; the last thing asked of the work store."""
        part, size = self._done("groups")["part"], np.bincount(labels)
        self._sum_up("final", labels, part, np.flatnonzero(size >= 2).astype(np.int32))
        out = np.ones(len(labels), np.float32)
        for _, body in self.exchange.run(self._parts(), self.work.scores):
            held = unpack(body)
            out[held["faces"]] = held["score"]
        return out

    def _result(self, scan: dict[str, np.ndarray], labels: I32) -> Clustered:
        number = [self.work.read(f"rows/{item}")["group"] for item in range(len(self.work.source))]
        states = {state.name.lower(): int(count) for state, count in zip(columns.State, scan["states"], strict=True)}
        sound = sum(int((item >= 0).sum()) for item in number)
        manifest = dict(self.notes)
        if self.work.known:
            manifest["calibration"] = self.work.facts.cuts.manifest()
        edges = int(self._done("local")["edges"][0]) if len(labels) else 0
        compared = int(self._done("join")["pairs"][0]) if len(labels) else 0
        return Clustered(number, labels, states, sound - len(labels), manifest, self.figures, edges, compared)


def _by_part(held: dict[str, np.ndarray]) -> dict[int, dict[str, np.ndarray]]:
    return {
        int(part): {name: held[name][i] for name in ("every", "best")} for i, part in enumerate(held["part"].tolist())
    }


def _numbers(cuts: Calibration) -> dict[str, Any]:
    return asdict(cuts)
