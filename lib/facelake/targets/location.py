"""URLs of targets: which engine, where, and the name of the table. Credentials come from the environment only.

A place has one name, whatever it is spelled like in the URL (`canonical.py`): leases and records name targets by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, urlsplit

from facelake.errors import ConfigError
from facelake.targets.canonical import DEFAULT_PORTS, database, folder, folders, host_name, prefix, with_environment
from facelake.targets.url_options import FOLDER_OF_SOCKET, check_options

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
_SECRET = re.compile(r"pass|secret|token|key|auth", re.IGNORECASE)
_CREDENTIALS = "set PGPASSWORD, QDRANT_API_KEY, MILVUS_TOKEN or the AWS_* variables instead"


@dataclass(frozen=True, slots=True)
class Location:
    """Where a target is.

    Attributes:
        scheme: postgresql, qdrant, milvus, lancedb (a folder) or lancedb+s3.
        user: of the database; empty: the engine's default.
        host: empty for a local folder or socket; the bucket.
        port: None: the engine's default.
        path: the database, or the folder with symbolic links resolved.
        table: name of the table or collection.
        options: other parameters of the URL, such as `sslmode`.
        given: the name as the URL spells it, under which earlier versions recorded the target.
    """

    scheme: str
    user: str
    host: str
    port: int | None
    path: str
    table: str
    options: tuple[tuple[str, str], ...] = ()
    given: str = ""

    @classmethod
    def parse(cls, url: str) -> Location:
        """Parse a URL. No error repeats a part of it in which a password could be.

        Raises:
            ConfigError: an unknown scheme or parameter, credentials in the URL, or a table name that is not a plain
                word.
        """
        parts = _split(url)
        options = _options(parts)
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
        check_options(parts, options)
        try:
            port = parts.port
        except ValueError as err:
            next_step = f"write a number up to 65535; if it is a part of a password, {_CREDENTIALS}"
            raise ConfigError("what follows the host is not a port", where="--to", next_step=next_step) from err
        host = parts.netloc if parts.scheme == "lancedb+s3" else parts.hostname or ""  # which is in lower case
        written = cls(parts.scheme, parts.username or "", host, port, parts.path, table, tuple(sorted(options.items())))
        return written._canonical()

    def _canonical(self) -> Location:
        """Return the location in the one spelling that its place has."""
        host, port, path, options = self.host, self.port, self.path, dict(self.options)
        if self.scheme == "postgresql":
            host, port, path, options = with_environment(host, port, path, options)
        if self.scheme == "lancedb+s3":
            path = prefix(path)
        elif host or self.scheme == "postgresql":
            host, path = host_name(host), database(path)
            port = None if port == DEFAULT_PORTS.get(self.scheme) else port
        else:
            path = folder(path)
        if FOLDER_OF_SOCKET in options:
            options[FOLDER_OF_SOCKET] = folders(options[FOLDER_OF_SOCKET])
        ordered = tuple(sorted(options.items()))
        return Location(self.scheme, self.user, host, port, path, self.table, ordered, self.shown)

    @property
    def shown(self) -> str:
        """The URL without user and most options, by which a lease names its target."""
        port, given = f":{self.port}" if self.port else "", dict(self.options)
        host = f"[{self.host}]" if ":" in self.host else self.host  # IPv6
        host = host or given.get(FOLDER_OF_SOCKET, "")
        settings = f"&options={given['options']}" if "options" in given else ""  # which may choose the schema
        return f"{self.scheme}://{host}{port}{self.path}?table={self.table}{settings}"

    def is_named(self, name: str | None) -> bool:
        """Whether a lease or record means this place by a name, which may be of a version that spelled it otherwise."""
        if name is None:
            return False
        if name in (self.shown, self.given):
            return True
        try:
            return Location.parse(name).shown == self.shown
        except ConfigError:
            return False

    @property
    def stored_at(self) -> str | None:
        """The folder, file or s3:// prefix in which the engine stores its rows; None: it is a server's."""
        if self.scheme == "lancedb+s3":
            return f"s3://{self.host}{self.path}"
        return self.path if self.scheme != "postgresql" and not self.host else None


def _split(url: str) -> SplitResult:
    """Return the parts of a URL.

    Raises:
        ConfigError: it is none of a target, or has credentials, perhaps with characters that end a host.
    """
    try:
        parts = urlsplit(url)
    except ValueError as err:  # a bracket that is not closed
        raise ConfigError("not a URL of a target", where="--to", next_step=f"{_NEXT}; {_CREDENTIALS}") from err
    named = url.lower().startswith(f"{parts.scheme}://")
    if parts.scheme not in SCHEMES or not named:
        what = f"no target {parts.scheme}://" if named and parts.scheme else "not a URL of a target"
        raise ConfigError(what, where="--to", next_step=_NEXT)
    if parts.scheme in DEFAULT_PORTS and parts.netloc and "@" in f"{parts.path}{parts.query}{parts.fragment}":
        what = "the URL has an @ behind the host, as one with a password of unquoted characters has"
        raise ConfigError(what, where="--to", next_step=_CREDENTIALS)
    if parts.password is not None:
        raise ConfigError("the URL contains credentials", where="--to", next_step=_CREDENTIALS)
    if "#" in url:
        raise ConfigError("the URL has a #, after which nothing is read", where="--to", next_step=_NEXT)
    return parts


def _options(parts: SplitResult) -> dict[str, str]:
    """Return the parameters of a URL.

    Raises:
        ConfigError: credentials are among them, or one is given twice.
    """
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    if any(_SECRET.search(name) for name, _ in pairs):
        raise ConfigError("the URL contains credentials", where="--to", next_step=_CREDENTIALS)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ConfigError("a parameter of the URL is given twice", where="--to", next_step="leave one of them out")
    return options
