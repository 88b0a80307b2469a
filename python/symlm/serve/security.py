"""Who may ask: hosts, origins and keys; and the headers of every answer.

A page of any site can send requests to a server on the loopback interface. Its browser names the page in `Origin`; and
where a site has its own name point to 127.0.0.1, the name is in `Host`. So both are checked.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import UsageError, shown
from .answering import refuse
from .problems import Problem

OPEN_PATHS = frozenset({"/", "/health", "/page.js", "/page.css", "/icon.svg"})
"""What needs no key: nothing in it is about the model."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_PREFLIGHT = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Max-Age": "600"}
_USUAL_HEADERS = "Authorization, Content-Type"


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([^\s/:*?#@\[\]]+|\[[0-9a-f:.]+\])(:\d+)?")
_HOST = re.compile(r"[^\s/:*?#@\[\]]+|[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*")


@dataclass(frozen=True)
class Doors:
    """Who is let in."""

    loopback: bool
    """Whether the server listens at the loopback interface alone."""
    hosts: frozenset[str]
    """Further names of the server, in lower case."""
    origins: frozenset[str]
    """Sites whose pages may ask, such as `https://example.org`."""
    keys: tuple[bytes, ...]
    """One of these is needed, if there are any."""

    def knows_host(self, host: str) -> bool:
        """Whether a `Host` header names this server. An address cannot be another site's name."""
        name = host_name(host)
        if name == "localhost" or name in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback

    def knows_origin(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may ask: one of the server itself, or of a site that was named."""
        scheme, _, rest = origin.lower().partition("://")
        return origin.lower() in self.origins or (scheme in ("http", "https") and rest == host.lower())

    def knows_key(self, authorization: str) -> bool:
        """Whether a header `Authorization: Bearer KEY` has one of the keys."""
        scheme, _, key = authorization.partition(" ")
        # The bytes as they came: a header is read as Latin-1, which gives every byte a character.
        given = key.strip(" \t").encode("latin-1")
        # All are compared, so that the time says nothing.
        found = [hmac.compare_digest(given, one) for one in self.keys]
        return scheme.lower() == "bearer" and any(found)


def host_name(host: str) -> str:
    """The name in a `Host` header, without the port and the brackets of IPv6."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


class Guard:
    """Lets requests through to an app that may come, and adds headers to every answer."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self._app, self._doors = app, doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed = origin is not None and origin.lower() in self._doors.origins

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    found[name] = value
                if self._doors.origins:
                    found.append("Vary", "Origin")
                if allowed and origin is not None:
                    found["Access-Control-Allow-Origin"] = origin
                    found["Access-Control-Expose-Headers"] = "Retry-After"
                    found["Cross-Origin-Resource-Policy"] = "cross-origin"
            await send(message)

        try:
            self._check(scope, headers, preflight=allowed and scope["method"] == "OPTIONS")
        except Problem as problem:
            await refuse(problem, scope, receive, with_headers)
            return
        if allowed and scope["method"] == "OPTIONS":
            start = {"type": "http.response.start", "status": 204, "headers": []}
            found = MutableHeaders(scope=start)
            for name, value in _PREFLIGHT.items():
                found[name] = value
            # Clients add headers that say what they are. No header does anything here but those that are checked.
            found["Access-Control-Allow-Headers"] = headers.get("access-control-request-headers", _USUAL_HEADERS)
            found["Vary"] = "Access-Control-Request-Headers"
            await with_headers(start)
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, with_headers)

    def _check(self, scope: Scope, headers: Headers, preflight: bool) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._doors.knows_host(hosts[0]):
            found = shown(hosts[0]) if hosts else "none"
            raise Problem(
                f"found {found} as host, expected the address of this server (--allow-host NAME lets more in)",
                status=403,
                code="host_not_allowed",
            )
        for origin in headers.getlist("origin"):
            if not self._doors.knows_origin(origin, hosts[0]):
                raise Problem(
                    f"pages of {shown(origin)} may not use this server (--allow-origin ORIGIN lets them)",
                    status=403,
                    code="origin_not_allowed",
                )
        if preflight or not self._doors.keys or scope["path"] in OPEN_PATHS:
            return
        if not self._doors.knows_key(headers.get("authorization", "")):
            raise Problem(
                "this server needs a key, as in: Authorization: Bearer KEY",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def keys_of(text: str) -> tuple[bytes, ...]:
    """The keys in a text, one a line; empty lines and those that begin with # are none."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line.encode() for line in lines if line and not line.startswith("#"))


def checked_origins(origins: Sequence[str]) -> frozenset[str]:
    """Origins in lower case, without a slash at the end; UsageError for one that no page has."""
    found = [origin.lower().rstrip("/") for origin in origins]
    for given, origin in zip(origins, found, strict=True):
        if not _ORIGIN.fullmatch(origin):
            raise UsageError(
                f"--allow-origin: found {shown(given)}, expected a scheme and a host, as in https://example.org",
                "name each site; no wildcard stands for all of them",
            )
    return frozenset(found)


def checked_hosts(hosts: Iterable[str]) -> frozenset[str]:
    """Names of the server in lower case; UsageError for what is none."""
    for host in hosts:
        if not _HOST.fullmatch(host.lower()):
            raise UsageError(
                f"--allow-host: found {shown(host)}, expected a name or an address, as in box.local",
                "without a port: the name counts at every port",
            )
    return frozenset(host.lower() for host in hosts)


def is_loopback(addresses: Sequence[str]) -> bool:
    """Whether all addresses are of the loopback interface."""
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)
