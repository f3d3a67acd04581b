"""Learning-rate schedules: pure functions of the step, each after a linear warm-up.

With T = `total_steps`, W = `warmup_steps` and steps counted from 0, every schedule is

    step < W                  peak * (step + 1) / W          above 0 at step 0, peak at step W - 1
    W <= step <= S            peak
    S < step <= T - 1         floor + (peak - floor) * shape((step - S) / (T - 1 - S))     floor at step T - 1
    step >= T                 floor

where `shape` falls from 1 to 0 and S is the last step at the peak. For `linear` and `cosine` S is the end of warm-up,
max(W - 1, 0); for `warmup_stable_decay` it may be later. If warm-up fills the run, there is no decay. `peak` and
`floor` are learning rates. `WarmupStableDecayConfig` raises ValueError for an invalid decay_ratio.

Warm-up: Goyal et al. (2017), "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
https://arxiv.org/abs/1706.02677
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tfs_core.contracts import Schedule

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: (1.0 + math.cos(math.pi * progress)) / 2.0,
    "1-sqrt": lambda progress: 1.0 - math.sqrt(progress),
}
"""Shapes of the decay: functions from the progress (0 to 1) to the remaining fraction of peak - floor."""


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecayConfig:
    """The options of the schedule `warmup-stable-decay`."""

    decay_ratio: float = 0.2
    """The fraction of all steps in which the learning rate decays. 0.1 to 0.2 is usually enough; 1 leaves no stable
    phase."""

    shape: Literal["linear", "cosine", "1-sqrt"] = "1-sqrt"
    """The shape of the decay. `1-sqrt` is steep at first, and was best in Hägele et al. (2024); `linear` is
    almost as good."""

    def __post_init__(self) -> None:
        if not 0.0 < self.decay_ratio <= 1.0:
            raise ValueError(f"decay_ratio must be above 0 and at most 1, not {self.decay_ratio}")


def constant(config: None, *, total_steps: int, warmup_steps: int, peak: float, floor: float) -> Schedule:  # noqa: ARG001
    """Return a schedule that stays at the peak after warm-up. `floor` is not used."""
    return lambda step: peak if step >= warmup_steps else peak * ((step + 1) / warmup_steps)


def linear(config: None, *, total_steps: int, warmup_steps: int, peak: float, floor: float) -> Schedule:  # noqa: ARG001
    """Return a schedule that decays linearly from the peak to the floor.

    Defazio et al. (2023), "When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement",
    https://arxiv.org/abs/2310.07831
    """
    return _warm_up_and_decay("linear", total_steps, total_steps, warmup_steps, peak, floor)


def cosine(config: None, *, total_steps: int, warmup_steps: int, peak: float, floor: float) -> Schedule:  # noqa: ARG001
    """Return a schedule that decays from the peak to the floor along half a cosine wave: slow, fast, slow.

    Loshchilov & Hutter (2017), "SGDR: Stochastic Gradient Descent with Warm Restarts" (without the restarts),
    https://arxiv.org/abs/1608.03983
    """
    return _warm_up_and_decay("cosine", total_steps, total_steps, warmup_steps, peak, floor)


def warmup_stable_decay(
    config: WarmupStableDecayConfig, *, total_steps: int, warmup_steps: int, peak: float, floor: float
) -> Schedule:
    """Return a schedule that stays at the peak and decays to the floor in the last `decay_ratio` of the steps.

    Unlike with cosine, a run can be extended: continue from a checkpoint of the stable phase with more total steps.

    Hu et al. (2024), "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies",
    https://arxiv.org/abs/2404.06395
    Hägele et al. (2024), "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations",
    https://arxiv.org/abs/2405.18392
    """
    decay_steps = max(round(config.decay_ratio * total_steps), 1)
    return _warm_up_and_decay(config.shape, decay_steps, total_steps, warmup_steps, peak, floor)


def _warm_up_and_decay(
    shape: str, decay_steps: int, total_steps: int, warmup_steps: int, peak: float, floor: float
) -> Schedule:
    """Return the schedule in the module docstring, with a decay in the last `decay_steps` steps (or since warm-up)."""
    last = total_steps - 1
    first_at_peak = max(warmup_steps - 1, 0)
    start = max(last - decay_steps, first_at_peak)

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return peak * ((step + 1) / warmup_steps)
        if step <= start:
            return peak
        progress = min((step - start) / max(last - start, 1), 1.0)
        weight = SHAPES[shape](progress)
        return weight * peak + (1.0 - weight) * floor

    return schedule
