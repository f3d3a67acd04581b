"""Properties of schedules: peak, floor, and the values between them."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs_core.builtin.schedules import SHAPES, WarmupStableDecayConfig, constant, cosine, linear, warmup_stable_decay
from tfs_core.contracts import Schedule

STEPS = st.integers(1, 300)
RATES = st.floats(1e-6, 1.0)
CONFIGS = st.builds(WarmupStableDecayConfig, decay_ratio=st.floats(0.01, 1.0), shape=st.sampled_from(list(SHAPES)))


@st.composite
def decaying(draw: st.DrawFn) -> tuple[Schedule, int, int, float, float]:
    """Return a decaying schedule with its total steps, warm-up steps (fewer than the total), peak and floor."""
    total = draw(st.integers(2, 300))
    warmup = draw(st.integers(0, total - 1))
    peak = draw(RATES)
    floor = draw(st.floats(0.0, 1.0)) * peak
    build = draw(st.sampled_from([linear, cosine, warmup_stable_decay]))
    config = draw(CONFIGS) if build is warmup_stable_decay else None
    schedule = build(config, total_steps=total, warmup_steps=warmup, peak=peak, floor=floor)
    return schedule, total, warmup, peak, floor


@given(decaying())
def test_first_rate_is_not_zero_and_last_is_the_floor(
    case: tuple[Schedule, int, int, float, float],
) -> None:
    schedule, total, _, _, floor = case
    assert schedule(0) > 0.0
    assert schedule(total - 1) == pytest.approx(floor, rel=1e-12, abs=1e-18)
    assert schedule(total) == schedule(total + 1000) == schedule(total - 1)


@given(decaying())
def test_warm_up_climbs_evenly_to_the_peak(case: tuple[Schedule, int, int, float, float]) -> None:
    schedule, _, warmup, peak, _ = case
    for step in range(warmup):
        assert schedule(step) == pytest.approx(peak * (step + 1) / warmup)
    assert schedule(max(warmup - 1, 0)) == peak


@given(decaying())
def test_rates_after_the_peak_never_rise_and_stay_between_peak_and_floor(
    case: tuple[Schedule, int, int, float, float],
) -> None:
    schedule, total, warmup, peak, floor = case
    rates = [schedule(step) for step in range(max(warmup - 1, 0), total)]
    slack = 1e-12 * peak
    assert all(later <= earlier + slack for earlier, later in pairwise(rates))
    assert all(floor - slack <= rate <= peak + slack for rate in rates)


@given(decaying(), st.integers(0, 400))
def test_rate_is_a_function_of_the_step_alone(case: tuple[Schedule, int, int, float, float], step: int) -> None:
    schedule, total, *_ = case
    before = schedule(step)
    for other in range(total):
        schedule(other)
    assert schedule(step) == before


@given(STEPS, st.integers(0, 400), RATES)
def test_constant_stays_at_the_peak_after_warm_up(total: int, warmup: int, peak: float) -> None:
    schedule = constant(None, total_steps=total, warmup_steps=warmup, peak=peak, floor=0.0)
    assert schedule(0) > 0.0
    assert all(schedule(step) == peak for step in range(max(warmup - 1, 0), warmup + total))


@given(STEPS, st.integers(0, 400), RATES, st.sampled_from([linear, cosine]))
def test_warm_up_that_fills_the_run_or_more_still_climbs(
    total: int, beyond: int, peak: float, build: Callable[..., Schedule]
) -> None:
    warmup = total + beyond
    schedule = build(None, total_steps=total, warmup_steps=warmup, peak=peak, floor=0.0)
    assert [schedule(step) for step in range(total)] == pytest.approx([peak * (s + 1) / warmup for s in range(total)])


def test_single_step_has_the_peak() -> None:
    for build in (linear, cosine):
        assert build(None, total_steps=1, warmup_steps=0, peak=0.5, floor=0.1)(0) == 0.5


def test_values_in_the_middle_are_those_of_the_formulas() -> None:
    options = {"total_steps": 111, "warmup_steps": 11, "peak": 1.0, "floor": 0.2}  # the peak is at 10, the end at 110
    assert linear(None, **options)(35) == pytest.approx(0.2 + 0.8 * 0.75)
    assert cosine(None, **options)(35) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * 0.25)) / 2)
    assert cosine(None, **options)(60) == pytest.approx(0.6)
    decay = warmup_stable_decay(WarmupStableDecayConfig(decay_ratio=0.36, shape="1-sqrt"), **options)
    assert [decay(10), decay(70), decay(80)] == pytest.approx([1.0, 1.0, 0.2 + 0.8 * (1 - math.sqrt(0.25))])


def test_stable_part_is_as_long_as_the_configuration_says() -> None:
    config = WarmupStableDecayConfig(decay_ratio=0.1, shape="linear")
    schedule = warmup_stable_decay(config, total_steps=1000, warmup_steps=100, peak=1.0, floor=0.0)
    assert [step for step in range(1000) if schedule(step) == 1.0] == list(range(99, 900))


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.1])
def test_decay_ratio_out_of_range_is_rejected(ratio: float) -> None:
    with pytest.raises(ValueError, match="decay_ratio must be above 0 and at most 1"):
        WarmupStableDecayConfig(decay_ratio=ratio)


def test_configurations_of_schedules_and_optimizers_import_no_torch() -> None:
    code = (
        "import sys, json, tfs_core.builtin.schedules, tfs_core.builtin.optimizers;"
        "print(json.dumps('torch' in sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(output) is False
