"""Access control of the dashboard: WSGI middleware that checks every request before Dash.

Runs are private. A server on this machine can be reached by other accounts of the machine, and by every web page that
its user visits: the browser sends the page's requests here. So a request must have an allowed Host header (against DNS
rebinding), must not come from another site's page (CSRF), must use GET or HEAD (POST for Dash's callbacks only), and
must have the token.

The token works like Jupyter's: the user opens an address that ends in ?token=... once, and the response sets a cookie.
"""

import hmac
import html
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote_plus

from werkzeug.wrappers import Request, Response

from tfs_core.terminal import escape_control_characters

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from dash import Dash

LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Host names of the loopback interface, which no other web site can have."""

UPDATE_PATH = "/_dash-update-component"
"""Dash's callback endpoint: the only path that accepts POST. Callbacks change no run."""

MAX_BODY_BYTES = 2 * 2**20
"""Maximum size of a request body, more than any page needs. A larger body is rejected before it is read."""

LIBRARY_PATHS = ("/_dash-component-suites/", "/assets/")
"""Static code and styles, which a browser may cache. Everything else is the user's data and is not cached."""

DATA_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of callback responses, which are never pages. Kept short: each open page polls once per second."""

_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\s:/@?#\[\]\\]+)(?::(?P<port>\d{1,5}))?")


class _Shared(NamedTuple):
    name: str
    encrypted: bool


class Gate:
    """WSGI middleware: rejects forbidden requests and adds security headers to every response."""

    def __init__(
        self,
        application: "WSGIApplication",
        *,
        token: str | None,
        script_hashes: Iterable[str],
        names: Iterable[str] = LOCAL_NAMES,
        any_address: bool = False,
    ) -> None:
        """Allow requests that have the token (None: no token is needed) and one of `names` as their Host.

        With `any_address`, any IP address is accepted as Host too. That is safe: DNS rebinding needs a host name that
        the attacker owns. `script_hashes` are the hashes of the allowed inline scripts.
        """
        self._application = application
        self._token = token
        self._tickets: dict[str, float] = {}  # ticket -> expiry, in seconds of time.monotonic()
        self._names = {name.lower() for name in names}
        self._shared = _Shared("", encrypted=False)
        self._any_address = any_address
        self.allow_scripts(script_hashes)

    def allow_scripts(self, hashes: Iterable[str]) -> None:
        """Replace the hashes of the inline scripts that pages may run."""
        self._headers = _security_headers(content_policy(hashes))

    def share(self, name: str | None, *, encrypted: bool = False) -> None:
        """Accept the tunnel's host name in addition to `names`; None removes it.

        `encrypted` means that browsers use https for that host name, so the cookie is marked Secure.
        """
        self._shared = _Shared((name or "").lower(), encrypted)

    def ticket(self, *, seconds: float = 60) -> str:
        """Return a single-use token that expires after `seconds`.

        Used to start a browser: every account of the machine can read the browser's command line, token included.
        """
        ticket = secrets.token_urlsafe(32)
        self._tickets[ticket] = time.monotonic() + seconds
        return ticket

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Handle a WSGI request."""
        request = Request(environ)
        respond = self._refuse(request) or self._check_token(request) or self._application

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:  # WSGI's optional exc_info
            return start_response(status, self._with_security_headers(headers, request.path), *more)

        return respond(environ, start)

    def _refuse(self, request: Request) -> Response | None:
        """Return the error response for a request that is forbidden even with the token, or None."""
        if not self._accepts_host(_host(request).name):
            return _refusal(
                400, "Host not allowed", "This dashboard does not accept this host name. Add it: tfs dash --allow-host."
            )
        if request.method not in (("POST",) if request.path == UPDATE_PATH else ("GET", "HEAD")):
            refusal = _refusal(405, "Method not allowed", "This dashboard is read-only.")
            refusal.headers["Allow"] = "POST" if request.path == UPDATE_PATH else "GET, HEAD"
            return refusal
        if _comes_from_another_site(request):
            return _refusal(
                403, "Cross-site request", "This request came from another site's page. Open the dashboard itself."
            )
        if (request.content_length or 0) > MAX_BODY_BYTES:
            return _refusal(413, "Request too large", f"The limit is {MAX_BODY_BYTES:,} bytes.")
        return None

    def _accepts_host(self, name: str) -> bool:
        if name in self._names or (self._any_address and _is_address(name.strip("[]"))):
            return True
        return name == self._shared.name != ""

    def _check_token(self, request: Request) -> Response | None:
        """Check the token. Returns a redirect that sets the cookie, an error response, or None to allow the request."""
        if self._token is None:
            return None
        host = _host(request)
        cookie = f"tfs-dash-{host.port}"  # cookies are shared by all ports of a host: one name per dashboard
        given = request.args.getlist("token")
        if not given:
            known = any(_equals_secret(value, self._token) for value in request.cookies.getlist(cookie))
            return None if known else _refusal(401, "The token is missing", NO_TOKEN)
        if not self._is_valid_token(given[0]):
            return _refusal(401, "Wrong token", NO_TOKEN)
        welcome = Response(status=303, headers={"Location": _without_token(request)})
        secure = self._shared.encrypted and host.name == self._shared.name
        welcome.set_cookie(cookie, self._token, httponly=True, samesite="Lax", secure=secure)
        return welcome

    def _is_valid_token(self, given: str) -> bool:
        if self._token is not None and _equals_secret(given, self._token):
            return True
        ticket = next((ticket for ticket in list(self._tickets) if _equals_secret(given, ticket)), "")
        return time.monotonic() < self._tickets.pop(ticket, 0.0)  # pop is atomic: single use

    def _with_security_headers(self, headers: list[tuple[str, str]], path: str) -> list[tuple[str, str]]:
        ours = dict(DATA_HEADERS if path == UPDATE_PATH else self._headers)
        if path.startswith(LIBRARY_PATHS):
            theirs = next((value for name, value in headers if name.lower() == "cache-control"), "no-cache")
            ours["Cache-Control"] = "private, " + theirs.replace("public, ", "")
        replaced = {name.lower() for name in ours}
        return [(name, value) for name, value in headers if name.lower() not in replaced] + list(ours.items())


NO_TOKEN = (
    "The full address of this dashboard ends in ?token=... Open it once, and this browser remembers the token. "
    "'tfs dash' prints the address in its terminal; in a notebook, it is the 'url' of what 'launch' returns. "
    "If the dashboard was shared with you, ask for the full address. After a restart the token is a new one."
)


def harden(app: "Dash") -> None:
    """Prepare an app for serving: no debugger, escaped log lines, and plain error pages."""
    from dash.exceptions import DependencyException

    server = app.server
    server.debug = False  # overrides FLASK_DEBUG
    server.register_error_handler(DependencyException, _not_found)
    for handler in {*server.logger.handlers, *app.logger.handlers}:
        handler.setFormatter(EscapingFormatter("%(levelname)s: %(message)s"))


class EscapingFormatter(logging.Formatter):
    """Log formatter that escapes control characters: log lines quote requests, which may hold terminal sequences."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted line with control characters escaped."""
        return escape_control_characters(super().format(record))


def content_policy(script_hashes: Iterable[str]) -> str:
    """Return the content security policy: nothing from another host, no eval, only inline scripts with these hashes.

    Inline styles and data: URLs are allowed because Plotly and the grid use them for positions and icons.
    """
    return "; ".join(
        [
            "default-src 'self'",
            "script-src 'self' " + " ".join(script_hashes),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _security_headers(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


class _Host(NamedTuple):
    name: str
    port: str


def _host(request: Request) -> _Host:
    """Return the name (in lower case) and port of the Host header; empty strings when it is missing or malformed."""
    found = _HOST.fullmatch(request.headers.get("Host", ""))
    return _Host(found["name"].lower(), found["port"] or "") if found else _Host("", "")


def _comes_from_another_site(request: Request) -> bool:
    """Return True if another site's page sent this request. Following a link from another site is allowed.

    Browsers set Sec-Fetch-Site, except over plain http to another machine; there only Origin, sent
    with every POST, can be checked. Non-browser clients send neither.
    """
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2].lower() != request.headers["Host"].lower():
        return True
    sent = {name: request.headers.get(f"Sec-Fetch-{name}") for name in ("Site", "Mode", "Dest")}
    follows_a_link = request.method == "GET" and sent["Mode"] == "navigate" and sent["Dest"] == "document"
    return sent["Site"] not in (None, "same-origin", "none") and not follows_a_link


def _without_token(request: Request) -> str:
    """Return the request's address on this host, without the token."""
    kept = [part for part in request.query_string.decode("latin-1").split("&") if not _is_token(part)]
    path = "/" + quote(request.path).lstrip("/")  # //evil.example would redirect to another host
    return path + ("?" + "&".join(kept) if kept else "")


def _is_token(part: str) -> bool:
    return unquote_plus(part.partition("=")[0]) == "token"


def _equals_secret(given: str, secret: str) -> bool:
    """Compare a text with a secret in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode("utf-8"))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refusal(status: int, title: str, sentence: str) -> Response:
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<body style="font: 1rem/1.5 sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem">'
        f"<h1>{html.escape(title)}</h1><p>{html.escape(sentence)}</p></body></html>\n"
    )
    return Response(page, status=status, content_type="text/html; charset=utf-8")


def _not_found(error: Exception) -> Response:  # noqa: ARG001
    return _refusal(404, "Not found", "The dashboard has no such file.")
