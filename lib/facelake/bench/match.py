"""The command `bench match`: 1:N search of the matcher's client compared with a FAISS flat index over the same
vectors.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np

from facelake.contracts import F32
from facelake.matcher import Gallery
from facelake.matcher.identities import identities_of
from facelake.publish.template_files import Vectors
from facelake.publish.template_index import FLAT_UP_TO, IndexFacts, flat_index, read_index
from facelake.stages.sharing.index_files import INDEX, IndexWriter
from facelake.vectors import unit_rows

_MODEL = "0" * 64
_PART = 20_000
_MANIFEST: dict[str, Any] = {
    "gallery_version": 1,
    "model_digest": _MODEL,
    "purpose": "bench",
    "lease_id": "bench",
    "expires_at": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
    "template_key": None,
    "thresholds": [],
}


def compare_search(identities: int, dim: int, probes: int, k: int, rounds: int) -> dict[str, Any]:
    """Queries per second of both, medians over rounds measured in turns, and how often their best answers agree.

    The client's figure includes its checks of lease and model, the normalisation of probes and the lookup of ids. A
    probe's cosine to its own template is .7, as of a photo that is not among the identity's faces.

    Returns:
        `client_per_s`, `faiss_per_s`, `ratio`; `best_agree`: share of probes with the same best identity; `index`: what
        the manifest says of it; `build_s`: seconds that writing the index took.
    """
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="facelake-bench-") as folder:
        vectors, build_s, facts = _export(generator, identities, dim, Path(folder))
        own = vectors.templates[np.sort(generator.integers(0, identities, probes))]
        queries = unit_rows(own + unit_rows(generator.standard_normal((probes, dim), np.float32)))
        gallery = Gallery(_MANIFEST, identities_of(vectors, read_index(Path(folder) / INDEX), facts))
        flat = flat_index(vectors.templates)
        agree = _agreement(gallery, flat, vectors.ids, queries)
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(rounds):
            ours.append(_seconds(lambda: gallery.search(queries, _MODEL, k)))
            theirs.append(_seconds(lambda: flat.search(queries, k)))
    figures = {"client_per_s": probes / median(ours), "faiss_per_s": probes / median(theirs)}
    ratio = round(median(b / a for a, b in zip(ours, theirs, strict=True)), 3)
    return {
        **{"identities": identities, "dim": dim, "probes": probes, "k": k, "rounds": rounds},
        **{name: round(rate, 1) for name, rate in figures.items()},
        **{"ratio": ratio, "best_agree": agree, "index": facts.as_json(), "build_s": round(build_s, 1)},
    }


def _export(
    generator: np.random.Generator, identities: int, dim: int, folder: Path
) -> tuple[Vectors, float, IndexFacts]:
    """Write the index files of an export of random templates; returns the vectors, mapped if they are many, and the
    seconds that the writing took.
    """
    ids = [f"id-{i:08d}" for i in range(identities)]
    writer, parts, seconds = IndexWriter(folder, identities), list[Vectors](), 0.0
    for start in range(0, identities, _PART):
        count = min(_PART, identities - start)
        templates = unit_rows(generator.standard_normal((count, dim), np.float32))
        near = unit_rows(templates + unit_rows(generator.standard_normal((count, dim), np.float32)))
        part = Vectors(ids[start : start + count], templates, near.astype(np.float16), np.arange(count + 1))
        before = time.perf_counter()
        writer.add_vectors(part)
        seconds += time.perf_counter() - before
        if identities <= FLAT_UP_TO:
            parts.append(part)
    before = time.perf_counter()
    facts, _ = writer.finish()
    seconds += time.perf_counter() - before
    return Vectors.concat(parts, dim) if parts else Vectors.mapped(folder, ids, dim), seconds, facts


def _agreement(gallery: Gallery, flat: faiss.Index, ids: Sequence[str], probes: F32) -> float:
    matches = gallery.search(probes, _MODEL)
    _, index = flat.search(probes, 1)
    same = [ids[i] == row[0] for i, row in zip(index[:, 0].tolist(), matches.identity_ids, strict=True)]
    return round(float(np.mean(same)), 4)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
