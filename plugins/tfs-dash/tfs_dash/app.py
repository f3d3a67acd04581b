"""The dashboard as a Dash app: a shell, the installed pages, and callbacks shared by all pages.

The address (URL) holds the dashboard's state. A control changes the address (in the browser, assets/tfs.js). The store
`now` combines the address and the state of the run files; charts and parts are updated when `now` changes:

    controls -> address -+-> now -> charts and parts
    clock ---------------+

A page is sent with its charts and parts, and the `now` they were made from, if they are ready in time (filled.py).
Otherwise, or if `now` has changed since, the browser requests them with a second callback (`behind`).

The browser applies the theme to the charts: the server is independent of light and dark mode.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import dash
import dash_mantine_components as dmc
from dash import ALL, MATCH, ClientsideFunction, Input, Output, State, dcc, html, no_update
from flask import has_request_context, request

from tfs_dash.curves import Window
from tfs_dash.figures.kept import Draw, cached_figure
from tfs_dash.figures.style import TEMPLATES, empty_figure
from tfs_dash.filled import fill, in_time
from tfs_dash.page import Component, InstalledPage, MakePart, installed_pages, log_failure
from tfs_dash.pages import runs
from tfs_dash.parts import empty, failed, failure, notices, part
from tfs_dash.questions import refuse_malformed
from tfs_dash.store import RunStore, open_store
from tfs_dash.view import MAX_RUNS, NEWEST, View, chosen_runs, parse_view

POLL_SECONDS = 1.0

CHOSEN = {"type": "control", "name": "runs"}
"""The id of the run selector above every page."""

GRID = {"type": "grid", "name": ALL}
"""Id pattern of the table of all runs. Only the page Runs has this table; elsewhere the pattern matches nothing."""


def create_app(assets: str | Path = "assets") -> dash.Dash:
    """Return the dashboard of the runs in an assets folder. It writes nothing except to the user's cache folder.

    The app itself has no access control; `tfs_dash.launch` serves it behind `tfs_dash.security.Gate`.
    """
    return app_of(open_store(Path(assets)))


def app_of(store: RunStore) -> dash.Dash:
    """Return a dashboard for the runs in a store."""
    app = dash.Dash(
        "tfs_dash",
        title="tfs",
        update_title=None,  # type: ignore[arg-type]  # Dash: None leaves the title unchanged
        assets_folder=str(Path(__file__).parent / "assets"),
        serve_locally=True,
        use_pages=False,
        pages_folder="",
        suppress_callback_exceptions=True,
        enable_mcp=False,
    )
    site = _Site(store)
    app.layout = lambda: _shell(site)
    _register_server_callbacks(app, site)
    _register_browser_callbacks(app)
    refuse_malformed(app.server, app.callback_map)
    return app


class _Site:
    """The content of the app: the installed pages, and the store of runs that they show."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.pages = installed_pages()
        self.charts: Mapping[str, Draw] = {name: draw for page in self.pages for name, draw in page.charts.items()}
        self.parts: Mapping[str, MakePart] = {name: make for page in self.pages for name, make in page.parts.items()}

    def at(self, path: str) -> InstalledPage | None:
        """Return the page at a path, or None."""
        return next((page for page in self.pages if path == page.path), None)


class _SentPage(NamedTuple):
    """A page as sent to the browser; the fields are the outputs of `show_page`."""

    content: Component
    base: dict[str, Any]  # default value of each control
    shown: dict[str, Any] | None  # the `now` of its charts and parts; None when it is sent without them


def _page(path: str, query: str | None, site: _Site) -> _SentPage:
    """Return the page at an address, with charts and parts if they are ready in time."""
    page, now = site.at(path), _now(query, site.store)
    if page is None:
        advice = ["Pages: ", ", ".join(page.title for page in site.pages)]
        return _SentPage(empty("There is no such page", advice), {"runs": []}, now)
    return _filled(*_build_layout(page, query, site.store), now, site)


def _build_layout(page: InstalledPage, query: str | None, store: RunStore) -> tuple[Component, dict[str, Any]]:
    """Return a page's layout (an error panel if it fails), and the default value of each of its controls."""
    view = parse_view(query)
    try:
        base = _control_values(html.Div([page.page.layout(View(runs=view.runs), store)]))
        content = html.Div([page.page.layout(view, store)])
        for component in content._traverse():
            place = getattr(component, "id", None)
            if isinstance(place, dict) and place.get("type") in ("figure", "zoom", "chart", "part"):
                component.id = {**place, "name": page.prefix + place["name"]}
    except (Exception, SystemExit) as error:
        log_failure(f"the page {page.title} cannot be laid out", error)
        return failed(page.title, error), {"runs": []}
    content.children.insert(0, part("notices"))
    return content, base


def _filled(content: Component, base: dict[str, Any], now: dict[str, Any], site: _Site) -> _SentPage:
    is_filled = fill(content, lambda kind, name: _content(kind, name, _view(now), site))
    if is_filled:  # the chart is included, so it needs no loading placeholder
        for graph in content._traverse_ids():
            if isinstance(graph.id, dict) and graph.id.get("type") == "chart":
                graph.figure = empty_figure("")
    return _SentPage(content, base, now if is_filled else None)


class _FirstPage(NamedTuple):
    """The page sent with the app's layout (if any), its value of the store `place`, and the `now` of its charts."""

    place: str | None
    page: _SentPage
    now: dict[str, Any] | None


def _first_page(site: _Site) -> _FirstPage:
    """Return the page at the request's Referer, if that page has charts, to be sent with the app's layout.

    Otherwise, or if the page is not laid out in time, the browser requests it like every later page.
    """
    try:
        address = urlsplit((request.referrer if has_request_context() else None) or "")
    except ValueError:  # not a valid URL
        address = urlsplit("")
    query, page = f"?{address.query}" if address.query else "", site.at(address.path)
    now = _now(query, site.store)
    laid_out = in_time(lambda: _build_layout(page, query, site.store)) if page is not None and page.charts else None
    if page is None or laid_out is None:
        return _FirstPage(None, _SentPage(None, {}, None), now)
    arrived = _filled(*laid_out, now, site)
    chosen = dict(parse_qsl(address.query)).get("runs") if page.follows_runs else None
    place = address.path + (f"?runs={chosen}" if chosen else "")  # the same form as `arrive` in assets/tfs.js
    return _FirstPage(place, arrived, arrived.shown)  # without `now` the browser requests everything


def _now(query: str | None, store: RunStore) -> dict[str, Any]:
    """Return the value of the store `now`: the address, and status, damaged lines and log sizes of the runs."""
    found, _ = chosen_runs(parse_view(query), store)
    sizes = store.log_sizes([run.name for run in found])
    return {"query": query, "stamp": [[[run.name, run.status, run.bad_lines()] for run in found], sizes]}


def _content(kind: str, name: str, view: View, site: _Site, zoom: object = None) -> Any:
    """Return the content of a figure or part; on an exception, a figure or panel with the error message."""
    try:
        return _make(kind, name, view, site, zoom)
    except (Exception, SystemExit) as error:
        log_failure(f"the {kind} '{name}' cannot be made", error)
        return failed(name, error) if kind == "part" else empty_figure(failure(error))


def _make(kind: str, name: str, view: View, site: _Site, zoom: object) -> Any:
    found, _ = chosen_runs(view, site.store)
    if kind == "part":
        return notices(found, view, site.store) if name == "notices" else site.parts[name](found, view, site.store)
    if not found:
        return empty_figure("No run to draw.")
    figure = cached_figure(site.charts[name], found, view, site.store, _window(zoom))
    if isinstance(zoom, dict) and zoom.get("revision") != figure["layout"].get("uirevision"):
        return cached_figure(site.charts[name], found, view, site.store)  # the zoom belongs to other axes
    return figure


def _shell(site: _Site) -> Component:
    """Return the app's layout: header, stores, and the first page."""
    store = site.store
    store.index.refresh()
    first = _first_page(site)
    links = [
        dcc.Link(page.title, href=page.path, id={"type": "link", "path": page.path}, className="link")
        for page in site.pages
    ]
    chosen = dmc.MultiSelect(
        id=CHOSEN, data=[run.name for run in reversed(store.runs())], value=[],
        placeholder=f"the newest {NEWEST} runs; choose others here", searchable=True, clearable=True,
        maxValues=MAX_RUNS, hidePickedOptions=True, limit=200, nothingFoundMessage="No run of that name", size="xs",
        **{"aria-label": "chosen runs"},
    )  # fmt: skip
    header = html.Header(
        [
            html.A("Skip to the page", href="#page", className="skip"),
            html.Span("tfs", className="brand"),
            html.Nav(links, **{"aria-label": "pages"}),
            html.Div(chosen, className="picker"),
            _menu(),
            html.Button(
                "◐", id="theme-button", className="button", title="light or dark", **{"aria-label": "light or dark"}
            ),
        ]
    )
    page = html.Main(html.Div(first.page.content, id="page", tabIndex=-1))
    return dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Interval(id="clock", interval=POLL_SECONDS * 1000),
            dcc.Store(id="tick"),
            dcc.Store(id="place", data=first.place),
            dcc.Store(id="follow-runs", data=[page.path for page in site.pages if page.follows_runs]),
            dcc.Store(id="now", data=first.now),
            dcc.Store(id="shown"),  # the `now` that the page was made from
            dcc.Store(id="behind"),  # set to `now` when the page's charts and parts are older
            dcc.Store(id="index", data=store.index.version),
            dcc.Store(id="base", data=first.page.base),  # default value of each control
            dcc.Store(id="synced"),
            dcc.Store(id="ticks"),
            dcc.Store(id="templates", data=TEMPLATES),
            dcc.Store(id="theme-wish", storage_type="local"),
            dcc.Store(id="theme"),
            dcc.Download(id="download"),
            html.Div(id="said", role="status", className="said"),
            header,
            page,
        ],
        id="provider",
        theme={"primaryColor": "blue", "fontFamily": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"},
    )


def _menu() -> Component:
    items = [
        dmc.MenuItem("Link to this view", id="copy-link"),
        dmc.MenuItem("Charts as PNG", id="export-png"),
        dmc.MenuItem("Curves as CSV", id="export-csv"),
        dmc.MenuItem("Report as one HTML file", id="export-html"),
    ]
    button = html.Button("Share ▾", className="button", id="share-button")
    return dmc.Menu([dmc.MenuTarget(button), dmc.MenuDropdown(items)], position="bottom-end", trigger="click")


def _register_server_callbacks(app: dash.Dash, site: _Site) -> None:
    store = site.store

    @app.callback(
        Output("now", "data"),
        Output("index", "data"),
        Input("tick", "data"),
        Input("url", "search"),
        State("now", "data"),
        State("index", "data"),
    )
    def look(tick: object, query: str | None, now: dict[str, Any] | None, index: int | None) -> tuple[Any, Any]:
        """Poll the run files and send `now` and the index version, but only if they changed."""
        del tick
        version = store.index.refresh(POLL_SECONDS / 2)
        fresh = _now(query, store)
        if now == fresh and index == version:
            raise dash.exceptions.PreventUpdate
        return (no_update if now == fresh else fresh), (no_update if index == version else version)

    @app.callback(
        Output("page", "children"),
        Output("base", "data"),
        Output("shown", "data"),
        Input("place", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def show_page(place: object, query: str | None) -> _SentPage:
        """Return the page at the address."""
        store.index.refresh(POLL_SECONDS)
        return _page((place if isinstance(place, str) else "/").partition("?")[0], query, site)

    @app.callback(
        Output({"type": "figure", "name": MATCH}, "data"),
        Input("now", "data"),
        Input("behind", "data"),
        Input({"type": "zoom", "name": MATCH}, "data"),
        State({"type": "figure", "name": MATCH}, "id"),
        prevent_initial_call=True,
    )
    def draw(now: dict[str, Any] | None, behind: object, zoom: object, place: dict[str, str]) -> Any:
        """Draw a chart. Its zoom is kept, and the zoomed range is drawn in full resolution."""
        del behind
        if now is None or place["name"] not in site.charts:
            return no_update
        return _content("figure", place["name"], _view(now), site, zoom)

    @app.callback(
        Output({"type": "part", "name": MATCH}, "children"),
        Input("now", "data"),
        Input("behind", "data"),
        State({"type": "part", "name": MATCH}, "id"),
        prevent_initial_call=True,
    )
    def fill_part(now: dict[str, Any] | None, behind: object, place: dict[str, str]) -> Any:
        """Fill a part of a page."""
        del behind
        if now is None or place["name"] not in {*site.parts, "notices"}:
            return no_update
        return _content("part", place["name"], _view(now), site)

    @app.callback(Output(CHOSEN, "data"), Input("index", "data"), prevent_initial_call=True)
    def offer(index: int) -> list[str]:
        """Update the options of the run selector, the newest first."""
        del index
        return [run.name for run in reversed(store.runs())]

    @app.callback(Output(GRID, "rowData"), Input("index", "data"), State(GRID, "id"), prevent_initial_call=True)
    def fill_grid(index: int, grids: list[dict[str, str]]) -> list[list[dict[str, Any]]]:
        """Update the rows of the table of all runs, if it is on the page."""
        del index
        return [runs.rows(store) for _ in grids]

    @app.callback(
        Output("download", "data"),
        Output("said", "children"),
        Input("export-csv", "n_clicks"),
        Input("export-html", "n_clicks"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def export(csv: int | None, report: int | None, query: str | None) -> tuple[Any, str]:
        """Send a CSV or a report of the chosen runs as a download."""
        from tfs_dash import exports  # lazy: slow to import and rarely needed

        del csv, report
        view = parse_view(query)
        found, _ = chosen_runs(view, store)
        if not found:
            return no_update, "No run to export."
        if dash.ctx.triggered_id == "export-csv":
            text, note = exports.curves_as_csv(found)
            return {"content": text, "filename": "tfs-curves.csv", "type": "text/csv"}, note
        return {
            "content": exports.report_html(found, view),
            "filename": "tfs-report.html",
            "type": "text/html",
        }, "Report created."


def _view(now: object) -> View:
    return parse_view(now.get("query") if isinstance(now, dict) else None)


def _control_values(layout: Component) -> dict[str, Any]:
    """Return the values of a page's controls by name, and an empty list for the run selector (`runs`)."""
    ids = ((component, getattr(component, "id", None)) for component in layout._traverse())
    values = {
        place["name"]: component.value
        for component, place in ids
        if isinstance(place, dict) and place["type"] == "control"
    }
    return {"runs": [], **values}


def _window(zoom: object) -> Window:
    if not isinstance(zoom, dict) or not isinstance(zoom.get("range"), list) or len(zoom["range"]) != 2:
        return None
    try:
        low, high = sorted(float(end) for end in zoom["range"])
    except (TypeError, ValueError, OverflowError):
        return None
    return (low, high) if low < high else None


def _register_browser_callbacks(app: dash.Dash) -> None:
    """Register the client-side callbacks, implemented in assets/tfs.js; none sends a request to the server."""

    def in_browser(name: str, *connections: Any, initially: bool = True) -> None:
        app.clientside_callback(ClientsideFunction("tfs", name), *connections, prevent_initial_call=not initially)

    control, link = {"type": "control", "name": ALL}, {"type": "link", "path": ALL}
    chart, figure, zoom = ({"type": kind, "name": MATCH} for kind in ("chart", "figure", "zoom"))
    address, base = Input("url", "search"), State("base", "data")
    in_browser(
        "arrive", Output("place", "data"), Input("url", "pathname"), Input("url", "search"), State("place", "data"),
        State("follow-runs", "data"),
    )  # fmt: skip
    in_browser("catchUp", Output("behind", "data"), Input("shown", "data"), State("now", "data"), initially=False)
    in_browser("tick", Output("tick", "data"), Input("clock", "n_intervals"))
    in_browser(
        "address", Output("url", "search"), Input(control, "value"), base, State(control, "id"), State("url", "search"),
        initially=False,
    )  # fmt: skip
    in_browser(
        "controls",
        Output("synced", "data"),
        address,
        Input("base", "data"),
        State(control, "id"),
        State(control, "value"),
    )
    in_browser(
        "links", Output(link, "href"), Output(link, "className"), address, Input("url", "pathname"), State(link, "id")
    )
    in_browser("ticked", Output(CHOSEN, "value"), Input(GRID, "selectedRows"), State(CHOSEN, "value"), initially=False)
    in_browser(
        "tickRows", Output("ticks", "data"), Input(CHOSEN, "value"), State(GRID, "selectedRows"), State(GRID, "id"),
        initially=False,
    )  # fmt: skip
    in_browser(
        "search", Output(GRID, "dashGridOptions"), Input(control, "value"), State(control, "id"),
        State(GRID, "dashGridOptions"), initially=False,
    )  # fmt: skip
    in_browser("theme", Output("theme", "data"), Output("provider", "forceColorScheme"), Input("theme-wish", "data"))
    in_browser(
        "otherTheme", Output("theme-wish", "data"), Input("theme-button", "n_clicks"), State("theme", "data"),
        initially=False,
    )  # fmt: skip
    in_browser(
        "zoom", Output(zoom, "data"), Input(chart, "relayoutData"), State(chart, "figure"), State(zoom, "data"),
        initially=False,
    )  # fmt: skip
    in_browser(
        "paint", Output(chart, "figure"), Input(figure, "data"), Input("theme", "data"), State("templates", "data")
    )
    in_browser("copyLink", Output("copy-link", "title"), Input("copy-link", "n_clicks"), initially=False)
    in_browser("savePictures", Output("export-png", "title"), Input("export-png", "n_clicks"), initially=False)
