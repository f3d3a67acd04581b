"""Properties of smoothing, thinning and averaging."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tfs_dash.analysis import PIECE, inside, mean_and_spread, smooth, thin

values = st.lists(st.floats(-100, 100), min_size=1, max_size=200).map(np.array)
weights = st.floats(0.01, 0.999)


def smoothed_by_recurrence(y: np.ndarray, weight: float, steps: np.ndarray) -> np.ndarray:
    total = norm = 0.0
    result = []
    for position, value in enumerate(y):
        gap = steps[max(position, 1)] - steps[max(position, 1) - 1] if len(steps) > 1 else 1.0
        kept = weight**gap
        total, norm = total * kept, norm * kept
        if np.isfinite(value):
            total, norm = total + (1 - kept) * value, norm + (1 - kept)
        result.append(total / norm if np.isfinite(value) else np.nan)
    return np.array(result)


@settings(max_examples=60)
@given(values, weights, st.integers(1, 50))
def test_smoothing_matches_the_recurrence(y: np.ndarray, weight: float, every: int) -> None:
    steps = np.cumsum(np.ones(len(y)) * every)
    assert_allclose(smooth(y, weight, steps), smoothed_by_recurrence(y, weight, steps), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weight", [0.5, 0.99, 0.999])
def test_smoothing_continues_across_blocks(weight: float) -> None:
    y = np.random.default_rng(0).standard_normal(2 * PIECE + 7)
    assert_allclose(smooth(y, weight), smoothed_by_recurrence(y, weight, np.arange(len(y))), rtol=1e-9, atol=1e-9)


@given(values, weights)
def test_smoothing_of_uneven_steps_matches_the_recurrence(y: np.ndarray, weight: float) -> None:
    steps = np.cumsum(1 + np.arange(len(y)) % 3)
    assert_allclose(smooth(y, weight, steps), smoothed_by_recurrence(y, weight, steps), rtol=1e-9, atol=1e-9)


@given(values, weights)
def test_smoothing_stays_within_the_range_so_far(y: np.ndarray, weight: float) -> None:
    result = smooth(y, weight)
    assert (result <= np.maximum.accumulate(y) + 1e-9).all()
    assert (result >= np.minimum.accumulate(y) - 1e-9).all()


@given(st.floats(-1e6, 1e6), weights, st.integers(1, 300))
def test_smoothing_leaves_a_constant_alone(value: float, weight: float, length: int) -> None:
    assert_allclose(smooth(np.full(length, value), weight), value, rtol=1e-9)


def test_smoothing_weighs_steps_and_not_lines() -> None:
    steps = np.arange(1, 2001.0)
    loss = np.where(steps < 1000, 4.0, 2.0)
    every, tenth = smooth(loss, 0.99, steps), smooth(loss[9::10], 0.99, steps[9::10])
    assert abs(every[1199] - tenth[119]) < 0.05


def test_smoothing_gives_a_loss_that_is_not_finite_no_weight() -> None:
    result = smooth(np.array([2.0, np.nan, 2.0, np.inf, 2.0]), 0.9)
    assert_allclose(result, [2.0, np.nan, 2.0, np.nan, 2.0])


def test_every_one_step_spike_of_a_million_is_kept() -> None:
    rng = np.random.default_rng(0)
    loss = 2 + 0.1 * rng.standard_normal(1_000_000)
    spikes = np.sort(rng.choice(1_000_000, 20, replace=False))
    loss[spikes] += 5
    kept = thin(np.arange(1_000_000.0), loss)
    seen = kept[loss[kept] > 5]
    # Two spikes within a pixel of each other look like one.
    assert all(np.abs(seen - spike).min() < 1_000_000 / 1000 for spike in spikes)
    assert len(kept) <= 2002


@settings(max_examples=60)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=500).map(np.array), st.integers(4, 60))
def test_thinning_keeps_the_extremes_and_the_ends(y: np.ndarray, points: int) -> None:
    kept = thin(np.arange(len(y), dtype=float), y, points)
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert kept[-1] == len(y) - 1
    assert y[kept].min() == y.min()
    assert y[kept].max() == y.max()
    assert len(kept) <= max(points + 2, 6)


def test_thinning_for_a_log_axis_keeps_the_early_steps() -> None:
    steps = np.arange(1, 1_000_001.0)
    kept = steps[thin(np.log10(steps), 1 / steps)]
    assert (kept <= 1000).sum() > 300


def test_thinning_drops_nonfinite_values() -> None:
    y = np.array([1.0, np.nan, 3.0, np.inf])
    assert thin(np.arange(4.0), y).tolist() == [0, 2]


def test_window_takes_one_more_point_at_either_side() -> None:
    x = np.arange(10.0)
    assert x[inside(x, 3, 5)].tolist() == [2, 3, 4, 5, 6]
    assert x[inside(x, -5, 0.5)].tolist() == [0, 1]


def test_mean_and_spread_are_over_the_range_that_all_seeds_have() -> None:
    short, long = np.arange(5.0), np.arange(10.0)
    spread = mean_and_spread([(short, short * 0 + 1), (long, long * 0 + 3)])
    assert spread.x[[0, -1]].tolist() == [0, 4]
    assert_allclose(spread.mean, 2)
    assert_allclose(spread.deviation, np.sqrt(2))


@given(values)
def test_mean_of_a_single_run_is_the_run(y: np.ndarray) -> None:
    spread = mean_and_spread([(np.arange(len(y), dtype=float), y)])
    assert_allclose(spread.mean, y)
    assert not spread.deviation.any()


def test_runs_without_a_common_range_have_no_mean() -> None:
    low, high = np.arange(5.0), np.arange(10.0, 15.0)
    assert len(mean_and_spread([(low, low), (high, high)]).x) == 0
