"""Figures of a run's health: learning rate, gradient norm, throughput, and non-finite steps."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from tfs_dash.curves import X_COLUMNS, Window, drawn, smoothed_column, x_scale, x_title
from tfs_dash.figures.style import Figure, color, dash, empty_figure, faint, figure, hover, safe
from tfs_dash.store import RunData
from tfs_dash.view import View, labels

TITLES = {
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm, before clipping",
    "tokens_per_second": "tokens per second",
}


def health_figure(column: str, runs: Sequence[RunData], view: View, window: Window = None) -> Figure:
    """Return the chart of a training log column, with a cross at steps whose loss or gradient norm is not finite."""
    scale, names, log_x = x_scale(view, runs), labels(runs), "x" in view.log
    if window is not None:
        window = (window[0] * scale, window[1] * scale)
    traces: list[Figure] = []
    for run in runs:
        columns = run.training("step", X_COLUMNS[view.x], column)
        x, raw = columns[X_COLUMNS[view.x]], columns[column]
        weight = 0.0 if column == "learning_rate" else view.smooth
        common = {"type": "scatter", "mode": "lines", "legendgroup": safe(run.name), "name": safe(names[run.name])}
        said = hover(names[run.name], "%{y:.4g}", f"{view.x} %{{x:,}}")
        if weight > 0:
            traces.append(
                {
                    **common,
                    **drawn(x, raw, log_x=log_x, window=window)._asdict(),
                    "hoverinfo": "skip",
                    "showlegend": False,
                    "line": {"color": faint(color(run), 0.25), "width": 1},
                }
            )
        line = drawn(x, smoothed_column(run, column, weight), log_x=log_x, window=window, points=1000)
        traces.append(
            {
                **common,
                **line._asdict(),
                "hovertemplate": said,
                "line": {"color": color(run), "width": 1.5, "dash": dash(run)},
            }
        )
    if not any(len(trace["x"]) for trace in traces):
        return empty_figure("Nothing logged yet. The chart appears with the first step.")
    shapes = []
    for run in runs:
        marks = nonfinite_at(run, X_COLUMNS[view.x]) / scale
        shapes += [
            {
                "type": "line",
                "x0": at,
                "x1": at,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"color": color(run), "width": 2, "dash": "dot"},
            }
            for at in marks.tolist()
        ]
        if len(marks):
            traces.append(
                {
                    "x": marks * scale,
                    "y": np.zeros(len(marks)),
                    "type": "scatter",
                    "mode": "markers",
                    "showlegend": False,
                    "legendgroup": safe(run.name),
                    "yaxis": "y3",
                    "marker": {"symbol": "x", "size": 11, "color": color(run)},
                    "hovertemplate": hover(names[run.name], "not finite at %{x:,}"),
                }
            )
    for trace in traces:
        trace["x"] = trace["x"] / scale
    result = figure(
        traces,
        x_title=x_title(view, runs),
        y_title=TITLES[column],
        log_x=log_x,
        log_y="y" in view.log and column == "grad_norm",
        revision=f"{column} {view.x} {scale} {view.log}",
        shapes=shapes,
        showlegend=len(runs) > 1,
    )
    if column == "learning_rate":
        result["layout"]["yaxis"]["tickformat"] = "~e"  # 3e-4, as in configurations
    result["layout"]["yaxis"]["rangemode"] = "normal" if column == "grad_norm" else "tozero"
    if any(trace.get("yaxis") == "y3" for trace in traces):
        result["layout"]["yaxis3"] = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    return result


def nonfinite_at(run: RunData, x_column: str, most: int = 50) -> np.ndarray:
    """Return the x of the first `most` steps whose loss or gradient norm was not finite: [steps]."""
    columns = run.training(x_column, "loss", "grad_norm")
    nonfinite = ~np.isfinite(columns["loss"])
    if np.isfinite(columns["grad_norm"]).any():  # a log without any norm does not mean NaN
        nonfinite |= ~np.isfinite(columns["grad_norm"])
    places = columns[x_column][nonfinite]
    return places[np.isfinite(places)][:most]


HEALTH_FIGURES: dict[str, Callable[..., Figure]] = {column: partial(health_figure, column) for column in TITLES}
