"""bench push: what a first push and a push of changes take, beside the bulk loader of the database's own client.

Both write the same rows of the same synthetic gallery, with all columns; the loader gets them from memory, the push
reads them from the lake, checks the ledger, records, audits, and proves the number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from facelake.bench.loaders import load
from facelake.bench.synthetic_lake import Population, add_faces, write_groups
from facelake.config import Config
from facelake.contracts import F32
from facelake.events import Listener
from facelake.nightly import writing
from facelake.stages.core.context import Context
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.publish import publish
from facelake.stages.gallery.versions import require_gallery
from facelake.stages.sharing.changes import Outgoing
from facelake.stages.sharing.push import PushTerms, push
from facelake.targets import Location, Target, TargetRows, open_target

_PROBES = 50
_REACHED = 0.632  # share of the identities that as many faces reach, drawn at random


def bench_push(config: Config, url: str, identities: int, dim: int, emit: Listener) -> dict[str, Any]:
    """Make a lake of identities with one face each unless there is one, load and push it; both tables are new.

    Returns:
        `load_s`, `push_s`, their `ratio`, `per_s` (identities per second of the push), `unchanged_s` (a push without
        changes), and `top_1_equal`: of some probes, how many have the same nearest identity as in a FAISS flat index.
    """
    location = Location.parse(url)
    with writing(config, "bench", emit) as context:
        if context.lake["faces"].version() < 0:
            context.lake.mark_as_demo()
            population = Population(round(identities / _REACHED), dim, 1)
            faces = round(identities / _REACHED)
            add_faces(context, population, 0, faces)
            write_groups(context, population, faces)
            publish(context)
        names, templates = _templates(context)
        load_s = load(location, _rows(context, names, templates))
        push_s, copied = _timed(lambda: push(context, PushTerms(url, "bench", config.purpose)))
        unchanged_s, _ = _timed(lambda: push(context, PushTerms(url)))
    with open_target(location) as target:
        equal = _equal(target, names, templates)
    return {
        "target": location.scheme,
        "identities": copied["after"],
        "dim": templates.shape[1],
        "load_s": round(load_s, 2),
        "push_s": round(push_s, 2),
        "ratio": round(load_s / push_s, 3),
        "per_s": round(copied["after"] / push_s, 1),
        "unchanged_s": round(unchanged_s, 2),
        "probes": _PROBES,
        "top_1_equal": equal,
    }


def _timed(work: Callable[[], dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _templates(context: Context) -> tuple[list[str], F32]:
    parts = list(Outgoing.of(context.lake, None, context.now).parts(["identity_id", "prototype"]))
    rows = pa.concat_tables(parts)
    return rows["identity_id"].to_pylist(), matrix_of(rows["prototype"], len(rows["prototype"][0]))


def _rows(context: Context, names: list[str], templates: F32) -> TargetRows:
    """Return the rows of the push, with tags of the same lengths."""
    digest = str(require_gallery(context.lake).row["model_digest"])
    tags = {"lease_id": "lease-0123456789ab", "purpose": context.config.purpose}
    tags |= {"expires_at": "2027-01-01T00:00:00.123456+00:00", "model_digest": digest}
    return TargetRows(names, templates, np.ones(len(names), np.int64), tags)


def _equal(target: Target, names: list[str], templates: F32) -> int:
    generator = np.random.default_rng(0)
    chosen = generator.integers(0, len(names), _PROBES)
    probes = templates[chosen] + 0.5 * generator.standard_normal((_PROBES, templates.shape[1])).astype(np.float32) / (
        np.sqrt(templates.shape[1])
    )
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    flat = faiss.IndexFlatIP(templates.shape[1])
    flat.add(templates)
    wanted = [names[i] for i in flat.search(probes, 1)[1][:, 0].tolist()]
    return sum(target.search(probe, 1)[0][0] == name for probe, name in zip(probes, wanted, strict=True))
