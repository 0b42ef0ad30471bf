"""Which names a server answers to, whose pages may call it, and what its own pages may do.

A page of another site can make a browser send requests to a server on the same machine. By rebinding its own name to a
loopback address it can even read the answers. The check of Origin prevents the first, the check of Host the second. A
server that asks for keys gives such a page nothing, since no browser adds a key by itself.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

from staffstream.errors import HostNotAllowed, OriginNotAllowed
from staffstream.settings import Settings

_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline';"
    " object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


class HostCheck:
    """The checks of one app. `keyless` when callers are not identified: then the default is to answer only to the
    address that a request came in by, and to the loopback names. Those are always known: no name can be rebound to be
    one of them, and health checks and Prometheus use them.
    """

    def __init__(self, settings: Settings, *, keyless: bool) -> None:
        self._hosts = set(settings.allowed_hosts) or (set() if keyless else {"*"})
        self._keyless = keyless
        self._own = _LOOPBACK_NAMES | ({settings.host.lower()} if keyless else set())
        self._origins = set(settings.cors_origins)

    def check(self, scope: Scope) -> None:
        """Let the request in, or raise HostNotAllowed or OriginNotAllowed."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host and not self._knows_host(host, scope):  # only very old clients send none, and no browser
            raise HostNotAllowed
        if scope["method"] not in _SAFE_METHODS and not self._allows_origin(headers, host):
            raise OriginNotAllowed

    def _knows_host(self, host: str, scope: Scope) -> bool:
        name = _cut_port(host)
        address = (scope.get("server") or ("",))[0].lower()
        return "*" in self._hosts or name in self._hosts | self._own or (self._keyless and name == address)

    def _allows_origin(self, headers: Headers, host: str) -> bool:
        """Whether the page that sent this, if it was one, is ours or named. A page cannot choose Sec-Fetch-Site; it
        tells ours behind a proxy that changes Host.
        """
        origin = headers.get("origin", "").lower()
        site = headers.get("sec-fetch-site")
        if site in ("same-origin", "none") or "*" in self._origins or origin in self._origins:
            return True
        if not origin:
            return site is None  # a program: every browser of today sends one of the two
        return _find_authority(origin) == host


def _find_authority(origin: str) -> str | None:
    """The host and port of an origin; None if it is not one, since a program may send anything."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _cut_port(host: str) -> str:
    """The name of a Host header: `[::1]:8001` is `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def protect_page(headers: MutableHeaders) -> None:
    """Add to a response the headers that keep other sites from using it."""
    headers.setdefault("X-Content-Type-Options", "nosniff")
    if headers.get("content-type", "").startswith("text/html"):
        for name, value in PAGE_HEADERS.items():
            headers.setdefault(name, value)
