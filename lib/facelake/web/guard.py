"""Who may speak to the review page: a key that works once, a cookie, the right host, the right origin.

Loopback is no boundary by itself: every page that is open in the reviewer's browser can send requests there, and a name
that an attacker owns can be made to point there (DNS rebinding). So requests are judged by what a browser says of them.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_MOST_BYTES = 1 << 20  # of a request's body
_API = "/api/"
_SIGN_IN = "/api/session"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class Keys:
    """The secrets of one session of the page; both of 256 bits."""

    port: int
    ticket: str | None = field(default_factory=lambda: secrets.token_urlsafe(32))
    """in the link's fragment, which browsers do not send; None once it was used"""
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @property
    def name(self) -> str:
        """Of the cookie: browsers share cookies among the ports of a host."""
        return f"facelake-review-{self.port}"

    def redeem(self, ticket: str) -> str | None:
        """The cookie for a ticket, once."""
        if self.ticket is None or not _same(self.ticket, ticket):
            return None
        self.ticket = None
        return f"{self.name}={self.cookie}; Path=/; HttpOnly; SameSite=Strict"

    def opens(self, cookies: str) -> bool:
        """Does a Cookie header hold the key?"""
        try:
            held = SimpleCookie(cookies).get(self.name)
        except CookieError:
            return False
        return held is not None and _same(self.cookie, held.value)


def _same(a: str, b: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(a.encode(errors="replace"), b.encode(errors="replace"))


def is_loopback(host: str) -> bool:
    """Does only this machine reach an address?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware: refuses what is not the reviewer's own page, and puts headers on every response."""

    def __init__(self, app: App, keys: Keys, hosts: Iterable[str] = (), exposed: bool = False) -> None:
        """`hosts`: names besides the loopback ones; `exposed`: numeric addresses are fine too (they cannot rebind)."""
        self._app, self._keys = app, keys
        self._hosts, self._exposed = _LOOPBACK | {host.lower() for host in hosts}, exposed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = [(name, value) for name, value in message.get("headers", []) if name.decode() not in HEADERS]
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*given, *ours]}
            await send(message)

        refused = self._refusal(scope)
        if refused is None:
            await self._app(scope, receive, send_with_headers)
            return
        status, what = refused
        start = {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]}
        await send_with_headers(start)
        await send_with_headers({"type": "http.response.body", "body": what.encode()})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and words, or None when the request is the page's own."""
        headers = _headers(scope)
        if headers is None or not self._host_is_ours(headers.get("host", "")):
            return 400, "this page answers to its own name only"
        path = scope["path"]
        if path.startswith(_API) and headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return 403, "a request from another site"
        if scope["method"] not in ("GET", "HEAD") and (wrong := _wrong_post(headers)):
            return wrong
        signs_in = path == _SIGN_IN and scope["method"] == "POST"
        if path.startswith(_API) and not signs_in and not self._keys.opens(headers.get("cookie", "")):
            return 401, "open the link that `facelake review` printed; it works once"
        return None

    def _host_is_ours(self, host: str) -> bool:
        """By name: behind an ssh tunnel the port is another one."""
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._exposed


def _headers(scope: Scope) -> dict[str, str] | None:
    """None where one that matters stands twice."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in found and key in ("host", "origin", "cookie", "content-type", "sec-fetch-site"):
            return None
        found[key] = value.decode("latin-1")
    return found


def _wrong_post(headers: dict[str, str]) -> tuple[int, str] | None:
    """A page of another origin can post, but not JSON and not as us; a body is small and of a known size."""
    if headers.get("origin", "") not in (f"http://{headers['host']}", f"https://{headers['host']}"):
        return 403, "a request from another origin"
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return 415, "JSON only"
    length = headers.get("content-length", "")
    if not length.isdigit() or int(length) > _MOST_BYTES:
        return 413, "the body is too long"
    return None
