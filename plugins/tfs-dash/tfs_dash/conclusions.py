"""What follows from the curves, in sentences: who leads at equal compute, who overtook whom, who still learns."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from tfs_dash import compute, units
from tfs_dash.curves import compute_curve
from tfs_dash.figures.compute import chosen_budget
from tfs_dash.store import RunData
from tfs_dash.summaries import common_target
from tfs_dash.view import View

MOST_CROSSINGS = 4

LIKE_THE_MOST = 0.9
"""Of the largest gain of a doubling: who gained more than that may as well be first the next time."""


def conclusions(runs: Sequence[RunData], view: View) -> list[str]:
    """Return the sentences, the most important first; none when there is nothing to compare."""
    curves = {_called(run): curve for run in runs if len((curve := compute_curve(run, view)).cost)}
    if not curves:
        return []
    return [
        *_lowest(curves),
        *_at_budget(curves, view),
        *_still_learning(curves),
        *_meeting(curves),
        *_crossings(curves),
        *_to_reach(runs, curves, view),
    ]


def _called(run: RunData) -> str:
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
    note = (
        f" ({missing} of the runs never stood there, and {'is' if missing == 1 else 'are'} left out)" if missing else ""
    )
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
        return [f"The last doubling of compute brought {most} {gains[most]:.3f} nats."]
    ranked = sorted(gains, key=lambda name: -gains[name])
    others = ", ".join(f"{name} {gains[name]:.3f}" for name in ranked[1:4])
    first = [name for name in ranked if gains[name] > LIKE_THE_MOST * gains[most]]
    have = f"{', '.join(first[:-1])} and {first[-1]} have" if len(first) > 1 else f"{most} has"
    return [
        f"The last doubling of its compute brought {most} {gains[most]:.3f} nats (others: {others}): "
        f"of these runs, {have} the most to gain from training on."
    ]


def _meeting(curves: dict[str, compute.Curve]) -> list[str]:
    """Say when the run that gains most, of those that would, meets the one that has the lowest loss."""
    best = min(curves, key=lambda name: float(curves[name].loss.min()))
    found = []
    for name, curve in curves.items():
        at = compute.meets_at(curves[best], curve) if name != best else None
        if at is not None:
            found.append((compute.last_gain(curve) or 0.0, name, at))
    return [
        f"If both go on as in their last doubling, {name} meets {best} near {units.flops(at)}. "
        "That is a straight line drawn on, not a measurement."
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
    left = len(found) - MOST_CROSSINGS
    more = [f"{left} more pairs of these runs cross."] if left > 0 else []
    return [sentence for _, sentence in found[:MOST_CROSSINGS]] + more


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
        f"A loss of {target:.4f} cost {cheap} {units.flops(costs[cheap])}, the least, and {dear} "
        f"{costs[dear] / costs[cheap]:.1f} times as much."
    ]
