"""The one spelling of a place: otherwise a target would be taken for a copy of itself, or a new one for an old one."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress

from facelake.errors import ConfigError
from facelake.targets.url_options import FOLDER_OF_SOCKET

DEFAULT_PORTS = {"postgresql": 5432, "qdrant": 6333, "milvus": 19530}


def folders(listed: str) -> str:
    """Return the folders of sockets, of which PostgreSQL's client takes several with commas between them."""
    return ",".join(folder(path) for path in listed.split(","))


def folder(path: str) -> str:
    """Return a local path without `.`, `..`, doubled slashes and symbolic links; empty stays empty."""
    return os.path.realpath(f"/{path.lstrip('/')}") if path else ""


def database(path: str) -> str:
    """Return the path of a server's database: a slash and its name; empty for the default one."""
    name = path.strip("/")
    return f"/{name}" if name else ""


def prefix(path: str) -> str:
    """Return a prefix in a bucket without doubled slashes and those at the end.

    Raises:
        ConfigError: it has `.` or `..`, which some clients resolve and others do not.
    """
    names = [name for name in path.split("/") if name]
    if {".", ".."} & set(names):
        what = "the prefix has . or .., which are names in a bucket"
        raise ConfigError(what, where="--to", next_step="write the prefix without them")
    return "".join(f"/{name}" for name in names)


def host_name(host: str) -> str:
    """Return a host, or several with commas between them, in lower case without the dot of the root; an IPv6 address in
    its short form.
    """
    if "," in host:
        return ",".join(map(host_name, host.split(",")))
    plain = host.lower().rstrip(".")
    with suppress(ValueError):
        return str(ipaddress.ip_address(plain))
    return plain


def with_environment(
    host: str, port: int | None, path: str, options: dict[str, str]
) -> tuple[str, int | None, str, dict[str, str]]:
    """Return host, port, path and options of PostgreSQL with what its client takes from the environment instead.

    Otherwise one URL would name as many databases as there are hosts with other variables.

    Raises:
        ConfigError: PGPORT is not a number.
    """
    if not host and FOLDER_OF_SOCKET not in options and (named := os.environ.get("PGHOST")):
        if named.startswith("/"):
            options = options | {FOLDER_OF_SOCKET: named}
        else:
            host = named
    if port is None and (number := os.environ.get("PGPORT")):
        if not number.isdecimal():
            raise ConfigError("the environment variable PGPORT is not a number", where="--to", next_step="correct it")
        port = int(number)
    if not path.strip("/") and (name := os.environ.get("PGDATABASE")):
        path = f"/{name}"
    return host, port, path, options
