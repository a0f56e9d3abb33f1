"""The isolation of a local Ray from other hosts and accounts, set before Ray is imported: Ray reads it at its import.

Ray's daemons, agents and workers listen on the host's external address, and by default share one token file among all
runs. They listen on loopback only if clusters are disabled, which Ray does by itself on macOS and Windows.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from ipaddress import ip_address

from facelake.config import RaySection
from facelake.errors import ConfigError

_NO_CLUSTER = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # despite its name, Ray reads it on every system


def isolate_local_ray(section: RaySection) -> None:
    """Restrict a local Ray to loopback and give it a token of its own, in the environment of its processes and in no
    file. A configured cluster keeps its addresses and its token.
    """
    if section.address is None and "ray" not in sys.modules:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.update(_NO_CLUSTER | token)
        os.environ.pop("RAY_AUTH_TOKEN_PATH", None)


def must_be_isolated() -> None:
    """Check, before a local Ray starts, that it was isolated.

    Raises:
        ConfigError: Ray was imported before it could be isolated.
    """
    wanted = _NO_CLUSTER | {"RAY_AUTH_MODE": "token"}
    if not os.environ.get("RAY_AUTH_TOKEN") or any(os.environ.get(name) != value for name, value in wanted.items()):
        raise ConfigError(
            "Ray was imported before facelake, so that a local Ray would be open to other hosts",
            where="ray.address",
            next_step="run this step in a process that has not imported ray, or set ray.address to a cluster",
        )


def must_be_on_loopback(address: str, *, stop: Callable[[], None]) -> None:
    """Check that a local Ray that has started is not reachable from other hosts; it is stopped if it is.

    Args:
        address: host and port of Ray's head.
        stop: ends Ray.

    Raises:
        ConfigError: the host is not a loopback address, as a version of Ray might choose that ignores the setting.
    """
    host = address.rpartition(":")[0].strip("[]")
    if not ip_address(host).is_loopback:
        stop()
        next_step = "install the version of Ray that constraints.txt names"
        raise ConfigError("a local Ray listens on an external address", where=address, next_step=next_step)
