"""Milvus: a server (milvus://host:19530), or Milvus Lite in a folder (milvus:///folder/gallery.db).

Milvus Lite keeps deleted rows in its files and has no compaction on demand. There the collection is written again under
another name, which takes the place of the first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException

from facelake.contracts import F16, F32
from facelake.errors import ConfigError
from facelake.targets.canonical import DEFAULT_PORTS
from facelake.targets.faults import Faults
from facelake.targets.location import KEEPS, Location
from facelake.targets.target import COLUMNS, EXEMPLARS, TargetRows, as_text, from_text

FAULTS = Faults("Milvus", "MILVUS_TOKEN", refused=(MilvusException,), opening=(MilvusException, OSError))
_BATCH = 1_000
_TEXT = {"max_length": 256}
_MOST_CHARACTERS = 65_535  # of a text
_BATCH_EXEMPLARS = 250  # rows of up to that many characters in one request
_ALL = 'identity_id != ""'


class MilvusTarget:
    """A collection of a Milvus database. Implements Target."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._lite = not location.host
        if self._lite and not location.path.endswith(".db"):
            next_step = "write milvus:///folder/name.db, or milvus://host:19530"
            raise ConfigError("Milvus Lite needs a path ending in .db", where=location.shown, next_step=next_step)
        if self._lite:
            Path(location.path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = MilvusClient(location.path)
        else:
            tls = dict(location.options).get("tls") == "true"
            port = location.port or DEFAULT_PORTS["milvus"]
            uri = f"{'https' if tls else 'http'}://{location.host}:{port}"
            self._db = MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), db_name=location.path.strip("/"))
        self._table, self._record = location.table, f"{location.table}_record"
        self._next = f"{location.table}__next"
        self._recover()
        if self.exists():
            self._db.load_collection(self._table)  # another process has made it

    def _recover(self) -> None:
        """Complete a rewriting that was interrupted: it counts from when the first collection was dropped."""
        if self._db.has_collection(self._next):
            if self._db.has_collection(self._table):
                self._db.drop_collection(self._next)
            else:
                self._db.rename_collection(self._next, self._table)

    def read_record(self) -> dict[str, Any] | None:
        if not self._db.has_collection(self._record):
            return None
        self._db.load_collection(self._record)
        rows = self._db.query(self._record, filter='key == "record"', output_fields=["body"], **_STRONG)
        return dict(json.loads(rows[0]["body"])) if rows else None

    def write_record(self, record: dict[str, Any]) -> None:
        body = json.dumps(record)
        if len(body) > _MOST_CHARACTERS:
            raise ConfigError("the record is too long", where=self.location.shown, next_step="shorten the recipient")
        if not self._db.has_collection(self._record):
            schema = MilvusClient.create_schema(auto_id=False)
            schema.add_field("key", DataType.VARCHAR, is_primary=True, **_TEXT)
            schema.add_field("body", DataType.VARCHAR, max_length=_MOST_CHARACTERS)
            schema.add_field("unused", DataType.FLOAT_VECTOR, dim=2)  # a collection needs a vector
            self._create(self._record, schema, "unused")
        self._db.upsert(self._record, [{"key": "record", "body": body, "unused": [0.0, 0.0]}])
        self._db.flush(self._record)

    def _create(self, name: str, schema: Any, vector: str) -> None:
        index = self._db.prepare_index_params()
        index.add_index(vector, index_type="FLAT", metric_type="IP")  # unit vectors: the cosine; exact
        self._db.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")

    def exists(self) -> bool:
        return bool(self._db.has_collection(self._table))

    def create(self, dim: int, *, exemplars: bool = False) -> None:
        if not self.exists():
            self._create_rows(self._table, dim, (*COLUMNS, EXEMPLARS) if exemplars else COLUMNS)
        self._db.load_collection(self._table)

    def _create_rows(self, name: str, dim: int, columns: Sequence[str]) -> None:
        schema = MilvusClient.create_schema(auto_id=False)
        for column in columns:
            if column == "template":
                schema.add_field(column, DataType.FLOAT_VECTOR, dim=dim)
            elif column == "gallery_version":
                schema.add_field(column, DataType.INT64)
            elif column == EXEMPLARS:
                schema.add_field(column, DataType.VARCHAR, max_length=_MOST_CHARACTERS)
            else:
                schema.add_field(column, DataType.VARCHAR, is_primary=column == "identity_id", **_TEXT)
        self._create(name, schema, "template")

    def dim(self) -> int:
        for field in self._db.describe_collection(self._table)["fields"]:
            if field["name"] == "template":
                return int(field["params"]["dim"])
        return -1

    def upsert(self, rows: TargetRows, *, fresh: bool) -> None:
        write = self._db.insert if fresh else self._db.upsert
        size = _BATCH if rows.exemplars is None else _BATCH_EXEMPLARS
        for start in range(0, len(rows.ids), size):
            chosen = slice(start, start + size)
            names, versions = rows.ids[chosen], rows.versions[chosen].tolist()
            parts = zip(names, rows.templates[chosen], versions, strict=True)
            write(
                self._table,
                [
                    {"identity_id": name, "template": template, "gallery_version": version} | rows.tags | more
                    for (name, template, version), more in zip(parts, self._more(rows, chosen), strict=True)
                ],
            )
        self._db.flush(self._table)

    def _more(self, rows: TargetRows, chosen: slice) -> Iterator[dict[str, str]]:
        """Yield the exemplars of rows as a column; no column in a target without."""
        if rows.exemplars is None:
            yield from ({} for _ in rows.ids[chosen])
            return
        for text in map(as_text, rows.exemplars[chosen]):
            if len(text) > _MOST_CHARACTERS:
                what = f"exemplars of {len(text)} characters, of which Milvus takes {_MOST_CHARACTERS}"
                raise ConfigError(what, where=self.location.shown, next_step="lower gallery.exemplars, or push without")
            yield {EXEMPLARS: text}

    def delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), _BATCH):
            self._db.delete(self._table, ids=list(ids[start : start + _BATCH]))
        self._db.flush(self._table)

    def versions(self) -> Iterator[dict[str, int]]:
        for rows in self._rows(["identity_id", "gallery_version"]):
            yield {row["identity_id"]: int(row["gallery_version"]) for row in rows}

    def _rows(self, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
        """Yield all rows in batches."""
        iterator = self._db.query_iterator(
            self._table, filter=_ALL, output_fields=columns, batch_size=_BATCH, **_STRONG
        )
        try:
            while rows := iterator.next():
                yield list(rows)
        finally:
            iterator.close()

    def templates(self, ids: Sequence[str]) -> dict[str, F32]:
        out: dict[str, F32] = {}
        for start in range(0, len(ids), _BATCH):
            chosen = list(ids[start : start + _BATCH])
            for row in self._db.get(self._table, ids=chosen, output_fields=["identity_id", "template"]):
                out[row["identity_id"]] = np.array(row["template"], np.float32)
        return out

    def exemplars(self, ids: Sequence[str]) -> dict[str, F16]:
        out: dict[str, F16] = {}
        dim = self.dim()
        for start in range(0, len(ids), _BATCH_EXEMPLARS):
            chosen = list(ids[start : start + _BATCH_EXEMPLARS])
            for row in self._db.get(self._table, ids=chosen, output_fields=["identity_id", EXEMPLARS]):
                out[row["identity_id"]] = from_text(row[EXEMPLARS], dim)
        return out

    def count_other_ends(self, expires_at: str) -> int:
        return self._count(f"expires_at != {json.dumps(expires_at)}")

    def set_end(self, expires_at: str) -> None:
        stored = (row for rows in self._rows(["identity_id", "expires_at"]) for row in rows)
        names = [row["identity_id"] for row in stored if row["expires_at"] != expires_at]
        for start in range(0, len(names), _BATCH_EXEMPLARS):
            chosen = names[start : start + _BATCH_EXEMPLARS]
            rows = self._db.get(self._table, ids=chosen, output_fields=self._columns())
            self._db.upsert(self._table, [dict(row) | {"expires_at": expires_at} for row in rows])
        self._db.flush(self._table)

    def _columns(self) -> list[str]:
        """The columns that the collection has."""
        return [field["name"] for field in self._db.describe_collection(self._table)["fields"]]

    def count(self, lease_id: str | None = None) -> int:
        everything = self._count("")
        # of the rows of other leases, usually none: Milvus Lite collects those that a filter chooses before it counts
        return everything - self._count(f"lease_id != {json.dumps(lease_id)}") if lease_id else everything

    def _count(self, chosen: str) -> int:
        rows = self._db.query(self._table, filter=chosen, output_fields=["count(*)"], **_STRONG)
        return int(rows[0]["count(*)"])

    def search(self, probe: F32, k: int) -> list[tuple[str, float]]:
        data = [np.asarray(probe, np.float32)]
        hits = self._db.search(self._table, data=data, limit=k, output_fields=["identity_id"], **_STRONG)[0]
        return [(hit["entity"]["identity_id"], float(hit["distance"])) for hit in hits]

    def drop(self) -> None:
        if self.exists():
            self._db.drop_collection(self._table)

    def drop_record(self) -> None:
        if self._db.has_collection(self._record):
            self._db.drop_collection(self._record)

    def compact(self) -> str | None:
        if not self._lite:
            if self.exists():
                self._db.compact(self._table)
            return KEEPS["milvus"]
        if self.exists():
            columns = self._columns()
            self._create_rows(self._next, self.dim(), columns)
            for rows in self._rows(columns):
                self._db.insert(self._next, rows)
            self._db.flush(self._next)
            self._db.drop_collection(self._table)
            self._recover()
            self._db.load_collection(self._table)
        return None

    def close(self) -> None:
        self._db.close()


_STRONG: dict[str, Any] = {"consistency_level": "Strong"}
