"""Serves the review page: bind a socket, report a one-time link, serve until stopped."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from facelake.errors import ConfigError
from facelake.stages.review.session import ReviewSession
from facelake.web.app import build_app
from facelake.web.guard import Guard, Keys, is_loopback


def bind(host: str, port: int, *, exposed: bool) -> socket.socket:
    """Return a listening socket; port 0 takes any free one.

    Raises:
        ConfigError: other machines could reach the address and `exposed` is false; the port is taken.
    """
    if not exposed and not is_loopback(host):
        what = "other machines could reach the page, without encryption"
        next_step = "use an ssh tunnel (docs/review.md), or give --expose to accept this"
        raise ConfigError(what, where=f"--host {host}", next_step=next_step)
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
    except OSError as err:
        next_step = "choose another --port, or 0 for any free one"
        raise ConfigError(f"cannot listen: {err}", where=f"{host}:{port}", next_step=next_step) from err
    return listener


def serve(
    session: ReviewSession, listener: socket.socket, host: str, ready: Callable[[str], None], *, exposed: bool
) -> None:
    """Serve until the process is interrupted or terminated.

    Args:
        session: the review session to serve.
        listener: socket of `bind`.
        host: the host name that the link shows.
        ready: called with the link when the page can be opened.
        exposed: whether other machines may reach the page.
    """
    port = int(listener.getsockname()[1])
    keys = Keys(port)
    hosts = [host, socket.gethostname()] if exposed else [host]
    guarded = Guard(build_app(session, keys), keys, hosts, exposed=exposed)
    config = uvicorn.Config(
        guarded,
        log_level="warning",
        access_log=False,
        ws="none",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=5,
    )

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    url_host = f"[{host}]" if ":" in host else host
    try:
        ready(f"http://{url_host}:{port}/#ticket={keys.ticket}")
        uvicorn.Server(config).run(sockets=[listener])
    except SystemExit:  # uvicorn raises the signal again after it has stopped
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()
        session.close()
