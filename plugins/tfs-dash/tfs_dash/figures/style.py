"""Shared figure style: colors, themes and axes, and the encoding of arrays for the browser."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfs_dash.store import RunData

Figure = dict[str, Any]

GRAPH_CONFIG: dict[str, Any] = {
    "showSendToCloud": False,  # Plotly 7 offers to upload a chart to its makers' servers
    "plotlyServerURL": "",
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "png", "scale": 2, "filename": "tfs"},
}
"""Plotly's configuration of every graph, on pages and in reports."""

COLORS = (
    "#1f8fe0",
    "#e8762d",
    "#1fa774",
    "#c95fa8",
    "#8b6fe0",
    "#b8930f",
    "#17a5b8",
    "#e0525a",
    "#7f9a2c",
    "#8a8f98",
)
"""Ten colors that differ in hue and lightness, for white and black backgrounds and common color blindness."""

DASHES = ("solid", "dash", "dot", "dashdot")
"""Line styles: one per ten runs, in order."""


def _template(*, paper: str, text: str, grid: str, line: str) -> Figure:
    axis = {
        "gridcolor": grid,
        "zerolinecolor": grid,
        "linecolor": line,
        "tickcolor": line,
        "ticks": "outside",
        "showline": True,
        "automargin": True,
        "title": {"standoff": 8},
    }
    return {
        "layout": {
            "paper_bgcolor": paper,
            "plot_bgcolor": paper,
            "font": {"color": text, "size": 13, "family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": paper, "bordercolor": line, "font": {"color": text}, "namelength": -1},
            "legend": {"bgcolor": "rgba(0,0,0,0)"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": line, "activecolor": text},
        }
    }


TEMPLATES = {
    "light": _template(paper="#ffffff", text="#1f2328", grid="#e9ecef", line="#868e96"),
    "dark": _template(paper="#242424", text="#d5d7da", grid="#373a40", line="#7d838c"),
}


def color(run: RunData) -> str:
    """Return the color for `run.position`: the run's rank by start time, or a value from view.with_distinct_colors."""
    return COLORS[run.position % len(COLORS)]


def dash(run: RunData) -> str:
    """Return the run's line style, which distinguishes runs of the same color."""
    return DASHES[run.position // len(COLORS) % len(DASHES)]


def faint(hex_color: str, opacity: float) -> str:
    """Return the color with an opacity from 0 to 1."""
    red, green, blue = (int(hex_color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def safe(text: object) -> str:
    """Escape untrusted text for a figure: Plotly interprets some HTML (`<a href>`, `<b>`) in every text."""
    return html.escape(str(text), quote=False)


def hover(label: str, *lines: str) -> str:
    """Return a Plotly hover template: the label in bold, then `lines`, in Plotly's template syntax."""
    return "<br>".join([f"<b>{safe(label)}</b>", *lines]) + "<extra></extra>"


def figure(
    data: Sequence[Mapping[str, Any]],
    *,
    x_title: str,
    y_title: str,
    log_x: bool = False,
    log_y: bool = False,
    revision: str = "",
    **layout: Any,  # Plotly's own
) -> Figure:
    """Return a figure with two axes. The browser keeps the zoom while `revision` is unchanged."""
    return {
        "data": [dict(trace) for trace in data],
        "layout": {
            "xaxis": {"title": {"text": x_title}, "type": "log" if log_x else "linear", **_exponents(log_x)},
            "yaxis": {"title": {"text": y_title}, "type": "log" if log_y else "linear", **_exponents(log_y)},
            "margin": {"l": 8, "r": 16, "t": 28, "b": 8},
            "hovermode": "closest",
            "showlegend": len({trace.get("legendgroup") for trace in data}) > 1,
            "uirevision": revision,
            **layout,
        },
    }


def _exponents(log: bool) -> Figure:
    return {"exponentformat": "SI extended", "dtick": "D2"} if log else {"exponentformat": "SI extended"}


def empty_figure(message: str) -> Figure:
    """Return a figure without data that shows a message: the reason and advice."""
    note = {"text": safe(message), "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
    hidden = {"visible": False}
    return {"data": [], "layout": {"xaxis": hidden, "yaxis": hidden, "annotations": [{**note, "font": {"size": 15}}]}}


def encoded(value: Any) -> Any:
    """Return a figure with its arrays base64-encoded for Plotly: whole numbers int32, others float32 or float64."""
    if isinstance(value, np.ndarray):
        return _encoded_array(value)
    if isinstance(value, dict):
        return {key: encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    return value


def _encoded_array(values: np.ndarray) -> Any:
    if values.dtype.kind not in "fiu":
        return values.tolist()
    finite = bool(np.isfinite(values).all())
    if finite and len(values) and np.abs(values).max() < 2**31 and not (values % 1).any():
        return {"dtype": "i4", "bdata": base64.b64encode(values.astype("<i4").tobytes()).decode()}
    large = bool(finite and len(values) and np.abs(values).max() > 1e30)
    kind = "f8" if large else "f4"
    if (
        finite
        and len(values) > 1
        and kind == "f4"
        and (np.diff(values.astype("f4")) == 0).any()
        and (np.diff(values) > 0).all()
    ):
        kind = "f8"  # float32 would merge distinct points of an x axis
    return {"dtype": kind, "bdata": base64.b64encode(values.astype(f"<{kind}").tobytes()).decode()}
