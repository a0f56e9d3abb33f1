"""Which parameters the URL of a target may have: a mistyped one would change nothing, and nobody would know."""

from __future__ import annotations

import difflib
from urllib.parse import SplitResult

from facelake.errors import ConfigError

FOLDER_OF_SOCKET = "host"
"""the parameter of PostgreSQL that names the folder of a socket"""
_PLACES = frozenset(("dbname", "port", "hostaddr", "service"))
"""parameters of PostgreSQL by which two URLs of one name would be two databases"""
_LIBPQ = frozenset((
    "application_name", "channel_binding", "client_encoding", "connect_timeout", "gssdelegation", "gssencmode",
    "gsslib", "host", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname",
    "load_balance_hosts", "options", "requirepeer", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert",
    "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslmode", "sslnegotiation", "sslrootcert", "sslsni",
    "target_session_attrs", "tcp_user_timeout", "user",
))  # fmt: skip
_KNOWN = {"postgresql": _LIBPQ, "qdrant": frozenset(("tls",)), "milvus": frozenset(("tls",))}


def check_options(parts: SplitResult, options: dict[str, str]) -> None:
    """Check the parameters of a URL but `table`.

    Raises:
        ConfigError: one of them, or the path of a Qdrant server, means nothing; or one names another place.
    """
    scheme, server = parts.scheme, bool(parts.netloc)
    places = _PLACES | ({FOLDER_OF_SOCKET} if parts.hostname else set())
    if scheme == "postgresql" and (twice := sorted(places & options.keys())):
        next_step = "write postgresql://user@host:port/database; only the folder of a socket is ?host=/folder"
        what = f"the URL's parameters name another place: {', '.join(twice)}"
        raise ConfigError(what, where="--to", next_step=next_step)
    known = _KNOWN.get(scheme, frozenset()) if server or scheme == "postgresql" else frozenset()
    for name in sorted(options.keys() - known):
        near = difflib.get_close_matches(name, [*known, "table"], 1)
        listed = ", ".join(sorted({*known, "table"}))
        next_step = f"did you mean {near[0]}?" if near else f"known are: {listed}"
        raise ConfigError(f"{scheme}:// has no parameter {name!r}", where="--to", next_step=next_step)
    if scheme != "postgresql" and options.get("tls", "true") not in ("true", "false"):
        raise ConfigError("tls is neither true nor false", where="--to", next_step="write tls=true or tls=false")
    if scheme == "qdrant" and server and parts.path.strip("/"):
        next_step = "write qdrant://host:6333?table=NAME, or qdrant:///folder for its local mode"
        raise ConfigError("the URL of a Qdrant server has no path", where="--to", next_step=next_step)
