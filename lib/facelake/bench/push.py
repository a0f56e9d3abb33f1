"""bench push: what a first push and a push of changes take, beside the bulk loader of the database's own client.

Both write the same templates of the same synthetic gallery; the loader gets them from memory, the push reads them from
the lake, checks the ledger, and proves the number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from facelake.bench.synthetic_lake import Population, add_faces, write_groups
from facelake.config import Config
from facelake.contracts import F32
from facelake.events import Listener
from facelake.nightly import writing
from facelake.stages.core.context import Context
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.publish import publish
from facelake.stages.sharing.changes import Outgoing
from facelake.stages.sharing.push import PushTerms, push
from facelake.targets import Location, Target, open_target

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
        load_s = _loaded(location, names, templates)
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


def _loaded(location: Location, names: list[str], templates: F32) -> float:
    """Return the seconds that the database's own client takes to load ids and templates into a new table."""
    loaders = {"postgresql": _copy, "lancedb": _create_table, "milvus": _insert, "qdrant": _upload}
    return loaders[location.scheme](location, names, templates)


def _copy(location: Location, names: list[str], templates: F32) -> float:
    import psycopg

    options: dict[str, Any] = {
        name: value for name, value in {"host": location.host, "user": location.user}.items() if value
    }
    options |= dict(location.options)
    with psycopg.connect(dbname=location.path.strip("/"), autocommit=True, **options) as database:
        database.execute("CREATE EXTENSION IF NOT EXISTS vector")
        database.execute("DROP TABLE IF EXISTS bench_loaded")
        dim = int(templates.shape[1])
        database.execute(f"CREATE TABLE bench_loaded (id text PRIMARY KEY, template vector({dim}))")
        database.execute("ALTER TABLE bench_loaded ALTER COLUMN template SET STORAGE PLAIN")
        began = time.perf_counter()
        with database.cursor() as cursor, cursor.copy("COPY bench_loaded FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["text", "bytea"])
            head = np.array([dim, 0], ">i2").tobytes()  # the binary form of a vector, as pgvector's client writes it
            for name, template in zip(names, templates.astype(">f4"), strict=True):
                copy.write_row((name, head + template.tobytes()))
        seconds = time.perf_counter() - began
        database.execute("DROP TABLE bench_loaded")
    return seconds


def _create_table(location: Location, names: list[str], templates: F32) -> float:
    import lancedb

    database = lancedb.connect(location.path)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(templates.ravel()), templates.shape[1])
    began = time.perf_counter()
    database.create_table("bench_loaded", pa.table({"id": names, "template": vectors}), mode="overwrite")
    seconds = time.perf_counter() - began
    database.drop_table("bench_loaded")
    return seconds


def _insert(location: Location, names: list[str], templates: F32) -> float:
    from pymilvus import DataType, MilvusClient

    Path(location.path).parent.mkdir(parents=True, exist_ok=True)
    database = MilvusClient(location.path)
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("template", DataType.FLOAT_VECTOR, dim=templates.shape[1])
    index = database.prepare_index_params()
    index.add_index("template", index_type="FLAT", metric_type="IP")
    database.create_collection("bench_loaded", schema=schema, index_params=index)
    began = time.perf_counter()
    for start in range(0, len(names), 1_000):
        part = zip(names[start : start + 1_000], templates[start : start + 1_000], strict=True)
        database.insert("bench_loaded", [{"id": name, "template": template} for name, template in part])
    database.flush("bench_loaded")
    seconds = time.perf_counter() - began
    database.drop_collection("bench_loaded")
    database.close()
    return seconds


def _upload(location: Location, names: list[str], templates: F32) -> float:
    import uuid

    from qdrant_client import QdrantClient, models

    database = QdrantClient(host=location.host) if location.host else QdrantClient(path=location.path)
    size = models.VectorParams(size=templates.shape[1], distance=models.Distance.DOT)
    database.create_collection("bench_loaded", vectors_config=size)
    ids = [str(uuid.uuid4()) for _ in names]
    began = time.perf_counter()
    payload = [{"id": name} for name in names]
    database.upload_collection("bench_loaded", vectors=templates, payload=payload, ids=ids, wait=True)
    seconds = time.perf_counter() - began
    database.delete_collection("bench_loaded")
    database.close()
    return seconds
