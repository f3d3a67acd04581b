"""Building blocks of a page: controls that set the address, charts and parts that are updated from it.

A control has the id {"type": "control", "name": a field of View}; the browser writes its value to the address. Two
callbacks (app.py) fill charts and parts; they look up each function by the name of its chart or part.
"""

from collections.abc import Mapping, Sequence

import dash_mantine_components as dmc
from dash import dcc, html

from tfs_core.plugins import describe
from tfs_core.terminal import counted
from tfs_dash.figures.style import GRAPH_CONFIG, empty_figure
from tfs_dash.page import Component
from tfs_dash.redact import public_text
from tfs_dash.store import RunData, RunStore
from tfs_dash.view import CHOICES, View, chosen_runs

LOG_AXES = {"": "linear", "x": "log x", "y": "log y", "xy": "log both"}


def choice(name: str, title: str, value: str, words: Mapping[str, str] | None = None) -> Component:
    """Return a segmented control (one of several buttons is selected) for a field of View.

    `words` maps each value to its label; by default the labels are the values in CHOICES.
    """
    words = words or {word: word.replace("_", " ") for word in CHOICES[name]}
    # The component cannot select an empty value, so the empty word is sent as "linear".
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
    """Return the slider for the smoothing weight, 0 to 0.99."""
    return slider("smooth", "smoothing", value, low=0.0, high=0.99, step=0.01, marks=[0, 0.5, 0.99])


def slider(
    name: str, title: str, value: float, *, low: float, high: float, step: float, marks: Sequence[float] = (),
    label: str = "tfsNumber", stops: Sequence[float] = (),
) -> Component:  # fmt: skip
    """Return a slider for a numeric field of View; `label` names the function in assets/tfs.js that formats the value.

    All numbers are in the unit of the field. With `stops` the slider is restricted to these values.
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
    """Return a drop-down list for a text field of View."""
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
    return html.Div(list(children), className="controls", role="group", **{"aria-label": "view settings"})


def chart(name: str, title: str, note: str = "", *, height: int = 420) -> Component:
    """Return the placeholder of a chart, filled by the function of this name in the page's `charts`.

    `height` is in pixels.
    """
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
    """Return the placeholder of a part, filled by the function of this name in the page's `parts`."""
    return html.Div(id={"type": "part", "name": name}, className="part")


def table(head: Sequence[Component], rows: Sequence[Sequence[Component]], *, caption: str = "") -> Component:
    """Return a table that scrolls horizontally when it is wider than the page. A row's first cell is its header."""
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
    """Return a table cell marked as the best of its column: bold with a star, so not by color alone."""
    return html.Td(
        html.Strong([text, html.Span(" ★", title="the best of these runs", **{"aria-label": "best"})]), className="best"
    )


def nothing_chosen(store: RunStore) -> Component:
    """Return advice when no run is shown: choose some, or train the first."""
    if store.runs():
        return empty("No run is chosen", "Choose runs in the field at the top, or tick them on the page Runs.")
    return empty(
        "No runs yet",
        ["Train a small transformer in two to four minutes: ", html.Code("make demo")],
        ["or: ", html.Code("tfs run --config configs/quickstart.yaml")],
        "The run appears here automatically if it is in this dashboard's assets folder (--assets or TFS_ASSETS).",
    )


def empty(title: str, *advice: Component) -> Component:
    """Return an empty-state panel: the reason and advice."""
    return html.Div([html.H2(title), *[html.P(line) for line in advice]], className="empty panel")


def failed(title: str, error: BaseException) -> Component:
    """Return the error panel for a page or part that raised an error."""
    lines = [html.P(failure(error)), html.P("The rest of the dashboard works. For a traceback: TFS_DEBUG=1 tfs dash")]
    return html.Div([html.H1(title), *lines], className="alarm panel", role="alert")


def failure(error: BaseException) -> str:
    """Return the error message, with absolute paths and secrets redacted."""
    return f"This cannot be shown: {public_text(describe(error))}"


def notices(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return warnings (unknown runs in the address, damaged log lines, too many runs), or None."""
    said = [f"There is no run named {name}." for name in chosen_runs(view, store)[1]]
    said += [
        f"Left out of the logs of {run.name}: {counted(count, 'damaged line')}."
        for run in runs
        if (count := run.bad_lines())
    ]
    if len(runs) > 30:
        said.append(f"{len(runs)} runs in one chart are hard to tell apart.")
    return html.Div([html.P(sentence) for sentence in said], className="notice", role="alert") if said else None
