"""URLs of targets: which engine, where, and the name of the table. Credentials come from the environment only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from facelake.errors import ConfigError

DEFAULT_TABLE = "facelake_gallery"
SCHEMES = ("postgresql", "qdrant", "milvus", "lancedb", "lancedb+s3")
KEEPS = {
    "postgresql": "segments of the write-ahead log until they are overwritten (at once with wal_recycle=off); archives",
    "qdrant": "segments until the server's optimizer has rewritten them; its write-ahead log; snapshots",
    "milvus": "segments until the server's compaction and garbage collection (dataCoord.gc), by default hours",
    "lancedb": "backups of the folder",
    "lancedb+s3": "replicas and backups of the bucket",
}
"""where an engine may keep deleted rows after `Target.compact`, and until when"""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_NEXT = (
    "write postgresql://host/database, qdrant://host:6333, milvus://host:19530, lancedb:///folder or "
    "lancedb+s3://bucket/prefix, with ?table=NAME"
)
_OWN = ("_record", "_next", "__")  # in names of tables that facelake makes beside the one of the URL
_PLACES = frozenset(("dbname", "port", "hostaddr", "service"))
"""parameters of PostgreSQL by which two URLs of one name would be two databases"""
_SECRET = re.compile(r"pass|secret|token|key|auth", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a target is.

    Attributes:
        scheme: postgresql, qdrant, milvus, lancedb (a folder) or lancedb+s3.
        user: of the database; empty: the engine's default.
        host: empty for a local folder or socket; the bucket.
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
            next_step = "set PGPASSWORD, QDRANT_API_KEY, MILVUS_TOKEN or the AWS_* variables instead"
            raise ConfigError("the URL contains credentials", where="--to", next_step=next_step)
        if parts.scheme.startswith("lancedb") and bool(parts.netloc) != (parts.scheme == "lancedb+s3"):
            next_step = "write lancedb:///folder (three slashes) or lancedb+s3://bucket/prefix"
            raise ConfigError("the URL names no folder and no bucket", where="--to", next_step=next_step)
        if parts.scheme == "lancedb+s3" and (parts.username or ":" in parts.netloc):
            next_step = "write lancedb+s3://bucket/prefix, and set AWS_ENDPOINT_URL for a server of your own"
            raise ConfigError("the URL names a user or port", where="--to", next_step=next_step)
        table = options.pop("table", DEFAULT_TABLE)
        if not _NAME.fullmatch(table):
            next_step = "use lower-case letters, digits and _, at most 48, beginning with a letter"
            raise ConfigError(f"{table!r} is not a name of a table", where="--to", next_step=next_step)
        if table.endswith(_OWN[:2]) or _OWN[2] in table:
            next_step = f"names that end with {_OWN[0]} or {_OWN[1]}, or have {_OWN[2]}, are facelake's own"
            raise ConfigError(f"{table!r} may be the name of another target's table", where="--to", next_step=next_step)
        places = _PLACES | ({"host"} if parts.hostname else set())
        if parts.scheme == "postgresql" and (twice := sorted(places & options.keys())):
            next_step = "write postgresql://user@host:port/database; only the folder of a socket is ?host=/folder"
            raise ConfigError(
                f"the URL's parameters name another place: {', '.join(twice)}", where="--to", next_step=next_step
            )
        try:
            port = parts.port
        except ValueError as err:
            raise ConfigError(f"not a port: {err}", where="--to", next_step=_NEXT) from err
        host = parts.netloc if parts.scheme == "lancedb+s3" else parts.hostname or ""  # which is in lower case
        return cls(parts.scheme, parts.username or "", host, port, parts.path, table, tuple(sorted(options.items())))

    @property
    def shown(self) -> str:
        """The URL without user and most options, by which a lease names its target."""
        port, given = f":{self.port}" if self.port else "", dict(self.options)
        host = self.host or given.get("host", "")  # the folder of a socket
        settings = f"&options={given['options']}" if "options" in given else ""  # which may choose the schema
        return f"{self.scheme}://{host}{port}{self.path}?table={self.table}{settings}"

    @property
    def stored_at(self) -> str | None:
        """The folder, file or s3:// prefix in which the engine stores its rows; None: it is a server's."""
        if self.scheme == "lancedb+s3":
            return f"s3://{self.host}{self.path}"
        return self.path if self.scheme != "postgresql" and not self.host else None
