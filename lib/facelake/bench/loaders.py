"""Bulk loaders of databases: what their own clients take for the rows of a push, which they get from memory."""

from __future__ import annotations

import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facelake.targets import Location, TargetRows

_TABLE = "bench_loaded"
_BATCH = 1_000


def load(location: Location, rows: TargetRows) -> float:
    """Return the seconds that the database's own client takes to load rows into a new table, which is dropped again."""
    loaders = {"postgresql": _copy, "lancedb": _create_table, "milvus": _insert, "qdrant": _upload}
    return loaders[location.scheme](location, rows)


def _copy(location: Location, rows: TargetRows) -> float:
    import psycopg

    given = {name: value for name, value in {"host": location.host, "user": location.user}.items() if value}
    options: dict[str, Any] = {**given, **dict(location.options)}
    dim, tags = int(rows.templates.shape[1]), rows.tags
    end = datetime.fromisoformat(tags["expires_at"])
    with psycopg.connect(dbname=location.path.strip("/"), autocommit=True, **options) as database:
        database.execute("CREATE EXTENSION IF NOT EXISTS vector")
        database.execute(f"DROP TABLE IF EXISTS {_TABLE}")
        database.execute(
            f"CREATE TABLE {_TABLE} (id text PRIMARY KEY, template vector({dim}), gallery_version bigint, "
            "lease_id text, purpose text, expires_at timestamptz, model_digest text)"
        )
        database.execute(f"ALTER TABLE {_TABLE} ALTER COLUMN template SET STORAGE PLAIN")
        began = time.perf_counter()
        with database.cursor() as cursor, cursor.copy(f"COPY {_TABLE} FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["text", "bytea", "int8", "text", "text", "timestamptz", "text"])
            head = np.array([dim, 0], ">i2").tobytes()  # the binary form of a vector, as pgvector's client writes it
            big = rows.templates.astype(">f4")
            for name, template, version in zip(rows.ids, big, rows.versions.tolist(), strict=True):
                own = (name, head + template.tobytes(), version)
                copy.write_row((*own, tags["lease_id"], tags["purpose"], end, tags["model_digest"]))
        seconds = time.perf_counter() - began
        database.execute(f"DROP TABLE {_TABLE}")
    return seconds


def _create_table(location: Location, rows: TargetRows) -> float:
    import lancedb

    database, count = lancedb.connect(location.path), len(rows.ids)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.templates.ravel()), rows.templates.shape[1])
    began = time.perf_counter()
    columns = {"id": list(rows.ids), "template": vectors, "gallery_version": rows.versions}
    columns |= {name: [value] * count for name, value in rows.tags.items()}
    database.create_table(_TABLE, pa.table(columns), mode="overwrite")
    seconds = time.perf_counter() - began
    database.drop_table(_TABLE)
    return seconds


def _insert(location: Location, rows: TargetRows) -> float:
    from pymilvus import DataType, MilvusClient

    Path(location.path).parent.mkdir(parents=True, exist_ok=True)
    database = MilvusClient(location.path)
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=256)
    schema.add_field("template", DataType.FLOAT_VECTOR, dim=rows.templates.shape[1])
    schema.add_field("gallery_version", DataType.INT64)
    for name in rows.tags:
        schema.add_field(name, DataType.VARCHAR, max_length=256)
    index = database.prepare_index_params()
    index.add_index("template", index_type="FLAT", metric_type="IP")
    database.create_collection(_TABLE, schema=schema, index_params=index)
    began = time.perf_counter()
    for start in range(0, len(rows.ids), _BATCH):
        chosen = slice(start, start + _BATCH)
        part = zip(rows.ids[chosen], rows.templates[chosen], rows.versions[chosen].tolist(), strict=True)
        database.insert(_TABLE, [{"id": n, "template": t, "gallery_version": v} | rows.tags for n, t, v in part])
    database.flush(_TABLE)
    seconds = time.perf_counter() - began
    database.drop_collection(_TABLE)
    database.close()
    return seconds


def _upload(location: Location, rows: TargetRows) -> float:
    from qdrant_client import QdrantClient, models

    database = QdrantClient(host=location.host) if location.host else QdrantClient(path=location.path)
    size = models.VectorParams(size=rows.templates.shape[1], distance=models.Distance.DOT)
    database.create_collection(_TABLE, vectors_config=size)
    ids = [str(uuid.uuid4()) for _ in rows.ids]
    began = time.perf_counter()
    versions = rows.versions.tolist()
    payload = [{"id": n, "gallery_version": v} | rows.tags for n, v in zip(rows.ids, versions, strict=True)]
    database.upload_collection(_TABLE, vectors=rows.templates, payload=payload, ids=ids, wait=True)
    seconds = time.perf_counter() - began
    database.delete_collection(_TABLE)
    database.close()
    return seconds
