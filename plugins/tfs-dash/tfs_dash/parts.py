"""The building blocks of a page: controls that write the address, charts and parts that follow it.

A control has the id {"type": "control", "name": a field of View}; the browser turns its value into the address. Charts
and parts are filled by two callbacks (app.py), which find by name the function that makes them.
"""

from collections.abc import Mapping, Sequence

import dash_mantine_components as dmc
from dash import dcc, html

from tfs_core.plugins import describe
from tfs_dash.figures.style import GRAPH_CONFIG, empty_figure
from tfs_dash.page import Component
from tfs_dash.redact import public_text
from tfs_dash.store import RunData, RunStore
from tfs_dash.view import CHOICES, View, chosen_runs

LOG_AXES = {"": "linear", "x": "log x", "y": "log y", "xy": "log both"}


def choice(name: str, title: str, value: str, words: Mapping[str, str] | None = None) -> Component:
    """Return a row of buttons of which one is pressed, for a field of View."""
    words = words or {word: word.replace("_", " ") for word in CHOICES[name]}
    # An empty value is no choice to the component: "linear" stands for the empty word on the way.
    data = [{"value": word or "linear", "label": label} for word, label in words.items()]
    return html.Div(
        [
            html.Span(title, className="control-title", id=f"title-{name}"),
            dmc.SegmentedControl(
                id={"type": "control", "name": name}, data=data, value=value or "linear", size="xs",
                **{"aria-label": title},
            ),
        ],
        className="control",
    )  # fmt: skip


def log_axes(value: str) -> Component:
    """Return the control for logarithmic axes."""
    return choice("log", "axes", value, LOG_AXES)


def smoothing(value: float) -> Component:
    """Return the slider for smoothing: finer where it matters, near 1."""
    return slider("smooth", "smoothing", value, low=0.0, high=0.99, step=0.01, marks=[0, 0.5, 0.99])


def slider(
    name: str, title: str, value: float, *, low: float, high: float, step: float, marks: Sequence[float] = (),
    label: str = "tfsNumber", stops: Sequence[float] = (),
) -> Component:  # fmt: skip
    """Return a slider for a number of View; `label` is the function in assets/tfs.js that writes it.

    With `stops` it has no other values than these.
    """
    return html.Div(
        [
            html.Span(title, className="control-title"),
            dmc.Slider(
                id={"type": "control", "name": name}, value=value, min=low, max=high, step=step, w=220, size="sm",
                marks=[{"value": stop} for stop in stops] or [{"value": mark, "label": f"{mark:g}"} for mark in marks],
                mb=18 if marks else 0, restrictToMarks=bool(stops),
                updatemode="mouseup", label={"function": label}, thumbLabel=title, **{"aria-label": title},
            ),
        ],
        className="control",
    )  # fmt: skip


def picker(
    name: str, title: str, value: str, data: Sequence[str | Mapping[str, str]], *, width: int = 320
) -> Component:
    """Return a drop-down for a free text of View."""
    return html.Div(
        [
            html.Span(title, className="control-title"),
            dmc.Select(id={"type": "control", "name": name}, data=list(data), value=value, size="xs", w=width,
                       allowDeselect=False, **{"aria-label": title}),
        ],
        className="control",
    )  # fmt: skip


def controls(*children: Component) -> Component:
    """Return a row of controls."""
    return html.Div(list(children), className="controls", role="group", **{"aria-label": "how it is drawn"})


def chart(name: str, title: str, note: str = "", *, height: int = 420) -> Component:
    """Return a chart: what the page's `charts` make of the chosen runs under this name."""
    return html.Section(
        [
            html.H2(title),
            html.P(note, className="note") if note else None,
            dcc.Store(id={"type": "figure", "name": name}),
            dcc.Store(id={"type": "zoom", "name": name}),
            dcc.Graph(
                id={"type": "chart", "name": name}, figure=empty_figure("…"), config=GRAPH_CONFIG, responsive=True,
                style={"height": f"{height}px"},
            ),
        ],
        className="panel",
        **{"aria-label": title},
    )  # fmt: skip


def part(name: str) -> Component:
    """Return the place of what the page's `parts` make of the chosen runs under this name."""
    return html.Div(id={"type": "part", "name": name}, className="part")


def table(head: Sequence[Component], rows: Sequence[Sequence[Component]], *, caption: str = "") -> Component:
    """Return a table that scrolls by itself when it is wider than the page."""
    body = [html.Tr([html.Th(row[0], scope="row"), *[_cell(cell) for cell in row[1:]]]) for row in rows]
    return html.Div(
        html.Table(
            [
                html.Caption(caption) if caption else None,
                html.Thead(html.Tr([html.Th(title, scope="col") for title in head])),
                html.Tbody(body),
            ]
        ),
        className="table",
        tabIndex=0,
        role="region",
        **{"aria-label": caption or "table"},
    )


def _cell(content: Component) -> Component:
    return content if isinstance(content, html.Td) else html.Td(content)


def best(text: str) -> Component:
    """Return a cell that stands out as the best of its column, also for who sees no color."""
    return html.Td(
        html.Strong([text, html.Span(" ★", title="the best of these runs", **{"aria-label": "best"})]), className="best"
    )


def nothing_chosen(store: RunStore) -> Component:
    """Return what to do when no run is shown: choose some, or make the first."""
    if store.runs():
        return empty("No run is chosen", "Pick some in the field at the top, or tick them on the page Runs.")
    return empty(
        "No runs yet",
        ["Train a small transformer in two to four minutes: ", html.Code("make demo")],
        ["or: ", html.Code("tfs run --config configs/quickstart.yaml")],
        "It appears here by itself, if it is in the assets folder that this dashboard shows (--assets or TFS_ASSETS).",
    )


def empty(title: str, *advice: Component) -> Component:
    """Return what is shown where there is nothing to show: why, and what to do."""
    return html.Div([html.H2(title), *[html.P(line) for line in advice]], className="empty panel")


def failed(title: str, error: BaseException) -> Component:
    """Return what is shown in the place of a page, or a part of one, that raised an error."""
    lines = [html.P(failure(error)), html.P("The rest of the dashboard works. Where it failed: TFS_DEBUG=1 tfs dash")]
    return html.Div([html.H1(title), *lines], className="alarm panel", role="alert")


def failure(error: BaseException) -> str:
    """Return what went wrong, without the paths of this machine."""
    return f"It cannot be shown: {public_text(describe(error))}"


def notices(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return what is not as the address asks, and what could not be read."""
    said = [f"There is no run named {name}." for name in chosen_runs(view, store)[1]]
    said += [
        f"{count:,} damaged lines in the logs of {run.name} are left out." for run in runs if (count := run.bad_lines())
    ]
    if len(runs) > 30:
        said.append(f"{len(runs)} runs in one chart are hard to tell apart.")
    return html.Div([html.P(sentence) for sentence in said], className="notice", role="alert") if said else None
