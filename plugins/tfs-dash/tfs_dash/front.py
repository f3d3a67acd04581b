"""The page, and the code that it loads, answered without Dash: importing Dash takes long, and need not be waited for.

Meanwhile the browser loads, compiles and runs eight megabytes of JavaScript, plotly.js above all. What needs Dash (the
layout, the callbacks) waits until it is there.

Which files its page loads Dash knows only when it is imported. So they are listed here, for the versions in MADE_FOR.
Beside other versions, and where another distribution brings a page, nothing is answered here: Dash then makes its page
itself, as always, half a second later.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from werkzeug.wrappers import Request, Response

from tfs_dash.page import has_foreign_pages

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MADE_FOR = {"dash": "4.4.1", "dash-ag-grid": "35.3.0", "dash-mantine-components": "2.8.1", "plotly": "7.1.0"}
"""The versions whose page this is. A test holds it against Dash's own: make it pass, then change these."""

LIBRARIES = "/_dash-component-suites/"

FIRST = [
    LIBRARIES + "dash/deps/react@18.3.1.min.js",
    LIBRARIES + "dash/deps/react-dom@18.3.1.min.js",
    LIBRARIES + "dash/deps/prop-types@15.8.1.min.js",
    LIBRARIES + "dash_mantine_components/dash_mantine_components.js",
]
OURS = "/assets/tfs.js"
THEN = [
    LIBRARIES + "dash/dash-renderer/build/dash_renderer.min.js",
    LIBRARIES + "dash/dcc/dash_core_components.js",
    LIBRARIES + "dash/dcc/dash_core_components-shared.js",
    LIBRARIES + "dash/html/dash_html_components.min.js",
]
"""Scripts in the order in which they run.

Left out are Dash's own table of old, and its polyfill: browsers of today have all that it brings but one thing, which
assets/tfs.js has, and it takes a tenth of a second to run.
"""

PLOTLY = LIBRARIES + "plotly/package_data/plotly.min.js"
"""Dash would load it when the first chart is laid out, and it takes longest to run: assets/tfs.js loads it at once."""

TABLE = LIBRARIES + "dash_ag_grid/dash_ag_grid.min.js"
"""What the page Runs needs beside: where another page was the first, assets/tfs.js loads it on the way to that one."""

GRID = [LIBRARIES + "dash_ag_grid/async-community.js"]
CHARTS = [PLOTLY, LIBRARIES + "dash/dcc/async-graph.js"]
AHEAD = {"/": GRID, "/compare": CHARTS, "/compute": CHARTS, "/health": CHARTS}
"""What is loaded when a page is laid out: the browser hears of it at once."""

STYLES = "/assets/tfs.css"
ICON = "/_favicon.ico"

ALL_CALLED = b"//# allFunctionsCalledOnLoad\n"
"""Before a script this has Chromium compile all of it beside the page's own thread, not function by function in it.

For plotly.js, the largest. For the others it is more work than it saves while both processors are busy."""

START = "var renderer = new DashRenderer();"
"""What Dash's page runs when all code is there."""

CONFIG = {
    "url_base_pathname": None, "requests_pathname_prefix": "/", "ui": False, "props_check": False,
    "show_undo_redo": False, "suppress_callback_exceptions": True, "update_title": None, "serve_locally": True,
    "validate_callbacks": False, "csrf_token_name": "_csrf_token", "csrf_header_name": "X-CSRFToken",
    "children_props": {},  # which properties beside `children` hold components: on these pages none does
}  # fmt: skip
"""What Dash's page tells its code."""


class File(NamedTuple):
    """A file that the page loads."""

    path: Path
    mark: str  # another one when the file is another

    def answer(self, request: Request) -> Response:
        """Return the file; for good under an address that has its mark, else only if the browser's is an older one."""
        kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".ico": "image/x-icon"}
        head = ALL_CALLED if PLOTLY.endswith(f"/{self.path.name}") else b""
        response = Response(head + self.path.read_bytes(), content_type=kinds[self.path.suffix])
        if request.query_string.decode("latin-1") == self.mark:
            response.cache_control.max_age = 31536000
            return response
        response.set_etag(self.mark)
        return response.make_conditional(request)  # type: ignore[no-any-return]


class Front:
    """A WSGI application that answers for the page and its files, and hands everything else on to Dash."""

    def __init__(self) -> None:
        self._files = find_files()
        self._dash: WSGIApplication = Response("The dashboard ends.\n", status=503)
        self._decided = threading.Event()

    def hand_over(self, application: "WSGIApplication") -> None:
        """Let Dash answer, those who wait for it first."""
        self._dash = application
        self._decided.set()

    def give_up(self) -> None:
        """Let nobody wait for a Dash that does not come any more."""
        self._decided.set()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request."""
        respond = self._answer(Request(environ))
        if respond is None:
            self._decided.wait()
            respond = self._dash
        return respond(environ, start_response)

    def _answer(self, request: Request) -> "WSGIApplication | None":
        """Return the answer that needs no Dash, or None. No path is joined to a folder: it is one of those known."""
        if request.path in self._files:
            return self._files[request.path].answer(request)
        if self._files and not request.path.startswith(("/_", "/assets/")):
            return Response(page(request.path, self._files), content_type="text/html; charset=utf-8")
        return None


def find_files() -> dict[str, File]:
    """Return the files that pages load, by their addresses.

    None beside other versions than those of MADE_FOR, nor beside pages of others, which may load more.
    """
    if has_foreign_pages():
        return {}
    try:
        if any(version(name) != made_for for name, made_for in MADE_FOR.items()):
            return {}
        return {address: _file(path) for address, path in _places()}
    except (PackageNotFoundError, OSError):
        return {}


def _places() -> Iterator[tuple[str, Path]]:
    yield ICON, _folder("dash") / "favicon.ico"
    for address in {STYLES, *FIRST, OURS, *THEN, TABLE, *GRID, *CHARTS}:
        package, _, path = address.removeprefix(LIBRARIES).partition("/")
        yield address, Path(__file__).parent / address[1:] if not package else _folder(package) / path


def _folder(package: str) -> Path:
    """Return where a package is, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(package)
    return Path(spec.origin).parent


def _file(path: Path) -> File:
    state = path.stat()
    return File(path, f"{state.st_mtime_ns:x}-{state.st_size:x}")


def page(path: str, files: dict[str, File]) -> str:
    """Return the page at an address."""

    def marked(address: str) -> str:
        return f"{address}?{files[address].mark}"

    ahead = AHEAD.get(path, [])
    wants = f'data-plotly="{PLOTLY}" ' if PLOTLY in ahead else ""
    wants += f'data-table="{marked(TABLE)}"'
    scripts = [f'<script src="{marked(address)}"></script>' for address in ([*FIRST, TABLE] if path == "/" else FIRST)]
    scripts += [f'<script src="{marked(OURS)}" {wants}></script>']
    scripts += [f'<script src="{marked(address)}"></script>' for address in THEN]
    preloads = "\n".join(f'<link rel="preload" as="script" href="{address}">' for address in ahead)
    code = "\n".join(scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tfs</title>
<link rel="icon" type="image/x-icon" href="{marked(ICON)}">
<link rel="stylesheet" href="{marked(STYLES)}">
{preloads}
</head>
<body>
<div id="react-entry-point"><div class="_dash-loading">Loading...</div></div>
<script id="_dash-config" type="application/json">{json.dumps(CONFIG)}</script>
{code}
<script id="_dash-renderer">{START}</script>
</body>
</html>
"""


def script_hash() -> str:
    """Return what a content security policy calls the one inline script of the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(START.encode()).digest()).decode()}'"
