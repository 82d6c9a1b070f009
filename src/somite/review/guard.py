"""Who may ask: only the page of this server, opened by the address that was printed, on this machine.

Four checks, each for another attack. The token: other users and programs of this machine. The name of the
host: a site whose name was turned to point at this machine (DNS rebinding). The origin, and where the browser
says that a request comes from: other pages in the same browser. The policy of contents: whatever would get
into the page all the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from somite.review.paths import Refused

LARGEST_POST = 16 * 1024
"""Bytes."""
HOSTS = ("127.0.0.1", "localhost")
"""Any port: that of a tunnel is another than the server's."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ALWAYS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every answer; a page of its own policy overrides the first."""


@dataclass(frozen=True)
class Request:
    """What was asked. Names of headers are lower case; a header that came twice has both values."""

    method: str
    target: str
    headers: Mapping[str, tuple[str, ...]]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path of the address, not decoded."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> str:
        """The value of a header, empty where there is none.

        Raises:
            Refused: 400: it came twice.
        """
        values = self.headers.get(name, ())
        if len(values) > 1:
            raise Refused(400, f"the header {name} came twice")
        return values[0] if values else ""


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    kind: str
    """Its media type."""
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def cookie_name(port: int) -> str:
    """Cookies are of a host, not of a port: two raters' servers have two."""
    return f"somite_review_{port}"


def cookie(token: str, port: int) -> str:
    """The header that leaves the token with the browser: no script reads it, no other site sends it."""
    return f"{cookie_name(port)}={token}; Path=/; HttpOnly; SameSite=Strict"


def check(request: Request, token: str, port: int) -> None:
    """Let a request pass, or not.

    Raises:
        Refused: 400, 403 or 405.
    """
    if request.method not in ("GET", "POST"):
        raise Refused(405, "only GET and POST are answered")
    if not request.target.startswith("/"):
        raise Refused(400, "the address is not a path")
    host = request.header("host")
    if _host_name(host) not in HOSTS:
        raise Refused(403, "this name is not one of this machine's own")
    origin = request.header("origin")
    if origin != f"http://{host}" and (origin or request.method == "POST"):
        raise Refused(403, "another page asked")
    given = _token_of_address(request)
    came_from = request.header("sec-fetch-site")
    if came_from not in ("", "none", "same-origin") and not given:
        raise Refused(403, "another page asked")
    if not _same(given or _token_of_cookie(request, port), token):
        raise Refused(403, "open the whole address that `somite review` printed: it holds the token")


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _token_of_address(request: Request) -> str:
    """The token in the address of the page; other addresses take none."""
    path, _, query = request.target.partition("?")
    if path != "/" or request.method != "GET":
        return ""
    return parse_qs(query).get("token", [""])[0]


def _token_of_cookie(request: Request, port: int) -> str:
    try:
        found = SimpleCookie(request.header("cookie")).get(cookie_name(port))
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())
