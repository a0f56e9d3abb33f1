"""LanceDB in a folder or a bucket: every call is one version of the table; old versions go with `compact`.

`optimize` leaves deleted rows in files of which they are a small part. Therefore `compact` writes the table again, in
one version, from a stream of the present one; indexes have to be made again.

A bucket has to honour conditional writes, by which Lance commits a version. It is reached as the lake's are: the AWS_*
variables, or the files in ~/.aws. Versions of objects that it keeps, and uploads that were left open, are removed too.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

from facelake.contracts import F16, F32
from facelake.errors import ConfigError
from facelake.lake.store import open_store, probe
from facelake.targets.faults import Faults
from facelake.targets.location import Location
from facelake.targets.target import COLUMNS, EXEMPLARS, TargetRows

# its client raises built-in errors, which after the opening may also come from elsewhere
FAULTS = Faults("LanceDB", "the AWS_* variables", opening=(OSError, RuntimeError))
_BATCH = 10_000
_VERSIONS = "_versions"
_IN = 1_000  # ids per filter


def _drop_versions(table: Any) -> None:
    """Remove every version but the newest. LanceDB warns of other writers each time; a target has one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"optimize\(cleanup_older_than", category=UserWarning)
        table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)


class LanceTarget:
    """A table of a LanceDB database. Implements Target."""

    def __init__(self, location: Location) -> None:
        self.location = location
        name = f"s3://{location.host}{location.path}".rstrip("/") if location.host else location.path
        if not name:
            raise ConfigError("the URL names no folder", where=location.shown, next_step="write lancedb:///folder")
        self._bucket = open_store(name) if location.host else None
        if self._bucket is not None:
            probe(self._bucket)
            self._db = lancedb.connect(name, storage_options=self._bucket.storage_options())
        else:
            os.makedirs(name, mode=0o700, exist_ok=True)
            self._db = lancedb.connect(name)
        self._table, self._record = location.table, f"{location.table}_record"

    def _has(self, name: str) -> bool:
        if self._bucket is not None:  # some stores list folders without objects, which are what a table left
            return any(True for _ in self._bucket.list(f"{name}.lance/{_VERSIONS}"))
        token: str | None = None
        while True:
            page = self._db.list_tables(page_token=token)
            if name in page.tables:
                return True
            if not (token := page.page_token):
                return False

    def _open(self) -> Any:
        return self._db.open_table(self._table)

    def read_record(self) -> dict[str, Any] | None:
        if not self._has(self._record):
            return None
        rows = self._db.open_table(self._record).to_arrow().to_pylist()
        return dict(json.loads(rows[-1]["body"])) if rows else None

    def write_record(self, record: dict[str, Any]) -> None:
        rows = pa.table({"body": [json.dumps(record)]})
        table = self._db.create_table(self._record, rows, mode="overwrite")
        _drop_versions(table)

    def exists(self) -> bool:
        return self._has(self._table)

    def create(self, dim: int, *, exemplars: bool = False) -> None:
        if not self.exists():
            self._db.create_table(self._table, schema=_schema(dim, exemplars=exemplars))

    def dim(self) -> int:
        kind = self._open().schema.field("template").type
        return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else -1

    def upsert(self, rows: TargetRows, *, fresh: bool) -> None:
        count, dim = rows.templates.shape
        flat = pa.array(np.ascontiguousarray(rows.templates).ravel())
        columns = [pa.array(list(rows.ids), pa.string()), pa.FixedSizeListArray.from_arrays(flat, dim)]
        columns += [pa.array(rows.versions), *(pa.array([rows.tags[name]] * count) for name in COLUMNS[3:])]
        columns += [] if rows.exemplars is None else [_lists(rows.exemplars, dim)]
        arriving = pa.table(columns, schema=_schema(dim, exemplars=rows.exemplars is not None))
        table = self._open()
        if fresh:
            table.add(arriving)
        else:
            merge = table.merge_insert("identity_id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(arriving)

    def delete(self, ids: Sequence[str]) -> None:
        table = self._open()
        for start in range(0, len(ids), _IN):
            table.delete(_among(ids[start : start + _IN]))

    def versions(self) -> Iterator[dict[str, int]]:
        reader = self._open().search().select(["identity_id", "gallery_version"]).to_batches(_BATCH)
        for batch in reader:
            yield dict(zip(batch["identity_id"].to_pylist(), batch["gallery_version"].to_pylist(), strict=True))

    def templates(self, ids: Sequence[str]) -> dict[str, F32]:
        out: dict[str, F32] = {}
        for start in range(0, len(ids), _IN):
            chosen = ids[start : start + _IN]
            query = self._open().search().where(_among(chosen)).select(["identity_id", "template"]).limit(len(chosen))
            for row in query.to_arrow().to_pylist():
                out[row["identity_id"]] = np.array(row["template"], np.float32)
        return out

    def exemplars(self, ids: Sequence[str]) -> dict[str, F16]:
        out: dict[str, F16] = {}
        dim = self.dim()
        for start in range(0, len(ids), _IN):
            chosen = ids[start : start + _IN]
            query = self._open().search().where(_among(chosen)).select(["identity_id", EXEMPLARS]).limit(len(chosen))
            for row in query.to_arrow().to_pylist():
                out[row["identity_id"]] = np.array(row[EXEMPLARS], np.float16).reshape(-1, dim)
        return out

    def count_other_ends(self, expires_at: str) -> int:
        return int(self._open().count_rows(f"expires_at != '{_quoted(expires_at)}'"))

    def set_end(self, expires_at: str) -> None:
        self._open().update(where=f"expires_at != '{_quoted(expires_at)}'", values={"expires_at": expires_at})

    def count(self, lease_id: str | None = None) -> int:
        return int(self._open().count_rows(f"lease_id = '{_quoted(lease_id)}'" if lease_id else None))

    def search(self, probe: F32, k: int) -> list[tuple[str, float]]:
        query = self._open().search(np.asarray(probe, np.float32), vector_column_name="template")
        hits = query.distance_type("dot").select(["identity_id", "_distance"]).limit(k).to_list()
        return [(row["identity_id"], 1.0 - float(row["_distance"])) for row in hits]

    def drop(self) -> None:
        self._drop(self._table)

    def drop_record(self) -> None:
        self._drop(self._record)

    def _drop(self, name: str) -> None:
        if self._bucket is None:
            if self._has(name):
                self._db.drop_table(name)
            return
        # one by one, the newest version last: after a crash that one is found, which a push had made empty
        versions = f"{name}.lance/{_VERSIONS}/"
        keys = [item.key for item in self._bucket.list(f"{name}.lance")]
        for key in [key for key in keys if not key.startswith(versions)]:
            self._bucket.delete(key)
        for key in sorted((key for key in keys if key.startswith(versions)), reverse=True):  # they count down
            self._bucket.delete(key)

    def compact(self) -> str | None:
        if self.exists():
            table = self._open()
            if table.count_rows():
                schema = table.schema
                rows = pa.RecordBatchReader.from_batches(schema, table.search().to_batches(_BATCH))
                table = self._db.create_table(self._table, rows, schema=schema, mode="overwrite")
            _drop_versions(table)
        if self._bucket is not None:
            own = open_store(f"{self._bucket.uri}/{self._table}.lance")
            own.clear_leftovers()
            own.drop_old_versions()
        return None

    def close(self) -> None:
        """LanceDB has no connection to close."""


def _schema(dim: int, *, exemplars: bool) -> pa.Schema:
    kinds = [pa.string(), pa.list_(pa.float32(), dim), pa.int64(), *[pa.string()] * 4]
    more = [(EXEMPLARS, pa.list_(pa.list_(pa.float16(), dim)))] if exemplars else []
    return pa.schema([*zip(COLUMNS, kinds, strict=True), *more])


def _lists(exemplars: Sequence[F16], dim: int) -> pa.Array:
    """Return float16 vectors (k, dim) per row as lists of lists of a fixed size."""
    starts = np.cumsum([0, *(len(own) for own in exemplars)], dtype=np.int32)
    flat = np.concatenate([own.ravel() for own in exemplars]) if len(exemplars) else np.zeros(0, np.float16)
    return pa.ListArray.from_arrays(starts, pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), dim))


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _among(ids: Sequence[str]) -> str:
    listed = ", ".join(f"'{_quoted(name)}'" for name in ids)
    return f"identity_id IN ({listed})"
