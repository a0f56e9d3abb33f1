"""PostgreSQL with pgvector. Rows go by binary COPY, the fastest way into it; every call is one transaction."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import psycopg
from psycopg import sql
from psycopg.copy import QueuedLibpqWriter

from facelake.contracts import F16, F32, I64
from facelake.errors import ConfigError
from facelake.targets.canonical import DEFAULT_PORTS
from facelake.targets.faults import Faults
from facelake.targets.location import KEEPS, Location
from facelake.targets.target import COLUMNS, EXEMPLARS, TargetRows

_BATCH = 10_000
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # of PostgreSQL's binary timestamps
_COPY_HEAD = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
_COPY_END = struct.pack(">h", -1)
_BLOCK_ROWS = 2_048  # of one message: 4 MB with 512 values
_MAX_DIM = 16_000  # of pgvector's type `vector`
_SNAPSHOT_WAIT_S, _SNAPSHOT_PAUSE_S = 60.0, 0.5  # for other sessions' transactions to end
_LOCK_WAIT_MS = 5_000
_INLINE_DIM = 1_800  # of vectors that fit on a page of 8 KiB with the other columns
FAULTS = Faults("PostgreSQL", "PGPASSWORD", unreachable=(psycopg.OperationalError,), refused=(psycopg.Error,))


class PostgresTarget:
    """A table with a `vector` column in a PostgreSQL database. Implements Target."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._table, self._record = sql.Identifier(location.table), sql.Identifier(f"{location.table}_record")
        port = location.port or DEFAULT_PORTS["postgresql"]  # and not that of the environment
        given = {"host": location.host, "port": port, "user": location.user}
        given |= {"dbname": location.path.strip("/"), "connect_timeout": 10, "application_name": "facelake"}
        given |= dict(location.options)
        self._db = psycopg.connect(autocommit=True, **{name: value for name, value in given.items() if value})  # type: ignore[arg-type]
        self._run(f"SET lock_timeout = {_LOCK_WAIT_MS}")  # sessions that wait behind this one wait no longer either

    def _run(self, text: str, *values: Any) -> psycopg.Cursor[Any]:
        names = {"table": self._table, "record": self._record}
        return self._db.execute(sql.SQL(cast(Any, text)).format(**names), values or None)

    def _one(self, text: str, *values: Any) -> Any:
        row = self._run(text, *values).fetchone()
        return row[0] if row else None

    def _is_table(self, name: str) -> bool:
        return self._one("SELECT to_regclass(%s)", f'"{name}"') is not None

    def read_record(self) -> dict[str, Any] | None:
        if not self._is_table(f"{self.location.table}_record"):
            return None
        body = self._one("SELECT body FROM {record}")
        return dict(json.loads(body)) if body else None

    def write_record(self, record: dict[str, Any]) -> None:
        with self._db.transaction():
            self._run("CREATE TABLE IF NOT EXISTS {record} (one boolean PRIMARY KEY CHECK (one), body text NOT NULL)")
            values = (json.dumps(record),)
            self._run(
                "INSERT INTO {record} VALUES (true, %s) ON CONFLICT (one) DO UPDATE SET body = EXCLUDED.body", *values
            )

    def exists(self) -> bool:
        return self._is_table(self.location.table)

    def create(self, dim: int, *, exemplars: bool = False) -> None:
        if dim > _MAX_DIM:
            raise ConfigError(
                f"pgvector has at most {_MAX_DIM} dimensions", where=self.location.shown, next_step="use another target"
            )
        if self.exists():
            return  # to alter it would wait for every session that has read it
        with self._db.transaction():
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
            self._run(
                "CREATE TABLE IF NOT EXISTS {table} (identity_id text PRIMARY KEY, "
                f"template vector({int(dim)}) NOT NULL, "
                "gallery_version bigint NOT NULL, lease_id text NOT NULL, purpose text NOT NULL, "
                "expires_at timestamptz NOT NULL, model_digest text NOT NULL"
                f"{f', {EXEMPLARS} halfvec({int(dim)})[] NOT NULL' if exemplars else ''})"
            )
            if exemplars:  # in another table, and not compressed, which float16 values hardly are
                self._run(f"ALTER TABLE {{table}} ALTER COLUMN {EXEMPLARS} SET STORAGE EXTERNAL")
            for column in (
                (*COLUMNS, EXEMPLARS) if exemplars else COLUMNS
            ):  # statistics would keep samples of deleted rows
                self._run(f"ALTER TABLE {{table}} ALTER COLUMN {column} SET STATISTICS 0")
            if dim <= _INLINE_DIM:  # beside the row and not in another table, from which an exact search reads slowly
                self._run("ALTER TABLE {table} ALTER COLUMN template SET STORAGE PLAIN")

    def dim(self) -> int:
        name = f'"{self.location.table}"'
        wanted = "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'template'"
        return int(self._one(wanted, name) or -1)

    def upsert(self, rows: TargetRows, *, fresh: bool) -> None:
        names = COLUMNS if rows.exemplars is None else (*COLUMNS, EXEMPLARS)
        columns = ", ".join(names)
        with self._db.transaction():
            # the record of a complete push is written after this, and its commit is waited for
            self._run("SET LOCAL synchronous_commit = off")
            if fresh:
                self._copy(f"COPY {{table}} ({columns}) FROM STDIN (FORMAT BINARY)", rows)
                return
            self._run("CREATE TEMP TABLE arriving (LIKE {table}) ON COMMIT DROP")
            self._copy(f"COPY arriving ({columns}) FROM STDIN (FORMAT BINARY)", rows)
            replaced = ", ".join(f"{name} = EXCLUDED.{name}" for name in names[1:])
            self._run(
                f"INSERT INTO {{table}} ({columns}) SELECT {columns} FROM arriving "
                f"ON CONFLICT (identity_id) DO UPDATE SET {replaced}"
            )

    def _copy(self, text: str, rows: TargetRows) -> None:
        statement = sql.SQL(cast(Any, text)).format(table=self._table)
        element = 0 if rows.exemplars is None else int(self._one("SELECT 'halfvec'::regtype::oid"))
        # blocks are made while earlier ones are sent
        with self._db.cursor() as cursor, cursor.copy(statement, writer=QueuedLibpqWriter(cursor)) as copy:
            for block in copy_blocks(rows, element):
                copy.write(block)

    def delete(self, ids: Sequence[str]) -> None:
        self._run("DELETE FROM {table} WHERE identity_id = ANY(%s)", list(ids))

    def versions(self) -> Iterator[dict[str, int]]:
        return self._batches()

    def _batches(self) -> Iterator[dict[str, int]]:
        last = ""
        while batch := dict(
            self._run(
                "SELECT identity_id, gallery_version FROM {table} WHERE identity_id > %s ORDER BY identity_id LIMIT "
                f"{_BATCH}",
                last,
            ).fetchall()
        ):
            yield batch
            last = max(batch)

    def templates(self, ids: Sequence[str]) -> dict[str, F32]:
        rows = self._run("SELECT identity_id, template::text FROM {table} WHERE identity_id = ANY(%s)", list(ids))
        return {name: np.array(json.loads(text), np.float32) for name, text in rows.fetchall()}

    def exemplars(self, ids: Sequence[str]) -> dict[str, F16]:
        found: dict[str, list[F16]] = {}
        rows = self._run(
            "SELECT identity_id, one::text FROM {table} LEFT JOIN LATERAL unnest(exemplars) WITH ORDINALITY "
            "AS list(one, number) ON true WHERE identity_id = ANY(%s) ORDER BY identity_id, number",
            list(ids),
        )
        for name, text in rows.fetchall():
            own = found.setdefault(name, [])
            if text is not None:
                own.append(np.array(json.loads(text), np.float16))
        dim = self.dim()
        return {name: np.array(own, np.float16).reshape(-1, dim) for name, own in found.items()}

    def count_other_ends(self, expires_at: str) -> int:
        return int(self._one("SELECT count(*) FROM {table} WHERE expires_at <> %s::timestamptz", expires_at))

    def set_end(self, expires_at: str) -> None:
        values = (expires_at, expires_at)
        self._run("UPDATE {table} SET expires_at = %s::timestamptz WHERE expires_at <> %s::timestamptz", *values)

    def count(self, lease_id: str | None = None) -> int:
        if lease_id is None:
            return int(self._one("SELECT count(*) FROM {table}"))
        return int(self._one("SELECT count(*) FROM {table} WHERE lease_id = %s", lease_id))

    def search(self, probe: F32, k: int) -> list[tuple[str, float]]:
        text = json.dumps([float(value) for value in probe])
        hits = self._run(
            "SELECT identity_id, -(template <#> %s::vector) FROM {table} ORDER BY template <#> %s::vector LIMIT %s",
            *(text, text, k),
        )
        return [(name, float(similarity)) for name, similarity in hits.fetchall()]

    def drop(self) -> None:
        self._run("DROP TABLE IF EXISTS {table}")

    def drop_record(self) -> None:
        self._run("DROP TABLE IF EXISTS {record}")

    def compact(self) -> str | None:
        tables = {"{table}": self.exists(), "{record}": self._is_table(f"{self.location.table}_record")}
        deadline = time.monotonic() + _SNAPSHOT_WAIT_S
        for name, exists in tables.items():
            while exists and (seen := self._vacuum(name)):
                if time.monotonic() > deadline:
                    what = f"{seen} that a transaction of another session still sees"
                    return f"{what}; once it has ended, VACUUM FULL {self.location.table} removes them"
                time.sleep(_SNAPSHOT_PAUSE_S)
        try:
            self._run("CHECKPOINT")
        except psycopg.errors.InsufficientPrivilege:
            return "the write-ahead log, until the server's next checkpoints have recycled and overwritten its segments"
        return KEEPS["postgresql"]

    def _vacuum(self, name: str) -> str:
        """Rewrite a table; returns which deleted rows stay, since another session's transaction has read the table or
        its snapshot still sees them; "" for none.

        Autovacuum's analysis has such a snapshot for a moment, a forgotten transaction for as long as it is open. The
        number is the first one of the detail of the server's report, in every language.
        """
        staying: list[int] = []

        def listen(report: psycopg.errors.Diagnostic) -> None:
            if number := re.match(r"\D*(\d+)", report.message_detail or ""):
                staying.append(int(number[1]))

        self._db.add_notice_handler(listen)
        try:
            self._run(f"VACUUM (FULL, VERBOSE) {name}")
        except psycopg.errors.LockNotAvailable:
            return "deleted rows"
        finally:
            self._db.remove_notice_handler(listen)
        return f"{sum(staying)} deleted rows" if sum(staying) else ""

    def close(self) -> None:
        self._db.close()


def copy_blocks(rows: TargetRows, element: int = 0) -> Iterator[bytes]:
    """Yield rows in PostgreSQL's binary COPY format, in blocks of some megabytes.

    A field is its length and its bytes; pgvector's `vector` is the number of values (int16), an unused int16, and the
    values as big-endian float32 (its function vector_recv).

    Args:
        rows: what is written.
        element: number (oid) of the type `halfvec` in this database, of which exemplars are an array.
    """
    names = [name.encode() for name in rows.ids]
    lengths = np.array([len(name) for name in names], np.int64)
    head = _COPY_HEAD
    for length in np.unique(lengths).tolist():  # rows with ids of one length have one layout: no loop over rows
        every = np.flatnonzero(lengths == length)
        for chosen in np.split(every, range(_BLOCK_ROWS, len(every), _BLOCK_ROWS)):
            packed = _packed(rows, [names[i] for i in chosen.tolist()], chosen)
            if rows.exemplars is not None:
                own = [_halfvec_array(rows.exemplars[i], element) for i in chosen.tolist()]
                packed = b"".join(
                    part for pair in zip(_records(packed, len(chosen)), own, strict=True) for part in pair
                )
            yield head + packed
            head = b""
    yield head + _COPY_END


def _packed(rows: TargetRows, names: list[bytes], chosen: I64) -> bytes:
    """Return the chosen rows, whose ids have one length, as they are sent, up to the exemplars."""
    length, dim = len(names[0]), rows.templates.shape[1]
    expires = datetime.fromisoformat(rows.tags["expires_at"]) - _EPOCH
    micros = (expires.days * 86_400 + expires.seconds) * 1_000_000 + expires.microseconds
    tags = [rows.tags["lease_id"].encode(), rows.tags["purpose"].encode(), struct.pack(">q", micros)]
    tags += [rows.tags["model_digest"].encode()]
    tail = b"".join(struct.pack(">i", len(field)) + field for field in tags)
    layout = [("fields", ">i2"), ("id_bytes", ">i4"), ("id", "V", length), ("bytes", ">i4"), ("dim", ">i2")]
    layout += [("unused", ">i2"), ("template", ">f4", dim), ("version_bytes", ">i4"), ("version", ">i8")]
    out = np.zeros(len(names), np.dtype([*layout, ("tail", "V", len(tail))]))
    out["fields"] = len(COLUMNS) + (rows.exemplars is not None)
    out["id_bytes"], out["id"] = length, np.frombuffer(b"".join(names), f"V{length}")
    out["bytes"], out["dim"], out["template"] = 4 + 4 * dim, dim, rows.templates[chosen]
    out["version_bytes"], out["version"], out["tail"] = 8, rows.versions[chosen], np.void(tail)
    return out.tobytes()


def _records(packed: bytes, count: int) -> Iterator[bytes]:
    """Yield the records of equal length that bytes consist of."""
    size = len(packed) // count
    return (packed[start : start + size] for start in range(0, len(packed), size))


def _halfvec_array(vectors: F16, element: int) -> bytes:
    """Return float16 vectors (k, dim) as a field of the type `halfvec[]`.

    PostgreSQL's array_recv reads the number of dimensions (0 if it is empty), flags and the element type, per dimension
    its length and first index, then the elements as fields; pgvector's halfvec_recv as vector_recv, with float16.
    """
    count, dim = vectors.shape
    head = struct.pack(">iii", int(count > 0), 0, element - (1 << 32) if element >= 1 << 31 else element)
    kind = np.dtype([("bytes", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("values", ">f2", (dim,))])
    parts = np.zeros(count, kind)
    parts["bytes"], parts["dim"], parts["values"] = kind.itemsize - 4, dim, vectors
    body = head + (struct.pack(">ii", count, 1) if count else b"") + parts.tobytes()
    return struct.pack(">i", len(body)) + body
