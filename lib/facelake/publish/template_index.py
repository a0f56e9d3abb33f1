"""Nearest templates: a flat FAISS index for few identities, binary codes for many.

Codes are the signs of a random rotation (locality-sensitive hashing, Charikar 2002; FAISS's IndexLSH). They only choose
candidates by Hamming distance: the similarities of these are then computed from the templates, so that an answer of
either index is a true cosine. How often the best identity is among the candidates is measured when the index is built.
Inverted lists served worse: templates of different people have hardly any clusters (docs/benchmarks.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np

from facelake.contracts import F32, I64
from facelake.publish.template_files import Vectors, release

FLAT_UP_TO = 100_000
"""identities up to which the index is flat: exact, .2 GB at 512 dimensions, some 400 probes per second"""
_BITS = 512
_LEAST_RECALL, _RECALL_PROBES = 0.998, 1_000
_FEWEST, _MOST = 32, 8_192  # candidates
_SAMPLE, _BLOCK, _PROBES_AT_ONCE = 65_536, 65_536, 50


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """What a manifest says of an index.

    Attributes:
        kind: flat is exact.
        candidates: identities nearest by code whose similarity is computed; 0: all.
        recall_at_1: share of probes whose most similar identity is found; measured with exemplars as probes.
        measured_on: number of those probes; 0: not measured, because the index is exact.
    """

    kind: Literal["flat", "codes"]
    candidates: int = 0
    recall_at_1: float = 1.0
    measured_on: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the facts as a mapping."""
        return asdict(self)


def flat_index(templates: F32) -> faiss.Index:
    """Return an exact index of templates (n, dim)."""
    index = faiss.IndexFlatIP(templates.shape[1])
    index.add(np.ascontiguousarray(templates))
    return index


def build_codes(vectors: Vectors, seed: int = 0) -> tuple[faiss.Index, IndexFacts]:
    """Code mapped templates: 64 bytes per identity are in memory.

    The number of candidates is doubled until enough of a sample of exemplars find what an exhaustive search finds.
    """
    count, dim = vectors.templates.shape
    index = faiss.IndexLSH(dim, _BITS, True, True)
    generator = np.random.default_rng(seed)
    index.train(_rows(vectors.templates, np.sort(generator.choice(count, min(count, _SAMPLE), False))))
    for start in range(0, count, _BLOCK):
        release(vectors.templates)
        index.add(np.ascontiguousarray(vectors.templates[start : start + _BLOCK]))
    probes = _sample_probes(vectors, generator)
    best = _exhaustive(vectors.templates, probes)
    candidates, recall = _FEWEST, 0.0
    while True:
        recall = float((_found(Codes(index, vectors.templates, candidates), probes) >= best - 1e-6).mean())
        if recall >= _LEAST_RECALL or candidates >= min(count, _MOST):
            return index, IndexFacts("codes", candidates, round(recall, 4), len(probes))
        candidates *= 2


def _rows(templates: F32, rows: I64) -> F32:
    """Return some rows (m,), ascending, of mapped templates, of which few pages stay resident."""
    parts = []
    for start in range(0, len(templates), _BLOCK):
        low, high = np.searchsorted(rows, (start, start + _BLOCK))
        parts.append(templates[rows[low:high]])
        release(templates)
    return np.concatenate(parts)


def _found(codes: Codes, probes: F32) -> F32:
    """Return the similarity (m,) of each probe to the best template that a search finds."""
    best = []
    for start in range(0, len(probes), _PROBES_AT_ONCE):
        best.append(codes.search(probes[start : start + _PROBES_AT_ONCE], 1)[0][:, 0])
        release(codes.templates)  # candidates are all over the file
    return np.concatenate(best)


def _sample_probes(vectors: Vectors, generator: np.random.Generator) -> F32:
    """Return exemplars (m, dim) of random identities, which are single faces as probes are; of one without, the
    template.
    """
    rows = np.sort(generator.choice(len(vectors.ids), min(len(vectors.ids), _RECALL_PROBES), False))
    probes = np.array(vectors.templates[rows], np.float32)
    for place, row in enumerate(rows.tolist()):
        first, last = vectors.starts[row : row + 2]
        if last > first:
            probes[place] = vectors.exemplars[generator.integers(first, last)]
    return probes


def _exhaustive(templates: F32, probes: F32) -> F32:
    """Return the similarity (m,) of each probe to its most similar template."""
    best = np.full(len(probes), -np.inf, np.float32)
    for start in range(0, len(templates), _BLOCK):
        np.maximum(best, (probes @ templates[start : start + _BLOCK].T).max(axis=1), out=best)
        release(templates)
    return best


@dataclass(frozen=True, slots=True)
class Codes:
    """Search by codes, with similarities from the templates.

    Attributes:
        index: the codes.
        templates: (n, dim) in the order of the index.
        candidates: identities nearest by code whose similarity is computed.
    """

    index: faiss.Index
    templates: F32
    candidates: int

    def search(self, probes: F32, k: int, left_out: frozenset[int] = frozenset()) -> tuple[F32, I64]:
        """Return the k most similar (similarity, row) of each probe, best first; -inf and -1 fill up.

        Args:
            probes: (m, dim) unit vectors.
            k: how many.
            left_out: rows that are not to be found.
        """
        wanted = max(self.candidates, 4 * k) + min(len(left_out), self.candidates)
        _, rows = self.index.search(probes, min(wanted, self.index.ntotal))
        if left_out:
            rows[np.isin(rows, list(left_out))] = -1
        similarity = np.full(rows.shape, -np.inf, np.float32)
        for number, found in enumerate(rows):
            known = found >= 0
            similarity[number, known] = self.templates[found[known]] @ probes[number]
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(similarity, order, 1), np.take_along_axis(rows, order, 1)


def read_index(path: Path) -> faiss.Index:
    """Read an index file whose digest was checked."""
    return faiss.read_index(str(path))


def facts_of(manifest: dict[str, Any]) -> IndexFacts:
    """Return what a manifest says of its index.

    Raises:
        ValueError: it says something else.
    """
    try:
        facts = replace(IndexFacts("flat"), **manifest["index"])
    except (KeyError, TypeError) as err:
        raise ValueError(f"index: {err}") from err
    if facts.kind not in ("flat", "codes"):
        raise ValueError(f"index: kind {facts.kind!r}")
    return facts
