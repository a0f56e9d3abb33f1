"""The command `bench match`: 1:N search of the matcher's client compared with a FAISS flat index over the same
vectors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from facelake.contracts import F32
from facelake.matcher import Gallery
from facelake.vectors import unit_rows

_MODEL = "0" * 64


def compare_search(identities: int, dim: int, probes: int, k: int, rounds: int) -> dict[str, Any]:
    """Queries per second of both, medians over rounds measured in turns, and whether their results agree.

    The client's figure includes its checks of lease and model, the normalisation of probes and the lookup of ids.
    """
    generator = np.random.default_rng(0)
    vectors = _unit(generator, identities, dim)
    queries = vectors[generator.integers(0, identities, probes)] + 0.5 * _unit(generator, probes, dim)
    queries = unit_rows(queries)
    flat = faiss.IndexFlatIP(dim)
    flat.add(vectors)
    gallery = _gallery(vectors, flat)
    same = _alike(gallery, flat, queries[:256], k)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        ours.append(_seconds(lambda: gallery.search(queries, _MODEL, k)))
        theirs.append(_seconds(lambda: flat.search(queries, k)))
    figures = {"client_per_s": probes / median(ours), "faiss_per_s": probes / median(theirs)}
    ratio = round(median(b / a for a, b in zip(ours, theirs, strict=True)), 3)
    shape = {"identities": identities, "dim": dim, "probes": probes, "k": k, "rounds": rounds}
    return shape | {name: round(rate, 1) for name, rate in figures.items()} | {"ratio": ratio, "same_answers": same}


def _gallery(vectors: F32, flat: faiss.Index) -> Gallery:
    count, dim = vectors.shape
    manifest = {
        "gallery_version": 1,
        "model_digest": _MODEL,
        "purpose": "bench",
        "lease_id": "bench",
        "expires_at": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
        "template_key": None,
        "thresholds": [],
    }
    prototypes = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
    names = pa.array([f"id-{i:08d}" for i in range(count)])
    rows = {"identity_id": names, "prototype": prototypes, "exemplars": pa.nulls(count, pa.list_(pa.binary()))}
    return Gallery(manifest, pa.table(rows), flat, None, None)


def _alike(gallery: Gallery, flat: faiss.Index, probes: F32, k: int) -> bool:
    matches = gallery.search(probes, _MODEL, k)
    similarity, index = flat.search(probes, k)
    names = [[f"id-{i:08d}" for i in row] for row in index.tolist()]
    return names == matches.identity_ids and bool(np.allclose(similarity, matches.similarity, atol=1e-6))


def _unit(generator: np.random.Generator, count: int, dim: int) -> F32:
    return unit_rows(generator.standard_normal((count, dim), np.float32))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
