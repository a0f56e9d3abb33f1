"""Authenticates requests to the review page: a one-time ticket, a token, a cookie, the right host and origin.

Listening on loopback does not suffice: any page open in the reviewer's browser can send requests there, and a name that
an attacker owns can resolve to it (DNS rebinding). Hence every request is checked by the headers that browsers set.
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
_MAX_BODY_BYTES = 1 << 20
_API = "/api/"
_SIGN_IN = "/api/session"
TOKEN = "x-facelake-token"
"""Header with the page's token."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
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
    """The secrets of one session of the page, each of 256 bits."""

    port: int
    ticket: str | None = field(default_factory=lambda: secrets.token_urlsafe(32))
    """Part of the link's fragment, which browsers do not send to servers; None after use."""
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """Kept by the page and sent in a header: browsers send cookies to every port of a host, and so to other servers."""

    @property
    def name(self) -> str:
        """Return the cookie's name; it includes the port, since browsers share cookies among the ports of a host."""
        return f"facelake-review-{self.port}"

    def redeem(self, ticket: str) -> str | None:
        """Return the Set-Cookie value for a valid ticket, once; otherwise None."""
        if self.ticket is None or not _equal(self.ticket, ticket):
            return None
        self.ticket = None
        return f"{self.name}={self.cookie}; Path=/; HttpOnly; SameSite=Strict"

    def opens(self, cookies: str, token: str) -> bool:
        """Return whether a Cookie header carries the session's secret, and the page its token."""
        try:
            cookie = SimpleCookie(cookies).get(self.name)
        except CookieError:
            return False
        return cookie is not None and _equal(self.cookie, cookie.value) and _equal(self.token, token)


def _equal(a: str, b: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(a.encode(errors="replace"), b.encode(errors="replace"))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware: refuses requests that do not come from the reviewer's own page; adds security headers."""

    def __init__(self, app: App, keys: Keys, hosts: Iterable[str] = (), *, exposed: bool = False) -> None:
        """Wrap an application.

        Args:
            app: the ASGI application.
            keys: the session's secrets.
            hosts: host names that requests may use besides the loopback ones.
            exposed: also accept numeric addresses as host, which DNS rebinding cannot use.
        """
        self._app, self._keys = app, keys
        self._hosts, self._exposed = _LOOPBACK | {host.lower() for host in hosts}, exposed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message.get("headers", []) if name.decode() not in HEADERS]
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*headers, *own]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
            return
        status, reason = refusal
        start = {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]}
        await send_with_headers(start)
        await send_with_headers({"type": "http.response.body", "body": reason.encode()})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return an HTTP status and a reason, or None for a request of the page itself."""
        headers = _headers(scope)
        if headers is None or not self._host_is_ours(headers.get("host", "")):
            return 400, "unknown host name"
        path = scope["path"]
        if path.startswith(_API) and headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return 403, "refused: the request comes from another site"
        if scope["method"] not in ("GET", "HEAD") and (refusal := _refuse_post(headers)):
            return refusal
        signs_in = path == _SIGN_IN and scope["method"] == "POST"
        if (
            path.startswith(_API)
            and not signs_in
            and not self._keys.opens(headers.get("cookie", ""), headers.get(TOKEN, ""))
        ):
            return 401, "open the link that `facelake review` printed; it works once"
        return None

    def _host_is_ours(self, host: str) -> bool:
        """Check the host name without its port, which differs behind an ssh tunnel."""
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._exposed


def _headers(scope: Scope) -> dict[str, str] | None:
    """Return the headers by lower-case name; None if a security-relevant one occurs twice."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in headers and key in ("host", "origin", "cookie", "content-type", "sec-fetch-site", TOKEN):
            return None
        headers[key] = value.decode("latin-1")
    return headers


def _refuse_post(headers: dict[str, str]) -> tuple[int, str] | None:
    """Refuse a POST of another origin, of another type than JSON, or with a body too long or of unknown length."""
    if headers.get("origin", "") not in (f"http://{headers['host']}", f"https://{headers['host']}"):
        return 403, "refused: the request comes from another origin"
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return 415, "send JSON"
    length = headers.get("content-length", "")
    if not length.isdigit() or int(length) > _MAX_BODY_BYTES:
        return 413, "the body is too long"
    return None
