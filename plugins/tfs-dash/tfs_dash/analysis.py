"""Smoothing, thinning and averaging of curves, as NumPy functions.

Smooth first, thin last. Otherwise the result of smoothing would depend on the length of the run.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

POINTS = 2000
"""Approximate number of points drawn per curve: two per pixel column of a wide chart."""

PIECE = 1 << 15
"""Block size for smoothing, in values."""


def smooth(values: np.ndarray, weight: float, steps: np.ndarray | None = None) -> np.ndarray:
    """Return the exponential moving average with bias correction, float64 [points].

    `weight` is the decay per step; 0 means no smoothing. `steps` are the step numbers of the values (by default
    consecutive): after a gap of 10 steps the past is weighted by weight**10, so that a log of every tenth step gives
    nearly the same curve as a full log. Non-finite values become NaN and do not enter the average. Bias correction
    divides by the sum of the weights so far, so the first smoothed value equals the first value.

    The recurrence y[i] = a[i] y[i-1] + b[i] is evaluated with a parallel prefix sum (Hillis & Steele, 1986, "Data
    parallel algorithms", https://doi.org/10.1145/7902.7903): in pass k each element adds the decayed partial sum of the
    2^k elements before it, until the decay factors are below 1e-20.
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
    kept[0] = 0.0  # the first value has no predecessor
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
    """Return the average for evenly spaced steps, where the sum of the weights has a closed form, 1 - kept**n.

    The values are processed in blocks that fit the processor's cache. Each block adds the last uncorrected average
    of the block before it, decayed by the distance.
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
    begin = int(min(len(values), np.ceil(-40 / np.log(kept)))) if kept > 0 else 1  # beyond, 1 - kept**n rounds to 1
    total[:begin] /= 1.0 - kept ** np.arange(1.0, begin + 1)
    return total


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> np.ndarray:
    """Return the indices of about `points` elements that draw nearly the same line as all elements.

    `x` and `y` are [rows]. The x axis (pass log10 of x for a log axis) is divided into equal bins, and the minimum and
    maximum of each bin are kept, so that no spike is lost. The first and the last point are kept too. Non-finite points
    are dropped. If x decreases anywhere, the points are binned in the order of x.
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
    """Return the slice of an increasing x within a range, plus one element on either side to continue the line.

    `x` is [rows]; `low` and `high` are in its unit.
    """
    first, last = np.searchsorted(x, [low, high], side="left")[0], np.searchsorted(x, high, side="right")
    return slice(max(int(first) - 1, 0), int(last) + 1)


class Spread(NamedTuple):
    """Mean and standard deviation of several runs at each x, each float64 [points]."""

    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray  # with denominator n - 1; 0 for a single run
    runs: int


def mean_and_spread(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Spread:
    """Return mean and standard deviation of curves (x, y), each [points], over their common range of x.

    The grid is the x of the curve with the most points in that range; the others are linearly interpolated. The
    result is empty if there is no common range.
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
