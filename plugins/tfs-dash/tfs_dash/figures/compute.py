"""Figures of loss against compute: curves over FLOPs, loss at a budget, and gain per doubling of compute."""

from collections.abc import Sequence

import numpy as np

from tfs_dash import compute, units
from tfs_dash.curves import Window, compute_curve, drawn
from tfs_dash.figures.style import Figure, color, dash, empty_figure, figure, hover, safe
from tfs_dash.store import RunData
from tfs_dash.view import View, labels

NO_FLOPS = "No FLOPs logged yet: runs of `tfs run` count them from the first step."


def flops_figure(runs: Sequence[RunData], view: View, window: Window = None) -> Figure:
    """Return loss against cumulative FLOPs, with a line at the budget and a circle where each curve meets the line."""
    curves = {run.name: compute_curve(run, view) for run in runs}
    if not any(len(curve.cost) for curve in curves.values()):
        return empty_figure(NO_FLOPS)
    names, log_x = labels(runs), "x" in view.axes
    traces = []
    for run in runs:
        curve = curves[run.name]
        line = drawn(curve.cost, curve.loss, log_x=log_x, window=window)
        mode = "lines+markers" if len(line.x) <= 60 else "lines"
        traces.append(
            {
                **line._asdict(),
                "type": "scatter",
                "mode": mode,
                "name": safe(names[run.name]),
                "legendgroup": safe(run.name),
                "line": {"color": color(run), "dash": dash(run), "width": 1.8},
                "marker": {"size": 5},
                "hovertemplate": hover(names[run.name], "loss %{y:.4f}", "%{x:.3s}FLOPs"),
            }
        )
    budget = chosen_budget(list(curves.values()), view)
    shapes = []
    if budget is not None:
        shapes = [
            {
                "type": "line",
                "x0": budget,
                "x1": budget,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"dash": "dash", "width": 1, "color": "#868e96"},
            }
        ]
        for run in runs:
            loss = compute.loss_at(curves[run.name], budget)
            if loss is not None:
                traces.append(
                    {
                        "x": [budget],
                        "y": [loss],
                        "type": "scatter",
                        "mode": "markers",
                        "showlegend": False,
                        "legendgroup": safe(run.name),
                        "hoverinfo": "skip",
                        "marker": {"size": 11, "symbol": "circle-open", "color": color(run), "line": {"width": 2}},
                    }
                )
    return figure(
        traces,
        x_title="floating-point operations of training (FLOPs)",
        y_title="loss (nats per token)",
        log_x=log_x,
        log_y="y" in view.axes,
        revision=f"flops {view.axes}",
        shapes=shapes,
        showlegend=True,
    )


def chosen_budget(curves: list[compute.Curve], view: View) -> float | None:
    """Return the FLOPs at which runs are compared: the view's budget, or compute.fullest_budget.

    Some curves may not cover it: a small run may have ended before the first validation of a large one.
    """
    return 10.0**view.budget if view.budget > 0 else compute.fullest_budget(curves)


def equal_compute_figure(runs: Sequence[RunData], view: View, window: Window = None) -> Figure:
    """Return each run's loss at the budget, the best at the top."""
    del window  # one point per run: zooming needs no more
    curves = {run.name: compute_curve(run, view) for run in runs}
    budget = chosen_budget(list(curves.values()), view)
    losses = {
        run.name: loss
        for run in runs
        if budget is not None and (loss := compute.loss_at(curves[run.name], budget)) is not None
    }
    known = sorted((run for run in runs if run.name in losses), key=lambda run: -losses[run.name])
    if budget is None or not known:
        return empty_figure("No run was measured at this budget: move the slider.")
    names = labels(runs)
    trace = {
        "x": [losses[run.name] for run in known],
        "y": [safe(names[run.name]) for run in known],
        "text": [f"{losses[run.name]:.4f}" for run in known],
        "textposition": "middle right",
        "type": "scatter",
        "mode": "markers+text",
        "cliponaxis": False,
        "marker": {"size": 12, "color": [color(run) for run in known]},
        "hovertemplate": "<b>%{y}</b><br>loss %{x:.4f}<extra></extra>",
    }
    result = figure([trace], x_title=f"loss after {units.flops(budget)} (nats per token)", y_title="", revision="equal")
    result["layout"]["yaxis"] = {"type": "category"}
    result["layout"]["margin"] = {"l": 8, "r": 70, "t": 28, "b": 8}
    return result


def efficiency_figure(runs: Sequence[RunData], view: View, window: Window = None) -> Figure:
    """Return the gain of a doubling of compute along each run, in nats."""
    names, traces = labels(runs), []
    for run in runs:
        gains = compute.gain_of_doubling(compute_curve(run, view))
        line = drawn(gains.cost, gains.loss, log_x=True, window=window)
        traces.append(
            {
                **line._asdict(),
                "type": "scatter",
                "mode": "lines",
                "name": safe(names[run.name]),
                "legendgroup": safe(run.name),
                "line": {"color": color(run), "dash": dash(run), "width": 1.8},
                "hovertemplate": hover(names[run.name], "%{y:.4f} nats", "%{x:.3s}FLOPs"),
            }
        )
    if not any(len(trace["x"]) for trace in traces):
        return empty_figure("Not enough data: a run needs validations that span a doubling of its compute.")
    result = figure(
        traces,
        x_title="floating-point operations of training (FLOPs)",
        y_title="nats gained by the last doubling",
        log_x=True,
        revision="efficiency",
        showlegend=True,
    )
    lowest = min(float(np.min(trace["y"])) for trace in traces if len(trace["y"]))
    result["layout"]["yaxis"]["rangemode"] = "tozero" if lowest >= 0 else "normal"
    return result
