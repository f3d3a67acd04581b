"""Curves made readable and comparable: smoothed, thinned, averaged over seeds. NumPy in, NumPy out; nothing is drawn.

The order matters: smoothing sees every step, and thinning comes last. Thinned first, the result of smoothing would
depend on how long the run is, and spikes would be lost before anyone saw them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

POINTS = 2000
"""About how many points of a curve are drawn: two for each pixel column of a wide chart."""

PIECE = 1 << 15
"""How many values are smoothed at a time."""


def smooth(values: np.ndarray, weight: float, steps: np.ndarray | None = None) -> np.ndarray:
    """Return the debiased exponential moving average; what is not finite stays NaN and counts for nothing.

    `weight` is what the past keeps at each step, 0 for no smoothing. `steps` are the steps of the values: a value that
    stands 10 steps after the one before keeps weight**10 of the past, so that a log of every tenth step gives the same
    curve. Debiased means divided by the sum of the weights given out so far: the first value is the first value.

    The recurrence y[i] = a[i] y[i-1] + b[i] is evaluated for all i at once: in pass k each element takes in what the
    2^k elements before it have gathered (Hillis & Steele, 1986, "Data parallel algorithms"), until nothing is left of
    the past that could still be seen.
    """
    values = np.asarray(values, dtype=np.float64)
    if weight <= 0 or len(values) == 0:
        return np.where(np.isfinite(values), values, np.nan)
    known = np.isfinite(values)
    steps = np.arange(len(values)) if steps is None else steps
    first_gap = steps[1] - steps[0] if len(steps) > 1 else 1.0
    if known.all() and first_gap >= 1 and (steps[1:] - steps[:-1] == first_gap).all():
        return _smooth_evenly(values, weight**first_gap)
    gaps = np.diff(steps, prepend=steps[0] - first_gap)
    kept = weight ** np.maximum(gaps, 0)
    kept[0] = 0.0  # nothing is before the first
    given = np.where(known, 1.0 - weight ** np.maximum(gaps, 1), 0.0)
    total, norm = np.where(known, values, 0.0) * given, given.copy()
    distance = 1
    while distance < len(values) and kept.any():
        total[distance:] += kept[distance:] * total[:-distance]
        norm[distance:] += kept[distance:] * norm[:-distance]
        kept[distance:] *= kept[:-distance].copy()
        kept[:distance] = 0.0
        kept[kept < 1e-20] = 0.0
        distance *= 2
    return np.where(known, total / np.where(norm > 0, norm, 1.0), np.nan)


def _smooth_evenly(values: np.ndarray, kept: float) -> np.ndarray:
    """Return the same where every value keeps as much of the past: the sum of the weights is then a formula.

    A piece at a time, which stays in the processor's cache: a piece takes in what the one before has gathered at its
    end, as much of it as is left at each place.
    """
    total, gathered = np.empty(len(values)), 0.0
    left = kept ** np.arange(1.0, min(len(values), PIECE) + 1)
    for start in range(0, len(values), PIECE):
        piece = values[start : start + PIECE] * (1.0 - kept)
        distance, past = 1, kept
        while distance < len(piece) and past > 1e-20:
            piece[distance:] += past * piece[:-distance]
            distance, past = 2 * distance, past * past
        piece += gathered * left[: len(piece)]
        total[start : start + PIECE] = piece
        gathered = piece[-1]
    begin = int(min(len(values), np.ceil(-40 / np.log(kept)))) if kept > 0 else 1  # later the sum is 1
    total[:begin] /= 1.0 - kept ** np.arange(1.0, begin + 1)
    return total


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> np.ndarray:
    """Return the indices of at most about `points` elements that draw the same picture.

    The x axis, as it is drawn (pass log10 of x for a log axis), is cut into equal parts; of each the lowest and the
    highest value stay, and the first and last of all: no spike is lost, however long the run. What is not finite is
    left out. Where x decreases (no run of ours), the points are chosen as if they stood in its order.
    """
    known = np.isfinite(x) & np.isfinite(y)
    if not known.all():
        usable = np.flatnonzero(known)
        return usable[thin(x[usable], y[usable], points)]
    if len(x) <= points:
        return np.arange(len(x))
    if (x[1:] < x[:-1]).any():
        in_order = np.argsort(x, kind="stable")
        return np.sort(in_order[thin(x[in_order], y[in_order], points)])
    edges = np.linspace(x[0], x[-1], max(points // 2, 2))
    starts = np.unique(np.searchsorted(x, edges[:-1]))
    ends = np.append(starts[1:], len(x))
    chosen = [0, len(x) - 1]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        part = y[start:end]
        chosen += [start + int(part.argmin()), start + int(part.argmax())]
    return np.unique(chosen)


def inside(x: np.ndarray, low: float, high: float) -> slice:
    """Return which elements of an increasing x lie in a range, and one more at either side for the line to go on."""
    first, last = np.searchsorted(x, [low, high], side="left")[0], np.searchsorted(x, high, side="right")
    return slice(max(int(first) - 1, 0), int(last) + 1)


class Spread(NamedTuple):
    """Several runs as one: their mean at each x, and the standard deviation over the runs."""

    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray  # with n - 1 in the denominator; 0 for a single run
    runs: int


def mean_and_spread(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Spread:
    """Return mean and deviation of curves (x, y) over the range of x that all of them have.

    The grid is the x of the curve with most points there; the others are interpolated. Empty when there is no range
    in common.
    """
    clean = [(x[known], y[known]) for x, y in curves if (known := np.isfinite(x) & np.isfinite(y)).any()]
    if not clean:
        return Spread(np.empty(0), np.empty(0), np.empty(0), 0)
    low, high = max(x[0] for x, _ in clean), min(x[-1] for x, _ in clean)
    grids = [x[(x >= low) & (x <= high)] for x, _ in clean]
    grid = np.unique(max(grids, key=len))
    values = np.array([np.interp(grid, x, y) for x, y in clean])
    deviation = values.std(axis=0, ddof=1) if len(clean) > 1 else np.zeros(len(grid))
    return Spread(grid, values.mean(axis=0), deviation, len(clean))
