"""The loss chart: training and validation loss of any number of runs, on any axis, or mean and band over seeds."""

from collections.abc import Sequence

import numpy as np

from tfs_dash import analysis
from tfs_dash.curves import (
    Y_TITLES,
    Window,
    drawn,
    group_by_seed,
    training_curve,
    validation_curve,
    x_scale,
    x_title,
)
from tfs_dash.figures.style import Figure, color, dash, empty_figure, faint, figure, hover, safe
from tfs_dash.store import RunData
from tfs_dash.view import View, labels

PERPLEXITIES = [base * 10**power for power in range(8) for base in (1, 2, 5)]
"""Tick values of the perplexity axis."""


def loss_figure(runs: Sequence[RunData], view: View, window: Window = None) -> Figure:
    """Return the loss chart, in full resolution inside the zoom window."""
    scale = x_scale(view, runs)
    if window is not None:
        window = (window[0] * scale, window[1] * scale)
    names = labels(runs)
    if view.seeds == "mean":
        groups = group_by_seed(runs)
        traces = [trace for group in groups for trace in _group_traces(group, names, view, window)]
    else:
        traces = [trace for run in runs for trace in _run_traces(run, names[run.name], view, window)]
    if not any(len(trace["x"]) for trace in traces):
        return empty_figure(_why_empty(runs, view))
    for trace in traces:
        trace["x"] = trace["x"] / scale
    log_x, log_y = "x" in view.log, "y" in view.log
    result = figure(
        traces,
        x_title=x_title(view, runs),
        y_title=Y_TITLES[view.y],
        log_x=log_x,
        log_y=log_y,
        revision=f"{view.x} {scale} {view.y} {view.log}",
        showlegend=True,
    )
    if view.second == "perplexity" and view.y == "loss":
        _add_perplexity_axis(result)
    return result


def _why_empty(runs: Sequence[RunData], view: View) -> str:
    if not runs:
        return "No run is chosen: pick some in the field above."
    if view.y == "bits_per_byte":
        return "No validation yet: bits per byte are measured at validations (training.eval_every)."
    return f"Nothing logged yet on this axis ({view.x}). The chart appears with the first step."


def _run_traces(run: RunData, label: str, view: View, window: Window) -> list[Figure]:
    """Return the traces of a run: logged values as a faint line, smoothed values, and validations with markers."""
    log_x = "x" in view.log
    common = {"legendgroup": safe(run.name), "mode": "lines", "type": "scatter"}
    traces = []
    if view.show != "validation" and view.y != "bits_per_byte":
        x, raw, smoothed = training_curve(run, view)
        if view.smooth > 0:
            line = {"color": faint(color(run), 0.25), "width": 1}
            traces.append(
                {
                    **common,
                    **drawn(x, raw, log_x=log_x, window=window)._asdict(),
                    "line": line,
                    "showlegend": False,
                    "hoverinfo": "skip",
                    "name": f"{safe(label)} as logged",
                }
            )
        points = analysis.POINTS if view.smooth <= 0 else analysis.POINTS // 2
        line = {"color": color(run), "width": 1.6, "dash": dash(run)}
        traces.append(
            {
                **common,
                **drawn(x, smoothed, log_x=log_x, window=window, points=points)._asdict(),
                "line": line,
                "name": safe(label),
                "hovertemplate": _hover(label, "training", view),
            }
        )
    if view.show != "training":
        x, y = validation_curve(run, view)
        style = dash(run) if view.show == "validation" else "dot"
        traces.append(
            {
                **common,
                **drawn(x, y, log_x=log_x, window=window)._asdict(),
                "mode": "lines+markers",
                "line": {"color": color(run), "width": 1, "dash": style},
                "marker": {"size": 6, "symbol": "circle"},
                "showlegend": not traces,
                "name": safe(label) if not traces else f"{safe(label)} validation",
                "hovertemplate": _hover(label, "validation", view),
            }
        )
    return traces


def _hover(label: str, kind: str, view: View) -> str:
    return hover(label, f"{kind} %{{y:.4f}}", f"{view.x} %{{x:,}}")


def _group_traces(group: list[RunData], names: dict[str, str], view: View, window: Window) -> list[Figure]:
    """Return the mean of a group with a band of one standard deviation; for a single run, its own traces."""
    if len(group) == 1:
        return _run_traces(group[0], names[group[0].name], view, window)
    kinds = [kind for kind in ("training", "validation") if view.show in ("both", kind)]
    first, label = group[0], str(group[0].info.get("group") or group[0].info.get("experiment_name") or group[0].name)
    traces: list[Figure] = []
    for kind in kinds:
        curves = [_curve_of(run, kind, view) for run in group]
        spread = analysis.mean_and_spread(curves)
        if not len(spread.x):
            continue
        mean = drawn(spread.x, spread.mean, log_x="x" in view.log, window=window, points=analysis.POINTS // 2)
        deviation = np.interp(mean.x, spread.x, spread.deviation)
        common = {"legendgroup": safe(first.name), "type": "scatter", "x": mean.x}
        edge = {**common, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        traces += [
            {**edge, "y": mean.y - deviation},
            {**edge, "y": mean.y + deviation, "fill": "tonexty", "fillcolor": faint(color(first), 0.2)},
            {
                **common,
                "y": mean.y,
                "mode": "lines" if kind == "training" else "lines+markers",
                "line": {"color": color(first), "width": 1.8, "dash": dash(first) if kind == kinds[0] else "dot"},
                "name": safe(f"{label}: mean of {spread.runs}"),
                "showlegend": kind == kinds[0],
                "hovertemplate": _hover(f"{label}, mean of {spread.runs}", kind, view),
            },
        ]
    return traces


def _curve_of(run: RunData, kind: str, view: View) -> tuple[np.ndarray, np.ndarray]:
    if kind == "validation":
        return validation_curve(run, view)
    x, _, smoothed = training_curve(run, view)
    return x, smoothed


def _add_perplexity_axis(result: Figure) -> None:
    """Add a right-hand axis with exp(loss) for the same lines. It follows every zoom."""
    result["data"].append(
        {"x": [None], "y": [None], "yaxis": "y2", "type": "scatter", "showlegend": False, "hoverinfo": "skip"}
    )
    result["layout"]["yaxis2"] = {
        "title": {"text": "perplexity"},
        "type": result["layout"]["yaxis"]["type"],
        "overlaying": "y",
        "matches": "y",
        "side": "right",
        "showgrid": False,
        "tickmode": "array",
        "tickvals": np.log(np.array(PERPLEXITIES) + (np.array(PERPLEXITIES) == 1) * 1e-9).tolist(),
        "ticktext": [f"{value:,}" for value in PERPLEXITIES],
    }
    result["layout"]["legend"] = {"x": 1.06}  # right of the axis
