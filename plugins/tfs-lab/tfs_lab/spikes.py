"""A logger that reports spikes: a loss far above the recent ones, as an event of the kind `spike`.

The usual loss is the median of the last logged losses, and the usual distance from it 1.4826 times their median
absolute deviation (MAD), which estimates the standard deviation of normally distributed values. Unlike mean and
standard deviation, neither is moved by the spikes themselves.

Leys et al. (2013), "Detecting outliers: Do not use standard deviation around the mean, use absolute deviation around
the median", https://doi.org/10.1016/j.jesp.2013.03.013
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass

from tfs_core.contracts import RunContext, RunLogger
from tfs_core.records import EventRecord, StepRecord
from tfs_core.run_folder import now
from tfs_core.runs import Run

DEVIATIONS_PER_MAD = 1.4826


@dataclass(frozen=True, kw_only=True)
class SpikesConfig:
    """The options of the logger `spikes`."""

    window: int = 100
    """Number of logged losses before a step that it is compared with. A longer window reacts more slowly to a change of
    the usual loss."""

    at_least: int = 20
    """Number of losses that must be known before the first comparison."""

    deviations: float = 6.0
    """Distance from the median, in robust standard deviations, from which on a loss is a spike. Raise it when batches
    differ much from each other."""

    min_rise: float = 0.1
    """Distance from the median, in nats per token, that a spike has at least: losses that hardly vary have no spikes
    within it."""

    quiet: int = 20
    """Number of logged losses without an outlier that must pass before the next spike is reported, so that a loss that
    stays high is one spike."""

    def __post_init__(self) -> None:
        if not 2 <= self.at_least <= self.window:
            raise ValueError(f"at_least must be at least 2 and at most window ({self.window}), not {self.at_least}")
        if not (self.deviations > 0 and self.min_rise >= 0 and self.quiet >= 0):
            raise ValueError("deviations must be above 0, and min_rise and quiet must be at least 0")


class SpikeDetector:
    """Finds the spikes of a series of losses. What it finds depends only on the last `window + quiet` of them."""

    def __init__(self, config: SpikesConfig) -> None:
        self.config = config
        self._recent: deque[float] = deque(maxlen=config.window)
        self._since_outlier = math.inf

    def add(self, loss: float) -> dict[str, float] | None:
        """Take the next loss, and return the numbers of the spike that begins with it, or None.

        The numbers are `loss`, `median` and `deviation` (the robust standard deviation), in nats per token, and
        `losses`, the number of losses compared with. A loss that is not finite is ignored: the run ends with it.
        """
        if not math.isfinite(loss):
            return None
        found = None
        if len(self._recent) >= self.config.at_least:
            median = statistics.median(self._recent)
            deviation = DEVIATIONS_PER_MAD * statistics.median(abs(it - median) for it in self._recent)
            if loss - median > max(self.config.deviations * deviation, self.config.min_rise):
                if self._since_outlier >= self.config.quiet:
                    found = {"loss": loss, "median": median, "deviation": deviation, "losses": len(self._recent)}
                self._since_outlier = -1
        self._since_outlier += 1
        self._recent.append(loss)
        return found


class Spikes(RunLogger):
    """Sends an event of the kind `spike` for each spike in the logged losses, the same ones after a resume."""

    def __init__(self, config: SpikesConfig, *, run: RunContext) -> None:
        self._run = run
        self._detector = SpikeDetector(config)

    def on_start(self) -> None:
        """On a resume, read the losses up to the start step from `metrics.jsonl`, if the run has this file."""
        for line in Run(self._run.folder, {}).metrics() if self._run.start_step else []:
            loss, step = line.get("loss"), line.get("step")
            if isinstance(step, int) and step <= self._run.start_step and isinstance(loss, float):
                self._detector.add(loss)

    def on_step(self, record: StepRecord) -> None:
        """Send the event if a spike begins with this step."""
        found = self._detector.add(record.loss)
        if found is not None:
            message = (
                f"the loss {found['loss']:.4f} is far above {found['median']:.4f}, the median of the last "
                f"{found['losses']} logged losses (robust standard deviation {found['deviation']:.4f})"
            )
            details = {"message": message, **found}
            self._run.tell(EventRecord(at=now(), step=record.step, kind="spike", details=details))
