"""The records of a run: one frozen dataclass per log file. Its fields, in this order, are the keys of each line.

They are part of the run folder's format (docs/formats.md). Units are nats, seconds, tokens and FLOPs. `tokens`, `flops`
and `elapsed_seconds` are cumulative over the run. `flops` is computed from the shapes of the actual batches.
"""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One optimizer step: a line of `metrics.jsonl`."""

    step: int  # optimizer steps taken, including this one: the first line has 1
    epoch: int  # complete passes over the training tokens before this step
    tokens: int  # valid target tokens trained on so far
    flops: float  # floating-point operations of training so far, forward and backward
    elapsed_seconds: float  # time in the run so far, including earlier sessions and validation
    loss: float  # nats per valid target token of this step, before the update
    learning_rate: float  # of this update
    grad_norm: float  # norm of the gradient over all parameters, before clipping
    tokens_per_second: float  # of training only: time for validation, samples and saving is excluded
    nonfinite: list[str] = field(default_factory=list)  # fields that were not finite, written as null


@dataclass(frozen=True, kw_only=True)
class ValidationRecord:
    """One pass over the validation tokens: a line of `validation.jsonl`."""

    step: int
    tokens: int  # trained on so far
    flops: float
    elapsed_seconds: float
    loss: float  # nats per valid target token
    perplexity: float  # exp(loss)
    bits_per_byte: float  # nats of all targets / ln 2 / UTF-8 bytes of their text
    tokens_evaluated: int


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """A generated continuation of a fixed prompt: a line of `samples.jsonl`."""

    step: int
    prompt: str
    text: str  # the continuation, without the prompt
    settings: dict[str, Any]  # sampling settings: strings and numbers


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """An event: a line of `events.jsonl`. Kinds: started, resumed, checkpoint, warning, finished, ..."""

    at: str  # UTC, ISO 8601
    step: int
    kind: str
    details: dict[str, Any]  # JSON values; the keys depend on the kind


def perplexity_of(loss: float) -> float:
    """Return exp(loss), for a loss in nats per token; infinity when a float overflows, NaN for NaN.

    Jelinek et al. (1977), "Perplexity -- a measure of the difficulty of speech recognition tasks",
    https://doi.org/10.1121/1.2016299
    """
    return math.inf if loss > 709.0 else math.exp(loss)
