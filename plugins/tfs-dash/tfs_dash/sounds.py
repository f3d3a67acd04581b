"""Samples of generated text: by prompt and step, and by loss."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfs_dash.run_info import number
from tfs_dash.store import RunData


class Sample(NamedTuple):
    """A generated continuation of a prompt."""

    run: str
    step: int
    prompt: str
    text: str
    loss: float | None  # of the nearest validation, within 10 % of the step; None without one
    bits_per_byte: float | None


def samples_of(run: RunData) -> list[Sample]:
    """Return the run's samples, each with the validation loss near its step."""
    lines = [line for line in run.read_lines("samples") if _is_sample(line)]
    if not lines:
        return []
    columns = run.validation("step", "loss", "bits_per_byte")
    known = np.isfinite(columns["loss"])
    steps, losses, bits = (columns[name][known] for name in ("step", "loss", "bits_per_byte"))
    found = []
    for line in lines:
        loss = bits_per_byte = None
        if len(steps):
            nearest = int(np.abs(steps - line["step"]).argmin())
            if abs(steps[nearest] - line["step"]) <= 0.1 * max(line["step"], 1):
                loss, bits_per_byte = float(losses[nearest]), float(bits[nearest])
        found.append(Sample(run.name, line["step"], line["prompt"], line["text"], loss, bits_per_byte))
    return found


def _is_sample(line: dict[str, Any]) -> bool:
    return (
        isinstance(line.get("step"), int)
        and number(line["step"]) is not None
        and isinstance(line.get("prompt"), str)
        and isinstance(line.get("text"), str)
    )


def prompts(samples: Sequence[Sample]) -> list[str]:
    """Return the distinct prompts in the order of their first sample."""
    return list(dict.fromkeys(sample.prompt for sample in samples))


def at_step(samples: Sequence[Sample], prompt: str, step: int) -> Sample | None:
    """Return the last sample of the prompt up to `step`, or None."""
    before = [sample for sample in samples if sample.prompt == prompt and sample.step <= step]
    return max(before, key=lambda sample: sample.step, default=None)


def samples_by_loss(samples: Sequence[Sample], rows: int = 10) -> list[Sample]:
    """Return at most `rows` samples, from the highest to the lowest loss, spread evenly over the range of losses."""
    known = sorted((sample for sample in samples if sample.loss is not None), key=lambda sample: -(sample.loss or 0))
    if len(known) <= rows:
        return known
    losses = np.array([sample.loss for sample in known])
    wanted = np.linspace(losses[0], losses[-1], rows)
    return [known[position] for position in dict.fromkeys(int(np.abs(losses - loss).argmin()) for loss in wanted)]
