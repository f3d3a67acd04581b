"""Serve the HTML page and its static files while Dash is still being imported, which is slow.

Meanwhile the browser loads, compiles and runs eight megabytes of JavaScript, above all plotly.js. Requests that need
Dash (the layout, the callbacks) block until it is imported.

Dash can list the files of its page only after the import, so this module has its own list, for the versions in
MADE_FOR. With other versions, or if another distribution adds a page to the dashboard, this module serves nothing and
Dash generates the HTML page itself, half a second later.
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
"""The versions whose page is reproduced here. Change them only if the test that compares the pages then passes."""

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

Dash's legacy table and its polyfill are left out. The polyfill takes a tenth of a second to run, and current browsers
need only one function of it, which assets/tfs.js defines.
"""

PLOTLY = LIBRARIES + "plotly/package_data/plotly.min.js"
"""The slowest script. Dash would load it with the first chart; assets/tfs.js loads it immediately."""

TABLE = LIBRARIES + "dash_ag_grid/dash_ag_grid.min.js"
"""Extra script of the page Runs. If another page is opened first, assets/tfs.js loads it on navigation to Runs."""

GRID = [LIBRARIES + "dash_ag_grid/async-community.js"]
CHARTS = [PLOTLY, LIBRARIES + "dash/dcc/async-graph.js"]
PRELOADED = {"/": GRID, "/compare": CHARTS, "/compute": CHARTS, "/health": CHARTS}
"""Scripts that Dash loads lazily for a page, sent as preload hints."""

STYLES = "/assets/tfs.css"
ICON = "/_favicon.ico"

EAGER_COMPILE = b"//# allFunctionsCalledOnLoad\n"
"""Magic comment that makes Chromium compile a whole script on a background thread, instead of lazily per function.

Used for plotly.js, the largest. For smaller scripts it costs more than it saves."""

START = "var renderer = new DashRenderer();"
"""The inline script that starts Dash's renderer."""

CONFIG = {
    "url_base_pathname": None, "requests_pathname_prefix": "/", "ui": False, "props_check": False,
    "show_undo_redo": False, "suppress_callback_exceptions": True, "update_title": None, "serve_locally": True,
    "validate_callbacks": False, "csrf_token_name": "_csrf_token", "csrf_header_name": "X-CSRFToken",
    "children_props": {},  # properties other than `children` that hold components: none on these pages
}  # fmt: skip
"""The configuration in Dash's page."""


class File(NamedTuple):
    """A static file that the page loads."""

    path: Path
    mark: str  # changes with the file; used in its URL and as ETag

    def answer(self, request: Request) -> Response:
        """Return the file: cacheable for a year if the URL has its mark, else with an ETag (304 if unchanged)."""
        kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".ico": "image/x-icon"}
        head = EAGER_COMPILE if PLOTLY.endswith(f"/{self.path.name}") else b""
        response = Response(head + self.path.read_bytes(), content_type=kinds[self.path.suffix])
        if request.query_string.decode("latin-1") == self.mark:
            response.cache_control.max_age = 31536000
            return response
        response.set_etag(self.mark)
        return response.make_conditional(request)  # type: ignore[no-any-return]


class Front:
    """WSGI application that serves the page and its files, and forwards all other requests to Dash."""

    def __init__(self) -> None:
        self._files = find_files()
        self._dash: WSGIApplication = Response("The dashboard is shutting down.\n", status=503)
        self._settled = threading.Event()

    def hand_over(self, application: "WSGIApplication") -> None:
        """Set Dash's WSGI application, and release the requests that wait for it."""
        self._dash = application
        self._settled.set()

    def give_up(self) -> None:
        """Release the waiting requests because the server stops; without Dash they get status 503."""
        self._settled.set()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Handle a WSGI request. A request that needs Dash blocks until Dash is imported."""
        respond = self._answer(Request(environ))
        if respond is None:
            self._settled.wait()
            respond = self._dash
        return respond(environ, start_response)

    def _answer(self, request: Request) -> "WSGIApplication | None":
        """Return a response without Dash, or None. Paths are only looked up, so path traversal is impossible."""
        if request.path in self._files:
            return self._files[request.path].answer(request)
        if self._files and not request.path.startswith(("/_", "/assets/")):
            return Response(page(request.path, self._files), content_type="text/html; charset=utf-8")
        return None


def find_files() -> dict[str, File]:
    """Return the static files of the pages by URL path.

    Returns {} if the installed versions differ from MADE_FOR, or if another distribution has a page: that page may
    need more files.
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
    """Return the folder of a package without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(package)
    return Path(spec.origin).parent


def _file(path: Path) -> File:
    state = path.stat()
    return File(path, f"{state.st_mtime_ns:x}-{state.st_size:x}")


def page(path: str, files: dict[str, File]) -> str:
    """Return the HTML page at a path."""

    def marked(address: str) -> str:
        return f"{address}?{files[address].mark}"

    ahead = PRELOADED.get(path, [])
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
    """Return the content security policy hash of the page's only inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(START.encode()).digest()).decode()}'"
