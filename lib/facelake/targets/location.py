"""URLs of targets: which engine, where, and the name of the table. Credentials come from the environment only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from facelake.errors import ConfigError

DEFAULT_TABLE = "facelake_gallery"
SCHEMES = ("postgresql", "qdrant", "milvus", "lancedb")
KEEPS = {
    "postgresql": "segments of the write-ahead log until they are overwritten (at once with wal_recycle=off); archives",
    "qdrant": "segments until the server's optimizer has rewritten them; its write-ahead log; snapshots",
    "milvus": "segments until the server's compaction and garbage collection (dataCoord.gc), by default hours",
    "lancedb": "object versions, if the bucket keeps them",
}
"""where an engine may keep deleted rows after `Target.compact`, and until when"""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_NEXT = (
    "write postgresql://host/database, qdrant://host:6333, milvus://host:19530 or lancedb:///folder, with ?table=NAME"
)
_SECRET = re.compile(r"pass|secret|token|key|auth", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a target is.

    Attributes:
        scheme: postgresql, qdrant, milvus or lancedb.
        user: of the database; empty: the engine's default.
        host: empty for a local folder or socket.
        port: None: the engine's default.
        path: the database, or the folder.
        table: name of the table or collection.
        options: other parameters of the URL, such as `sslmode`.
    """

    scheme: str
    user: str
    host: str
    port: int | None
    path: str
    table: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> Location:
        """Parse a URL.

        Raises:
            ConfigError: an unknown scheme, credentials in the URL, or a table name that is not a plain word.
        """
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise ConfigError(f"no target {parts.scheme or url[:20]!r}", where="--to", next_step=_NEXT)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.password is not None or any(_SECRET.search(name) for name in options):
            next_step = "set PGPASSWORD, QDRANT_API_KEY, MILVUS_TOKEN or LANCEDB_API_KEY, and leave it out of the URL"
            raise ConfigError("the URL contains credentials", where="--to", next_step=next_step)
        table = options.pop("table", DEFAULT_TABLE)
        if not _NAME.fullmatch(table):
            next_step = "use lower-case letters, digits and _, at most 48, beginning with a letter"
            raise ConfigError(f"{table!r} is not a name of a table", where="--to", next_step=next_step)
        try:
            port = parts.port
        except ValueError as err:
            raise ConfigError(f"not a port: {err}", where="--to", next_step=_NEXT) from err
        host = parts.hostname or ""
        return cls(parts.scheme, parts.username or "", host, port, parts.path, table, tuple(sorted(options.items())))

    @property
    def shown(self) -> str:
        """The URL without user and options, by which a lease names its target."""
        port = f":{self.port}" if self.port else ""
        host = self.host or dict(self.options).get("host", "")  # the folder of a socket
        return f"{self.scheme}://{host}{port}{self.path}?table={self.table}"
