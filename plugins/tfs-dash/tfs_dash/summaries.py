"""Summaries of runs for tables and cards: progress, best and last results, and cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from tfs_dash.analysis import smooth
from tfs_dash.curves import compute_curve
from tfs_dash.run_info import number
from tfs_dash.store import RunData
from tfs_dash.view import View


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Summary of a run. None means unknown. Losses are in nats per token; `seconds` is the training time."""

    name: str
    status: str
    parameters: int | None
    steps: int | None
    tokens: float | None
    flops: float | None
    seconds: float | None
    best_loss: float | None  # lowest validation loss
    best_step: int | None
    last_loss: float | None
    best_bits_per_byte: float | None
    training_loss: float | None  # smoothed, at the end
    tokens_per_second: float | None  # median over the last log lines


def summarize(run: RunData) -> Summary:
    """Return the summary of a run from its logs. It reads only the losses and the last lines of the training log."""
    last = _last(run, "metrics")
    validation = run.validation("step", "loss", "bits_per_byte")
    known = np.flatnonzero(np.isfinite(validation["loss"]))  # argmin would return a NaN
    best = known[validation["loss"][known].argmin()] if len(known) else None
    best_step = None if best is None else number(float(validation["step"][best]))
    bits = validation["bits_per_byte"][np.isfinite(validation["bits_per_byte"])]
    speeds = [speed for row in run.read_tail("metrics") if (speed := number(row.get("tokens_per_second"))) is not None]
    recent = run.training("loss")["loss"][-1000:]
    smoothed = smooth(recent[np.isfinite(recent)], 0.98)
    return Summary(
        name=run.name,
        status=run.status,
        parameters=run.info["parameters"].get("total"),
        steps=number(last.get("step")),
        tokens=number(last.get("tokens")),
        flops=number(last.get("flops")),
        seconds=number(last.get("elapsed_seconds")),
        best_loss=None if best is None else float(validation["loss"][best]),
        best_step=None if best_step is None else int(best_step),
        last_loss=float(validation["loss"][known[-1]]) if len(known) else None,
        best_bits_per_byte=float(bits.min()) if len(bits) else None,
        training_loss=float(smoothed[-1]) if len(smoothed) else None,
        tokens_per_second=float(np.median(speeds)) if speeds else None,
    )


def best_of(
    summaries: Sequence[Summary], value: Callable[[Summary], float | None], *, lowest: bool = True
) -> Summary | None:
    """Return the summary with the lowest (or highest) value; None if all values are unknown."""
    known = [summary for summary in summaries if value(summary) is not None]
    return (min if lowest else max)(known, key=value, default=None)  # type: ignore[type-var, arg-type]


def common_target(runs: Sequence[RunData], view: View) -> float | None:
    """Return the target loss for comparing costs: `view.target`, or the lowest loss reached by all runs with a curve.

    It is in nats per token. Returns None when no target is set and no run has a curve.
    """
    if view.target > 0:
        return view.target
    lowest = [float(curve.loss.min()) for run in runs if len((curve := compute_curve(run, view)).loss)]
    return max(lowest) if lowest else None


def grid_rows(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Return the rows of the table of all runs, newest first, from `run.json` and the last log lines."""
    rows = []
    for run in reversed(runs):
        info = run.info
        total, step = info["total_steps"], info["summary"]["last_step"]
        rows.append(
            {
                "name": run.name,
                "status": run.status,
                "model": info.get("model"),
                "experiment": info.get("experiment_name"),
                "group": info.get("group"),
                "tags": ", ".join(info["tags"]),
                "seed": info.get("seed"),
                "parameters": info["parameters"].get("total"),
                "step": step,
                "progress": round(100 * step / total) if step is not None and total and total >= 1 else None,
                "best_loss": info["summary"]["best_validation"]["loss"],
                "last_loss": number(_last(run, "validation").get("loss")),
                "training_loss": number(_last(run, "metrics").get("loss")),
                "tokens": info["summary"]["tokens"],
                "flops": info["summary"]["flops"],
                "started": _minute(info.get("started_at")),
            }
        )
    return rows


def _last(run: RunData, log: str) -> dict[str, Any]:
    return next(reversed(run.read_tail(log)), {})


def _minute(at: object) -> str | None:
    try:
        return datetime.fromisoformat(str(at)).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return None
