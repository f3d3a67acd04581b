"""Loss as a function of cost: loss at a budget, cost to reach a loss, crossovers, and gain per doubling of cost.

Every function takes curves (cost, loss), each float64 [points], with cost in FLOPs (or tokens, or seconds) and not
decreasing, and loss in nats per token. Only `meets_at` extrapolates.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """Loss against cumulative cost, both float64 [points]."""

    cost: np.ndarray
    loss: np.ndarray


def clean(cost: np.ndarray, loss: np.ndarray) -> Curve:
    """Return the curve without non-finite values and negative costs. The last point of each cost is kept."""
    known = np.isfinite(cost) & np.isfinite(loss) & (cost >= 0)
    cost, loss = cost[known], loss[known]
    last_of_its_cost = np.append(np.diff(cost) > 0, True)[: len(cost)]
    return Curve(cost[last_of_its_cost], loss[last_of_its_cost])


def loss_at(curve: Curve, budget: float) -> float | None:
    """Return the loss at a cost, linearly interpolated; None outside of the curve's range."""
    if len(curve.cost) == 0 or not curve.cost[0] <= budget <= curve.cost[-1]:
        return None
    return float(np.interp(budget, curve.cost, curve.loss))  # np.interp needs increasing x: cost, not loss


def cost_to_reach(curve: Curve, target: float) -> float | None:
    """Return the cost at which the loss first reached the target, linearly interpolated; None if it never did."""
    reached = np.flatnonzero(curve.loss <= target)
    if len(reached) == 0:
        return None
    last = int(reached[0])
    if last == 0:
        return float(curve.cost[0])
    (before, after), (high, low) = curve.cost[last - 1 : last + 1], curve.loss[last - 1 : last + 1]
    return float(before + (after - before) * (high - target) / (high - low))


def common_budget(curves: list[Curve]) -> tuple[float, float] | None:
    """Return the range (low, high) of cost that all curves cover, or None."""
    if not curves or any(len(curve.cost) == 0 for curve in curves):
        return None
    low, high = max(curve.cost[0] for curve in curves), min(curve.cost[-1] for curve in curves)
    return (float(low), float(high)) if low <= high else None


def fullest_budget(curves: list[Curve]) -> float | None:
    """Return the cost that the most curves cover (on a tie, the largest); None if all curves are empty."""

    def standing(cost: float) -> int:
        return sum(bool(curve.cost[0] <= cost <= curve.cost[-1]) for curve in known)

    known = [curve for curve in curves if len(curve.cost)]
    return max((float(curve.cost[-1]) for curve in known), key=lambda cost: (standing(cost), cost), default=None)


def crossovers(a: Curve, b: Curve) -> list[float]:
    """Return the costs, in increasing order, at which the curves cross; points where they only touch are excluded."""
    common = common_budget([a, b])
    if common is None:
        return []
    grid = np.unique(np.concatenate([a.cost, b.cost, common]))
    grid = grid[(grid >= common[0]) & (grid <= common[1])]
    difference = np.interp(grid, a.cost, a.loss) - np.interp(grid, b.cost, b.loss)
    apart = np.flatnonzero(difference)  # where they are equal, neither leads
    found = []
    for before, after in pairwise(apart.tolist()):
        if difference[before] * difference[after] < 0:
            if after > before + 1:  # the curves meet at a point of the grid
                found.append(float(grid[before + 1]))
                continue
            share = difference[before] / (difference[before] - difference[after])
            found.append(float(grid[before] + share * (grid[after] - grid[before])))
    return found


def gain_of_doubling(curve: Curve) -> Curve:
    """Return the gain of a doubling at each cost c: loss(c / 2) - loss(c), in nats."""
    if len(curve.cost) == 0:
        return curve
    usable = (curve.cost >= 2 * curve.cost[0]) & (curve.cost > 0)
    cost = curve.cost[usable]
    return Curve(cost, np.interp(cost / 2, curve.cost, curve.loss) - curve.loss[usable])


def last_gain(curve: Curve) -> float | None:
    """Return the gain of the last doubling of compute, in nats; None if the curve does not span a doubling."""
    gains = gain_of_doubling(curve).loss
    return float(gains[-1]) if len(gains) else None


def meets_at(leader: Curve, chaser: Curve, *, doublings: float = 3.0) -> float | None:
    """Extrapolate the cost at which `chaser` reaches the loss of `leader`.

    Each curve is extended from its end, linearly in log2 cost, with the gain of its last doubling. This is optimistic,
    since gains shrink. Returns None if a curve does not span a doubling, if the chaser's gain is not positive or not
    larger than the leader's, or if the curves do not meet within `doublings` doublings past the larger final cost.
    """
    gain, faster = last_gain(leader), last_gain(chaser)
    if gain is None or faster is None or faster <= gain or faster <= 0:
        return None
    start = max(float(leader.cost[-1]), float(chaser.cost[-1]))
    ahead = float(leader.loss[-1]) - gain * np.log2(start / leader.cost[-1])
    behind = float(chaser.loss[-1]) - faster * np.log2(start / chaser.cost[-1])
    needed = float(behind - ahead) / (faster - gain)
    return start * 2.0**needed if 0 < needed <= doublings else None
