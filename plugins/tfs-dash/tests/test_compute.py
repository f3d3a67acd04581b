"""Comparisons of loss against cost: curves with known answers, and properties of any curve."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tfs_dash.compute import (
    Curve,
    clean,
    common_budget,
    cost_to_reach,
    crossovers,
    fullest_budget,
    gain_of_doubling,
    last_gain,
    loss_at,
    meets_at,
)  # fmt: skip

FLOPS = np.linspace(1.0, 400.0, 400)
falling = st.lists(st.floats(0, 1), min_size=2, max_size=50).map(
    lambda drops: 10 - np.cumsum(np.array(drops) + 1e-6) / 10
)


def test_cost_to_reach_a_loss_is_where_the_curve_reaches_it() -> None:
    """The original tools passed the decreasing loss to np.interp as x, and reported 1736 instead of 274."""
    assert cost_to_reach(Curve(FLOPS, 5.0 - FLOPS / 100), 2.26) == pytest.approx(274)


def test_cost_to_reach_is_none_for_a_loss_never_reached() -> None:
    assert cost_to_reach(Curve(FLOPS, 5.0 - FLOPS / 100), 0.5) is None


def test_cost_to_reach_is_the_first_time_although_the_loss_rises_again() -> None:
    curve = Curve(np.arange(5.0), np.array([5.0, 3.0, 4.0, 2.0, 6.0]))
    assert cost_to_reach(curve, 3.0) == 1.0


@settings(max_examples=80)
@given(falling, st.floats(0, 1))
def test_loss_at_the_cost_to_reach_it_is_that_loss(loss: np.ndarray, share: float) -> None:
    curve = Curve(np.arange(1.0, len(loss) + 1), loss)
    target = float(loss[-1] + share * (loss[0] - loss[-1]))
    cost = cost_to_reach(curve, target)
    assert cost is not None
    assert loss_at(curve, cost) == pytest.approx(target, abs=1e-6)


def test_crossovers_are_found_where_curves_cross() -> None:
    """The original tools found none here, for the same reason."""
    small, large = Curve(FLOPS, 3 + 1 / FLOPS), Curve(FLOPS, 2 + 101 / FLOPS)
    assert crossovers(small, large) == pytest.approx([100.0], rel=1e-2)


def test_crossovers_need_no_common_points() -> None:
    a, b = Curve(np.array([0.0, 10.0]), np.array([10.0, 0.0])), Curve(np.array([1.0, 9.0]), np.array([4.0, 4.0]))
    assert crossovers(a, b) == pytest.approx([6.0])


def test_touching_curves_do_not_cross() -> None:
    a, b = Curve(np.arange(3.0), np.array([3.0, 2.0, 3.0])), Curve(np.arange(3.0), np.array([2.0, 2.0, 2.0]))
    assert crossovers(a, b) == []


@settings(max_examples=80)
@given(falling, falling, st.integers(0, 59))
def test_crossovers_are_the_same_either_way_and_in_the_common_range(
    first: np.ndarray, second: np.ndarray, meeting: int
) -> None:
    """Nearly 90 % of the examples cross: most are shifted to meet between two points of the common range."""
    second = 10 - 1.5 * (10 - second)  # equal drops do not make the curves parallel
    if meeting < 50:
        at = meeting % (min(len(first), len(second)) - 1)
        second = second + np.dot(first[at : at + 2] - second[at : at + 2], [0.7, 0.3])
    a, b = Curve(np.arange(1.0, len(first) + 1), first), Curve(np.arange(1.0, len(second) + 1), second)
    found = crossovers(a, b)
    assert found == pytest.approx(crossovers(b, a))
    low, high = common_budget([a, b]) or (0, 0)
    assert all(low <= cost <= high for cost in found)
    for cost in found:
        assert loss_at(a, cost) == pytest.approx(loss_at(b, cost), abs=1e-6)


def test_loss_at_a_budget_is_never_extrapolated() -> None:
    curve = Curve(np.array([10.0, 20.0]), np.array([3.0, 2.0]))
    assert loss_at(curve, 15) == pytest.approx(2.5)
    assert loss_at(curve, 9) is None
    assert loss_at(curve, 21) is None


def test_a_first_validation_that_is_not_finite_changes_nothing() -> None:
    curve = clean(np.array([1.0, 2.0, 3.0]), np.array([np.nan, 3.0, 2.0]))
    assert loss_at(curve, 2.5) == pytest.approx(2.5)
    assert curve.loss.min() == 2.0


def test_gain_of_a_doubling_is_one_for_a_loss_that_falls_one_a_doubling() -> None:
    cost = np.geomspace(1, 1024, 500)
    gains = gain_of_doubling(Curve(cost, 20 - np.log2(cost)))
    assert gains.loss == pytest.approx(np.ones(len(gains.loss)), abs=1e-3)
    assert gains.cost.min() >= 2


def test_gain_is_unknown_for_a_run_that_never_doubled_its_compute() -> None:
    assert last_gain(Curve(np.array([10.0, 15.0]), np.array([3.0, 2.0]))) is None
    assert last_gain(Curve(np.empty(0), np.empty(0))) is None


def test_meeting_point_is_extrapolated_linearly_in_log_cost() -> None:
    cost = np.geomspace(1, 64, 200)
    leader, chaser = Curve(cost, 5 - 0.5 * np.log2(cost)), Curve(cost, 9 - np.log2(cost))
    # At 64 the losses are 2 and 3. The chaser gains half a nat more per doubling, so it needs two doublings.
    assert meets_at(leader, chaser) == pytest.approx(256, rel=0.02)
    assert meets_at(chaser, leader) is None


def test_extrapolation_starts_at_each_curves_own_end() -> None:
    """Each curve is extrapolated from its own last point, also if the chaser has spent more than the leader."""
    leader = Curve(np.array([25.0, 50.0, 100.0]), np.array([2.44, 2.41, 2.38]))
    chaser = Curve(np.array([50.0, 100.0, 200.0, 400.0]), np.array([3.3, 2.9, 2.6, 2.4]))
    # At 400 the leader would be at 2.32. The chaser, 0.08 behind, gains 0.17 more per doubling.
    assert meets_at(leader, chaser) == pytest.approx(400 * 2 ** (0.08 / 0.17))


def test_budget_is_the_most_that_all_have_spent() -> None:
    curves = [Curve(np.array([1.0, last]), np.array([3.0, 2.0])) for last in (5.0, 7.0, 11.0)]

    assert fullest_budget(curves) == 5.0


def test_budget_leaves_out_a_run_that_ended_before_another_began() -> None:
    ends = [(1.0, 2.0), (1.0, 7.0), (3.0, 11.0), (5.0, 13.0)]
    curves = [Curve(np.array(end), np.array([3.0, 2.0])) for end in ends]

    assert fullest_budget(curves) == 7.0
    assert fullest_budget([Curve(np.empty(0), np.empty(0))]) is None


def test_curves_that_cross_where_both_have_a_point_cross_at_that_point() -> None:
    cost = np.array([1.0, 2.0, 3.0, 4.0])
    a = Curve(cost, np.array([9.0, 9.0, 9.0, 9.0]))
    b = Curve(cost, np.array([12.0, 10.0, 9.0, 8.5]))
    assert crossovers(a, b) == [3.0]
