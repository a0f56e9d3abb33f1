"""Full clustering: all faces, step by step. Each step keeps its result in the work store, so a killed run resumes.

    scan      keys, quality, content hash of every row; exact duplicates collapse, invalid vectors are set aside
    sample    similarities of different people; effects of poor quality
    index     coarse cells and inverted lists
    join      neighbours inside lists; from them the similarity of faces of one person
    deep      faces with few neighbours are compared with whole cells
    local     edges, and groups inside each part
    groups    groups of the whole corpus
    link      groups of one person are joined
    settle    singletons are assigned, misplaced faces moved, remaining singletons grouped
    bound     groups whose faces are not similar enough on the mean are divided
    overlap   groups that are parts of one person, in changing light or turning, are joined
    rejoin    groups of one person in another light, pose or session are joined by templates normalised within persons

What a step knows is the result of the steps before it, passed as a value; no state changes between steps. The driver
holds numbers per face, never vectors or edges: about 60 bytes per face at the most (docs/clustering.md).
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from facelake.cluster import columns
from facelake.cluster.array_codec import encode
from facelake.cluster.calibrate import Calibration, Prior, with_level
from facelake.cluster.edges import Known
from facelake.cluster.neighbours import Search
from facelake.config import ClusterSection
from facelake.contracts import F32, I32
from facelake.engines.exchange import Exchange
from facelake.lake.object_store import ObjectStore
from facelake.stages.clustering.calibration_store import StoredMeasures
from facelake.stages.clustering.result import Clustered
from facelake.stages.clustering.step_results import (
    Bounded,
    Grouped,
    Indexed,
    Joined,
    Linked,
    LocallyGrouped,
    Overlapped,
    Rejoined,
    Sampled,
    Scanned,
    SecondPass,
    Settled,
    StepCost,
)
from facelake.stages.clustering.steps.dividing import divide_groups
from facelake.stages.clustering.steps.grouping import GroupingTasks, group_corpus, group_parts
from facelake.stages.clustering.steps.index import make_index
from facelake.stages.clustering.steps.join import join_cells
from facelake.stages.clustering.steps.linking import link_groups
from facelake.stages.clustering.steps.overlapping import join_overlapping
from facelake.stages.clustering.steps.rejoining import rejoin_groups
from facelake.stages.clustering.steps.sample import measure_sample
from facelake.stages.clustering.steps.scan import scan_faces
from facelake.stages.clustering.steps.scores import scores_of
from facelake.stages.clustering.steps.second_pass import SecondPassTasks, search_again
from facelake.stages.clustering.steps.singletons import assign_singletons
from facelake.stages.clustering.stored import Nuisance, NumberedRows, Stored
from facelake.stages.clustering.work import Work

STEPS = ("scan", "sample", "index", "join", "deep", "local", "groups", "link", "settle", "bound", "overlap", "rejoin")
_STATE = "state"
_FORMAT = 1  # of the objects in the work store: those of another format are not resumed from

Done = TypeVar("Done", bound=Stored)


class Progress(Protocol):
    """Is called for each step when it begins and when it is complete."""

    def __call__(self, step: str, *, done: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class FullClustering:
    """One clustering of all faces over one work store; `work.run` names the input and settings."""

    work: Work
    exchange: Exchange
    settings: ClusterSection
    prior: Prior
    progress: Progress
    scratch_bytes: float = math.inf
    """of vectors that workers may send each other at once"""

    @property
    def store(self) -> ObjectStore:
        """The work store."""
        return self.work.store

    def run(self) -> Clustered:
        """Run all steps; those that are complete already are read from the work store.

        Raises:
            Corrupt: two rows have the same face id.
        """
        self._discard_other_state()
        work, exchange, settings = self.work, self.exchange, self.settings
        scan = self._step(Scanned, partial(scan_faces, work, exchange, settings.min_quality))
        if not scan.faces:
            return self._result(scan, np.zeros(0, np.int32), {})
        sample = self._step(Sampled, partial(measure_sample, work, exchange, settings, self.prior, scan))
        search = _search(settings, sample.calibration)
        index = self._step(Indexed, partial(make_index, work, exchange, search, scan.faces))
        join = partial(join_cells, work, exchange, search, index, faces=scan.faces, scratch_bytes=self.scratch_bytes)
        joined = self._step(Joined, join)
        cuts = with_level(sample.calibration, joined.similarities, scan.faces)
        known = Known(sample.gate.bins(scan.quality), sample.gate, cuts)
        cells = 0 if scan.faces <= search.exact_below else settings.deep_cells
        second = SecondPassTasks(work, cuts, search.k, cells)
        self._step(SecondPass, partial(search_again, exchange, second, index))
        linked, bounded, overlapped, rejoined = self._groups(index.parts, scan.faces, known)
        evidence = {"nuisance": sample.nuisance, "gate": sample.gate.manifest(), "calibration": cuts.manifest()}
        texts = {"modes": linked.modes, "divided": bounded.text, "overlapping": overlapped.text}
        texts |= {"rejoined": rejoined.text}
        return self._result(scan, rejoined.labels, evidence | {name: text for name, text in texts.items() if text})

    def _groups(self, parts: int, faces: int, known: Known) -> tuple[Linked, Bounded, Overlapped, Rejoined]:
        """Run the steps that make groups of the final neighbours."""
        work, exchange, seed = self.work, self.exchange, self.settings.seed
        tasks = GroupingTasks(work, known, seed)
        self._step(LocallyGrouped, partial(group_parts, exchange, tasks, parts))
        grouped = self._step(Grouped, partial(group_corpus, work, parts, faces, seed))
        part = grouped.part
        linked = self._step(Linked, partial(link_groups, work, exchange, parts, grouped, known, seed))
        assign = partial(assign_singletons, work, exchange, parts, linked.labels, part, known, seed=seed)
        settled = self._step(Settled, assign)
        divide = partial(divide_groups, work, exchange, parts, settled.labels, part, known.cuts)
        bounded = self._step(Bounded, divide)
        overlapped = self._step(
            Overlapped, partial(join_overlapping, work, exchange, parts, bounded.labels, part, known.cuts)
        )
        rejoin = partial(rejoin_groups, work, exchange, parts, overlapped.labels, part, known.cuts)
        return linked, bounded, overlapped, self._step(Rejoined, rejoin)

    def scores(self, labels: I32) -> F32:
        """Return the cosine (F,) of each face to the centroid of its group; only after `run`."""
        parts, part = self.work.read(Indexed).parts, self.work.read(Grouped).part
        return scores_of(self.work, self.exchange, parts, labels, part)

    def keep_measures(self, store: ObjectStore, key: str) -> None:
        """Copy what was measured of the corpus to where it outlives the work store."""
        if self.work.read(Scanned).faces:
            measures = StoredMeasures(self.work.read(Sampled).gate, self.work.read(Nuisance).directions)
            store.write(key, encode(measures))

    def clear(self) -> None:
        """Delete all results of the steps; the state first, so that what is partly deleted is not resumed from."""
        self.store.delete(_STATE)
        for item in list(self.store.list("")):
            self.store.delete(item.key)

    # ---- bookkeeping

    def _discard_other_state(self) -> None:
        state = f"{_FORMAT} {self.work.run}".encode()
        try:
            if self.store.read(_STATE) == state:
                return
        except FileNotFoundError:
            pass
        self.clear()
        self.store.write(_STATE, state)

    def _step(self, kind: type[Done], make: Callable[[], Done]) -> Done:
        """Return the result of a step: as it is in the work store, or else by running the step."""
        name = step_name(kind)
        with suppress(FileNotFoundError):
            done = self.work.read(kind)
            self.progress(name, done=True)
            return done
        self.progress(name, done=False)
        began = time.monotonic()
        done = make()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.work.write(StepCost(round(time.monotonic() - began, 3), peak), name)
        self.work.write(done)
        self.progress(name, done=True)
        return done

    def _result(self, scan: Scanned, labels: I32, manifest: dict[str, Any]) -> Clustered:
        number = [self.work.read(NumberedRows, item).group for item in self.work.files]
        states = {state.name.lower(): int(count) for state, count in zip(columns.State, scan.states, strict=True)}
        sound = sum(int((of_file >= 0).sum()) for of_file in number)
        costs = {name: self.work.read(StepCost, name) for name in STEPS if len(labels) or name == STEPS[0]}
        edges = self.work.read(LocallyGrouped).edges if len(labels) else 0
        compared = self.work.read(Joined).pairs if len(labels) else 0
        return Clustered(number, labels, states, sound - len(labels), manifest, costs, edges, compared)


def step_name(kind: type[Stored]) -> str:
    """Return the name of the step whose result is of this class."""
    return kind.PREFIX.removeprefix("done/")


def _search(settings: ClusterSection, cuts: Calibration) -> Search:
    """Return how neighbours are searched; none below the calibration's floor is of use to a later step."""
    nprobe, list_size = settings.probes, settings.list_size
    return Search(settings.neighbours, cuts.floor, nprobe, list_size, settings.exact_below, settings.seed)
