"""Who may see the dashboard: a gate that every request passes before Dash hears of it.

Runs are private. A server on this machine can be reached by other accounts of the machine, and by every web page that
its user visits: the browser carries the page's requests here. So a request must name a host that we answer for (against
DNS rebinding), must not come from another site's page, must use a method that only reads, and must know the token.

The token works as Jupyter's does: an address that ends in ?token=... is opened once, and a cookie remembers it.
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

from tfs_core.terminal import harmless

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from dash import Dash

LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""The names of this machine that nobody else's web page can have."""

UPDATE_PATH = "/_dash-update-component"
"""Where Dash's pages ask for figures: the one path that takes a POST, and it changes nothing on the disk."""

MAX_BODY_BYTES = 2 * 2**20
"""More than any question the pages ask; one that is larger is refused before it is read."""

LIBRARY_PATHS = ("/_dash-component-suites/", "/assets/")
"""Code and styles that are the same for everyone: a browser may keep them. Everything else is the user's data."""

DATA_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""For what is posted for, which is never a page: few, since a page asks every second whether there is something new."""

_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\s:/@?#\[\]\\]+)(?::(?P<port>\d{1,5}))?")


class _Shared(NamedTuple):
    name: str
    encrypted: bool


class Gate:
    """A WSGI application around another: it answers what it refuses, and adds the security headers to all the rest."""

    def __init__(
        self,
        application: "WSGIApplication",
        *,
        token: str | None,
        script_hashes: Iterable[str],
        names: Iterable[str] = LOCAL_NAMES,
        any_address: bool = False,
    ) -> None:
        """Let in who knows the token (None: everyone) and asks for one of the names, or by any IP address at all.

        An address is no danger where a name is: DNS rebinding needs a name that the attacker owns. Of inline scripts
        pages may run those with these hashes.
        """
        self._application = application
        self._token = token
        self._tickets: dict[str, float] = {}  # to the second of time.monotonic() from which it is void
        self._names = {name.lower() for name in names}
        self._shared = _Shared("", encrypted=False)
        self._any_address = any_address
        self.allow_scripts(script_hashes)

    def allow_scripts(self, hashes: Iterable[str]) -> None:
        """Let pages run the inline scripts with these hashes, and no others any more."""
        self._headers = _security_headers(content_policy(hashes))

    def share(self, name: str | None, *, encrypted: bool = False) -> None:
        """Answer for a tunnel's name too, and no longer for the one before; None: for no tunnel's.

        `encrypted`: browsers reach that name by https, and are to send the cookie by nothing else.
        """
        self._shared = _Shared((name or "").lower(), encrypted)

    def ticket(self, *, seconds: float = 60) -> str:
        """Return a token that opens the gate once, and soon.

        For a browser that is started by us: its command line can be read by every account of the machine.
        """
        ticket = secrets.token_urlsafe(32)
        self._tickets[ticket] = time.monotonic() + seconds
        return ticket

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request."""
        request = Request(environ)
        respond = self._refuse(request) or self._welcome(request) or self._application

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:  # what WSGI hands through
            return start_response(status, self._with_security_headers(headers, request.path), *more)

        return respond(environ, start)

    def _refuse(self, request: Request) -> Response | None:
        """Return the refusal of a request that nobody may make, whatever token it has; None when there is none."""
        if not self._answers_for(_host(request).name):
            return _refusal(
                400, "Not this host", "This dashboard does not answer to that name. tfs dash --allow-host adds one."
            )
        if request.method not in (("POST",) if request.path == UPDATE_PATH else ("GET", "HEAD")):
            refusal = _refusal(405, "Only reading", "This dashboard only shows: nothing can be changed through it.")
            refusal.headers["Allow"] = "POST" if request.path == UPDATE_PATH else "GET, HEAD"
            return refusal
        if _comes_from_another_site(request):
            return _refusal(
                403, "Not from there", "The page of another site asked for this. Open the dashboard itself."
            )
        if (request.content_length or 0) > MAX_BODY_BYTES:
            return _refusal(413, "Too much", f"A request may have {MAX_BODY_BYTES:,} bytes at most.")
        return None

    def _answers_for(self, name: str) -> bool:
        if name in self._names or (self._any_address and _is_address(name.strip("[]"))):
            return True
        return name == self._shared.name != ""

    def _welcome(self, request: Request) -> Response | None:
        """Return the redirect that follows the right token, the refusal when there is none, or None: come in."""
        if self._token is None:
            return None
        host = _host(request)
        cookie = f"tfs-dash-{host.port}"  # ports share a browser's cookies: two dashboards must not share a name
        given = request.args.getlist("token")
        if not given:
            known = any(_same(value, self._token) for value in request.cookies.getlist(cookie))
            return None if known else _refusal(401, "The token is missing", NO_TOKEN)
        if not self._opens(given[0]):
            return _refusal(401, "That is not the token", NO_TOKEN)
        welcome = Response(status=303, headers={"Location": _without_token(request)})
        secure = self._shared.encrypted and host.name == self._shared.name
        welcome.set_cookie(cookie, self._token, httponly=True, samesite="Lax", secure=secure)
        return welcome

    def _opens(self, given: str) -> bool:
        if self._token is not None and _same(given, self._token):
            return True
        ticket = next((ticket for ticket in list(self._tickets) if _same(given, ticket)), "")
        return time.monotonic() < self._tickets.pop(ticket, 0.0)  # pop: of two who come at once, one gets in

    def _with_security_headers(self, headers: list[tuple[str, str]], path: str) -> list[tuple[str, str]]:
        ours = dict(DATA_HEADERS if path == UPDATE_PATH else self._headers)
        if path.startswith(LIBRARY_PATHS):
            theirs = next((value for name, value in headers if name.lower() == "cache-control"), "no-cache")
            ours["Cache-Control"] = "private, " + theirs.replace("public, ", "")
        replaced = {name.lower() for name in ours}
        return [(name, value) for name, value in headers if name.lower() not in replaced] + list(ours.items())


NO_TOKEN = (
    "The address of this dashboard ends in ?token=... Open that one, once: this browser remembers it. The command "
    "'tfs dash' has printed it in the terminal where it runs; in a notebook, 'launch' has returned it. If somebody "
    "shared the dashboard with you, ask for the whole address. A dashboard that was started again has a new token."
)


def harden(app: "Dash") -> None:
    """Make an app fit to be served: no debugger, and no log line or error page that a request could abuse."""
    from dash.exceptions import DependencyException

    server = app.server
    server.debug = False  # whatever FLASK_DEBUG says
    server.register_error_handler(DependencyException, _not_there)
    for handler in {*server.logger.handlers, *app.logger.handlers}:
        handler.setFormatter(HarmlessFormatter("%(levelname)s: %(message)s"))


class HarmlessFormatter(logging.Formatter):
    """For log lines that quote a request: what it asked for must not command the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with control characters written out."""
        return harmless(super().format(record))


def content_policy(script_hashes: Iterable[str]) -> str:
    """Return the content security policy: nothing from another host, no eval, no inline script but the hashed ones.

    Styles are inline because that is how Plotly and the grid set positions; images and fonts in data: are their icons.
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
    """Return what the Host header names, in lower case; two empty strings when it is missing or none."""
    found = _HOST.fullmatch(request.headers.get("Host", ""))
    return _Host(found["name"].lower(), found["port"] or "") if found else _Host("", "")


def _comes_from_another_site(request: Request) -> bool:
    """Say whether another site's page sent this; a link that a person follows from there is let through.

    Sec-Fetch-Site is the browser's word. Over plain http to another machine browsers leave it out; Origin, which they
    send with every POST, then says as much. Programs that are no browser send neither.
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
    path = "/" + quote(request.path).lstrip("/")  # //evil.example would lead to another host
    return path + ("?" + "&".join(kept) if kept else "")


def _is_token(part: str) -> bool:
    return unquote_plus(part.partition("=")[0]) == "token"


def _same(given: str, secret: str) -> bool:
    """Compare in a time that tells nothing about where the two differ."""
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


def _not_there(error: Exception) -> Response:  # noqa: ARG001
    return _refusal(404, "Not there", "The dashboard has no such file.")
