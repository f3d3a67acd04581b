"""A run's curves for a view: the columns of its axes, smoothed, and thinned to screen resolution."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfs_dash import analysis, compute
from tfs_dash.once import Once
from tfs_dash.store import RunData
from tfs_dash.view import View

X_COLUMNS = {"steps": "step", "tokens": "tokens", "seconds": "elapsed_seconds", "flops": "flops"}
X_TITLES = {"steps": "optimizer steps", "tokens": "tokens trained on", "flops": "floating-point operations (FLOPs)"}
Y_TITLES = {"loss": "loss (nats per token)", "bits_per_byte": "bits per byte", "perplexity": "perplexity"}

Window = tuple[float, float] | None
"""The zoomed range (low, high) of the x axis in the units of the data; None for the whole axis."""

_SMOOTHED: Once[np.ndarray] = Once(48)


class Line(NamedTuple):
    """The thinned points of a curve: x and y, each [points]."""

    x: np.ndarray
    y: np.ndarray


def seconds_unit(runs: Sequence[RunData]) -> tuple[float, str]:
    """Return the time unit for the longest run: its length in seconds, and its name."""
    longest = max((float(np.nanmax(x)) for run in runs if (x := _seconds(run)).size), default=0.0)
    if longest > 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if longest > 180 else (1.0, "seconds")


def _seconds(run: RunData) -> np.ndarray:
    values = run.training("elapsed_seconds")["elapsed_seconds"]
    return values[np.isfinite(values)][-1:]


def x_title(view: View, runs: Sequence[RunData]) -> str:
    """Return the title of the x axis."""
    return X_TITLES.get(view.x) or f"time in training ({seconds_unit(runs)[1]})"


def x_scale(view: View, runs: Sequence[RunData]) -> float:
    """Return the divisor of the x column: the time unit in seconds, or 1."""
    return seconds_unit(runs)[0] if view.x == "seconds" else 1.0


def training_curve(run: RunData, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, logged y and smoothed y, each [rows]; empty for bits per byte, which is logged at validations only."""
    if view.y == "bits_per_byte":
        return np.empty(0), np.empty(0), np.empty(0)
    columns = run.training("step", X_COLUMNS[view.x], "loss")
    loss, smoothed = columns["loss"], smoothed_column(run, "loss", view.smooth)
    if view.y == "perplexity":  # exp(mean loss), as for validations
        loss, smoothed = np.exp(np.minimum(loss, 700)), np.exp(np.minimum(smoothed, 700))
    return columns[X_COLUMNS[view.x]], loss, smoothed


def smoothed_column(run: RunData, name: str, weight: float) -> np.ndarray:
    """Return a column of the training log, smoothed at full resolution (float32, cached) unless `weight` is 0: [rows].

    `weight` is the decay per step, from 0 to 1.
    """
    columns = run.training("step", name)
    values = columns[name]
    if weight <= 0 or not len(values):
        return values
    key = (
        run.name,
        run.info.get("run_id"),
        name,
        weight,
        len(values),
        float(columns["step"][-1]),
        values[-1].tobytes(),
    )
    # float32 is enough for drawing
    return _SMOOTHED.get(key, lambda: analysis.smooth(values, weight, columns["step"]).astype(np.float32))


def validation_curve(run: RunData, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the validations, float64 [validations] each."""
    columns = run.validation(X_COLUMNS[view.x], view.y)
    return columns[X_COLUMNS[view.x]], columns[view.y]


def compute_curve(run: RunData, view: View) -> compute.Curve:
    """Return validation loss against FLOPs; with fewer than two validations, the smoothed training loss."""
    validation = run.validation("flops", "loss")
    if np.isfinite(validation["loss"]).sum() >= 2:
        return compute.clean(validation["flops"], validation["loss"])
    columns = run.training("flops")
    return compute.clean(columns["flops"], smoothed_column(run, "loss", max(view.smooth, 0.9)))


def drawn(x: np.ndarray, y: np.ndarray, *, log_x: bool, window: Window = None, points: int = analysis.POINTS) -> Line:
    """Return the curve, x and y [rows], thinned to about `points`, plus up to about `points` more inside the window."""
    on_axis = _log10(x) if log_x else x
    indices = analysis.thin(on_axis, y, points)
    if window is not None:
        part = analysis.inside(x, *window)
        indices = np.unique(np.concatenate([indices, part.start + analysis.thin(on_axis[part], y[part], points)]))
    return Line(x[indices], y[indices])


def _log10(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x > 0, np.log10(np.where(x > 0, x, 1.0)), np.nan)


def group_by_seed(runs: Sequence[RunData]) -> list[list[RunData]]:
    """Group the runs by their `group`, or else by configuration without seed, experiment name and tags."""
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        config = {
            key: value for key, value in run.read_config().items() if key not in ("seed", "experiment_name", "tags")
        }
        groups.setdefault(str(run.info.get("group") or config or run.name), []).append(run)
    return list(groups.values())
