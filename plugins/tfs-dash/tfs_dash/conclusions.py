"""Conclusions from the curves, in sentences: the best run at equal compute, crossovers, and remaining gains."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from tfs_dash import compute, units
from tfs_dash.curves import compute_curve
from tfs_dash.figures.compute import chosen_budget
from tfs_dash.store import RunData
from tfs_dash.summaries import common_target
from tfs_dash.view import View

MAX_CROSSINGS = 4

SIMILAR_GAIN = 0.9
"""Runs with more than this fraction of the largest gain per doubling are named together as gaining most."""


def conclusions(runs: Sequence[RunData], view: View) -> list[str]:
    """Return the sentences, the most important first; an empty list when no run has a curve."""
    curves = {_display_name(run): curve for run in runs if len((curve := compute_curve(run, view)).cost)}
    if not curves:
        return []
    return [
        *_lowest(curves),
        *_at_budget(curves, view),
        *_still_learning(curves),
        *_extrapolated_meeting(curves),
        *_crossings(curves),
        *_to_reach(runs, curves, view),
    ]


def _display_name(run: RunData) -> str:
    return f"{run.name} (failed)" if run.status == "failed" else run.name


def _lowest(curves: dict[str, compute.Curve]) -> list[str]:
    best = min(curves, key=lambda name: float(curves[name].loss.min()))
    curve = curves[best]
    at = curve.cost[int(curve.loss.argmin())]
    return [f"{best} reached the lowest loss of all, {curve.loss.min():.4f}, with {units.flops(float(at))}."]


def _at_budget(curves: dict[str, compute.Curve], view: View) -> list[str]:
    budget = chosen_budget(list(curves.values()), view)
    if budget is None or len(curves) < 2:
        return []
    losses = {name: loss for name, curve in curves.items() if (loss := compute.loss_at(curve, budget)) is not None}
    ranked = sorted(losses, key=lambda name: losses[name])
    missing = len(curves) - len(ranked)
    note = f" ({missing} of the runs {'has' if missing == 1 else 'have'} no loss at this budget)" if missing else ""
    if len(ranked) < 2:
        return [f"At {units.flops(budget)} there are fewer than two runs to compare{note}."]
    first, second = ranked[:2]
    lead = losses[second] - losses[first]
    return [
        f"After the same {units.flops(budget)}, {first} has the lowest loss, {losses[first]:.4f}: "
        f"{lead:.4f} nats below {second}{note}."
    ]


def _still_learning(curves: dict[str, compute.Curve]) -> list[str]:
    gains = {name: gain for name, curve in curves.items() if (gain := compute.last_gain(curve)) is not None}
    if not gains:
        return []
    most = max(gains, key=lambda name: gains[name])
    if gains[most] <= 0:
        return ["No run gained anything in its last doubling of compute: longer training alone will not help."]
    if len(gains) == 1:
        return [f"The last doubling of compute lowered the loss of {most} by {gains[most]:.3f} nats."]
    ranked = sorted(gains, key=lambda name: -gains[name])
    others = ", ".join(f"{name} {gains[name]:.3f}" for name in ranked[1:4])
    first = [name for name in ranked if gains[name] > SIMILAR_GAIN * gains[most]]
    have = f"{', '.join(first[:-1])} and {first[-1]} have" if len(first) > 1 else f"{most} has"
    return [
        f"The last doubling of compute lowered the loss of {most} by {gains[most]:.3f} nats (others: {others}): "
        f"of these runs, {have} the most to gain from longer training."
    ]


def _extrapolated_meeting(curves: dict[str, compute.Curve]) -> list[str]:
    """Extrapolate the cost at which another run reaches the best run's loss; if several do, use the largest gain."""
    best = min(curves, key=lambda name: float(curves[name].loss.min()))
    found = []
    for name, curve in curves.items():
        at = compute.meets_at(curves[best], curve) if name != best else None
        if at is not None:
            found.append((compute.last_gain(curve) or 0.0, name, at))
    return [
        f"If both continue at the rate of their last doubling, {name} catches up with {best} near {units.flops(at)}. "
        "This is a linear extrapolation in log compute, not a measurement."
        for _, name, at in sorted(found, reverse=True)[:1]
    ]


def _crossings(curves: dict[str, compute.Curve]) -> list[str]:
    found = []
    for a, b in combinations(curves, 2):
        places = compute.crossovers(curves[a], curves[b])
        if not places:
            continue
        common = compute.common_budget([curves[a], curves[b]])
        assert common is not None
        at_end = [compute.loss_at(curves[name], common[1]) or np.inf for name in (a, b)]
        ahead, behind = (a, b) if at_end[0] < at_end[1] else (b, a)
        more = f" (they cross {len(places)} times)" if len(places) > 3 else ""
        found.append((places[-1], f"{ahead} overtakes {behind} at {units.flops(places[-1])} and stays ahead{more}."))
    found.sort()
    left = len(found) - MAX_CROSSINGS
    more = [f"{left} more pairs of runs cross."] if left > 0 else []
    return [sentence for _, sentence in found[:MAX_CROSSINGS]] + more


def _to_reach(runs: Sequence[RunData], curves: dict[str, compute.Curve], view: View) -> list[str]:
    target = common_target(runs, view)
    if target is None or len(curves) < 2:
        return []
    costs = {name: cost for name, curve in curves.items() if (cost := compute.cost_to_reach(curve, target)) is not None}
    if len(costs) < 2:
        return []
    ranked = sorted(costs, key=lambda name: costs[name])
    cheap, dear = ranked[0], ranked[-1]
    if costs[cheap] <= 0:
        return []
    return [
        f"To reach a loss of {target:.4f}, {cheap} needed {units.flops(costs[cheap])}, the least; {dear} needed "
        f"{costs[dear] / costs[cheap]:.1f} times as much."
    ]
