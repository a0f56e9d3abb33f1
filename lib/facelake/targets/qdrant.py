"""Qdrant: a server (qdrant://host:6333), or its local mode in a folder (qdrant:///folder), for small galleries.

A point's id is a UUID made of the identity id; the id itself and the other columns are in the payload.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from facelake.contracts import F16, F32
from facelake.targets.canonical import DEFAULT_PORTS
from facelake.targets.faults import Faults
from facelake.targets.location import KEEPS, Location
from facelake.targets.target import COLUMNS, EXEMPLARS, TargetRows, as_text, from_text

FAULTS = Faults(
    "Qdrant",
    "QDRANT_API_KEY",
    unreachable=(ResponseHandlingException,),
    refused=(UnexpectedResponse,),
    opening=(OSError,),
)
_BATCH = 1_000
_NAMESPACE = uuid.UUID("6f1d4a64-5d0c-4a7e-9d0f-0f5a2b6c7d11")
_RECORD_ID = str(uuid.UUID(int=0))


class QdrantTarget:
    """A collection of a Qdrant server or folder. Implements Target."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._folder = None if location.host else location.path
        if self._folder:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._db = self._connect()
        self._table, self._record = location.table, f"{location.table}_record"

    def _connect(self) -> QdrantClient:
        if self._folder:
            return QdrantClient(path=self._folder)
        secret = os.environ.get("QDRANT_API_KEY")
        secure = dict(self.location.options).get("tls", "true" if secret else "false") == "true"
        port = self.location.port or DEFAULT_PORTS["qdrant"]
        return QdrantClient(host=self.location.host, port=port, https=secure, api_key=secret, timeout=60)

    def read_record(self) -> dict[str, Any] | None:
        if not self._db.collection_exists(self._record):
            return None
        points = self._db.retrieve(self._record, [_RECORD_ID], with_payload=True)
        return dict(json.loads((points[0].payload or {})["body"])) if points else None

    def write_record(self, record: dict[str, Any]) -> None:
        if not self._db.collection_exists(self._record):
            size = models.VectorParams(size=1, distance=models.Distance.DOT)
            self._db.create_collection(self._record, vectors_config=size)
        point = models.PointStruct(id=_RECORD_ID, vector=[1.0], payload={"body": json.dumps(record)})
        self._db.upsert(self._record, [point], wait=True)

    def exists(self) -> bool:
        return self._db.collection_exists(self._table)

    def create(self, dim: int, *, exemplars: bool = False) -> None:  # a payload needs no schema
        if not self.exists():
            size = models.VectorParams(size=dim, distance=models.Distance.DOT)  # unit vectors: the cosine
            self._db.create_collection(self._table, vectors_config=size)

    def dim(self) -> int:
        vectors = self._db.get_collection(self._table).config.params.vectors
        return vectors.size if isinstance(vectors, models.VectorParams) else -1

    def upsert(self, rows: TargetRows, *, fresh: bool) -> None:
        for start in range(0, len(rows.ids), _BATCH):
            ids = rows.ids[start : start + _BATCH]
            versions = rows.versions[start : start + _BATCH].tolist()
            payloads = [
                {"identity_id": name, "gallery_version": version} | rows.tags
                for name, version in zip(ids, versions, strict=True)
            ]
            if rows.exemplars is not None:
                chosen = rows.exemplars[start : start + _BATCH]
                payloads = [row | {EXEMPLARS: as_text(own)} for row, own in zip(payloads, chosen, strict=True)]
            vectors = rows.templates[start : start + _BATCH].tolist()
            batch = models.Batch(ids=[_point_id(name) for name in ids], vectors=vectors, payloads=payloads)
            self._db.upsert(self._table, batch, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        points: list[Any] = [_point_id(name) for name in ids]
        self._db.delete(self._table, models.PointIdsList(points=points), wait=True)

    def versions(self) -> Iterator[dict[str, int]]:
        offset: Any = None
        wanted = ["identity_id", "gallery_version"]
        while True:
            points, offset = self._db.scroll(
                self._table, limit=_BATCH, offset=offset, with_payload=wanted, with_vectors=False
            )
            payloads = [point.payload or {} for point in points]
            yield {payload["identity_id"]: int(payload["gallery_version"]) for payload in payloads}
            if offset is None:
                return

    def templates(self, ids: Sequence[str]) -> dict[str, F32]:
        out: dict[str, F32] = {}
        for start in range(0, len(ids), _BATCH):
            chosen = [_point_id(name) for name in ids[start : start + _BATCH]]
            for point in self._db.retrieve(self._table, chosen, with_payload=["identity_id"], with_vectors=True):
                out[(point.payload or {})["identity_id"]] = np.array(point.vector, np.float32)
        return out

    def exemplars(self, ids: Sequence[str]) -> dict[str, F16]:
        out: dict[str, F16] = {}
        wanted, dim = ["identity_id", EXEMPLARS], self.dim()
        for start in range(0, len(ids), _BATCH):
            chosen = [_point_id(name) for name in ids[start : start + _BATCH]]
            for point in self._db.retrieve(self._table, chosen, with_payload=wanted):
                payload = point.payload or {}
                out[payload["identity_id"]] = from_text(payload[EXEMPLARS], dim)
        return out

    def count_other_ends(self, expires_at: str) -> int:
        return self._db.count(self._table, count_filter=_other_end(expires_at), exact=True).count

    def set_end(self, expires_at: str) -> None:
        chosen = _other_end(expires_at)
        self._db.set_payload(self._table, payload={"expires_at": expires_at}, points=chosen, wait=True)

    def count(self, lease_id: str | None = None) -> int:
        chosen = None
        if lease_id is not None:
            condition = models.FieldCondition(key="lease_id", match=models.MatchValue(value=lease_id))
            chosen = models.Filter(must=[condition])
        return self._db.count(self._table, count_filter=chosen, exact=True).count

    def search(self, probe: F32, k: int) -> list[tuple[str, float]]:
        query = [float(value) for value in probe]
        hits = self._db.query_points(self._table, query=query, limit=k, with_payload=["identity_id"]).points
        return [((point.payload or {})["identity_id"], float(point.score)) for point in hits]

    def drop(self) -> None:
        if self.exists():
            self._db.delete_collection(self._table)

    def drop_record(self) -> None:
        if self._db.collection_exists(self._record):
            self._db.delete_collection(self._record)

    def compact(self) -> str | None:
        if self._folder is None:
            return KEEPS["qdrant"]
        self._db.close()
        for file in Path(self._folder).rglob("storage.sqlite"):
            with closing(sqlite3.connect(file)) as database:
                database.execute("VACUUM")
        self._db = self._connect()
        return None

    def close(self) -> None:
        self._db.close()


def _other_end(expires_at: str) -> models.Filter:
    return models.Filter(must_not=[models.FieldCondition(key="expires_at", match=models.MatchValue(value=expires_at))])


def _point_id(identity_id: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, identity_id))


assert COLUMNS[2:4] == ("gallery_version", "lease_id")  # the payload's names are those of the other targets
