"""Conformance checks for learning-rate schedules: valid rates, a pure function of the step, a warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfs_core.contracts import Schedule
from tfs_lab.testing.chosen import chosen
from tfs_lab.testing.results import Check, Finding, check, expect

PEAK, FLOOR = 3e-3, 3e-4

RUNS = ((100, 10), (100, 0), (1, 0), (2, 1), (10, 10), (7, 3))
"""(total_steps, warmup_steps), edge cases included."""


@dataclass(frozen=True)
class SchedulerUnderCheck:
    """A schedule by its name and options."""

    name: str
    options: Mapping[str, Any]

    def build(self, total_steps: int, warmup_steps: int) -> Schedule:
        """Return the schedule for a run of `total_steps` with `warmup_steps` of warm-up."""
        component = chosen("scheduler", self.name, self.options)
        schedule: Schedule = component.factory(
            component.config, total_steps=total_steps, warmup_steps=warmup_steps, peak=PEAK, floor=FLOOR
        )
        return schedule


@check("rates")
def rates_are_valid(subject: SchedulerUnderCheck) -> Finding:
    """Every rate is finite, not negative and at most the peak, and the rate of the first step is above zero."""
    for total_steps, warmup_steps in RUNS:
        schedule = subject.build(total_steps, warmup_steps)
        for step in range(total_steps + 2):
            rate = schedule(step)
            description = f"step {step} of {total_steps} with {warmup_steps} of warm-up has the rate {rate}"
            expect(math.isfinite(rate) and rate >= 0.0, description)
            expect(rate <= PEAK * (1 + 1e-12), f"{description}, above the peak of {PEAK}")
            expect(step > 0 or rate > 0.0, f"{description}: the first update would have no effect")
    return f"{len(RUNS)} runs of 1 to 100 steps"


@check("pure")
def rates_are_pure(subject: SchedulerUnderCheck) -> Finding:
    """The rate is a pure function of the step: the same in another order of calls, and in another instance."""
    schedule, other = subject.build(100, 10), subject.build(100, 10)
    forward = [schedule(step) for step in range(100)]
    expect([schedule(step) for step in reversed(range(100))][::-1] == forward, "in reverse order it gives other rates")
    expect([other(step) for step in range(100)] == forward, "another instance gives other rates")
    return "the same in any order"


@check("warm-up")
def warm_up_rises_to_the_peak(subject: SchedulerUnderCheck) -> Finding:
    """During warm-up the rate never falls, and it reaches at least 0.9 of the peak."""
    schedule = subject.build(100, 10)
    rates = [schedule(step) for step in range(11)]
    expect(rates == sorted(rates) or rates[:10] == sorted(rates[:10]), f"the rates of the warm-up fall: {rates}")
    expect(max(rates) >= 0.9 * PEAK, f"the highest rate of the warm-up is {max(rates)}; the peak is {PEAK}")
    return f"{rates[0]:.1e} to {max(rates):.1e}"


SCHEDULER_CHECKS: tuple[Check[SchedulerUnderCheck], ...] = (
    rates_are_valid,
    rates_are_pure,
    warm_up_rises_to_the_peak,
)
