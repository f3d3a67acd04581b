"""What a run writes down: one frozen dataclass a line of a log file, its fields the keys, in this order.

The fields are the contract of the run folder (docs/formats.md). Floats in nats, seconds, tokens and FLOPs; tokens,
FLOPs and seconds are cumulative over the run, and counted, not estimated.
"""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One optimizer step: a line of `metrics.jsonl`."""

    step: int  # optimizer steps taken, this one included: the first line has 1
    epoch: int  # passes over the training tokens completed before this step's batch began
    tokens: int  # valid target tokens trained on so far
    flops: float  # floating-point operations of training so far, forward and backward
    elapsed_seconds: float  # time in the run so far, earlier sittings included, validation included
    loss: float  # nats per valid target token of this step's batch, before the update
    learning_rate: float  # the one this update used
    grad_norm: float  # norm of the whole gradient, before clipping
    tokens_per_second: float  # training only: validation, samples and saving are not counted
    nonfinite: list[str] = field(default_factory=list)  # fields that were not finite, written as null


@dataclass(frozen=True, kw_only=True)
class ValidationRecord:
    """One pass over the validation tokens: a line of `validation.jsonl`."""

    step: int
    tokens: int  # trained on so far
    flops: float
    elapsed_seconds: float
    loss: float  # nats per valid target token
    perplexity: float  # exp(loss): among how many equally likely tokens the model might as well be choosing
    bits_per_byte: float  # nats of all targets / ln 2 / bytes of text they stand for
    tokens_evaluated: int


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """What the model wrote after a fixed prompt: a line of `samples.jsonl`."""

    step: int
    prompt: str
    text: str  # what followed the prompt
    settings: dict[str, Any]  # how it was sampled: strings and numbers


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """Something that happened: a line of `events.jsonl`. Kinds: started, resumed, checkpoint, warning, finished, ..."""

    at: str  # UTC, ISO 8601
    step: int
    kind: str
    details: dict[str, Any]  # JSON values, different for each kind


def perplexity_of(loss: float) -> float:
    """Return exp(loss), infinite where a float ends; NaN for NaN."""
    return math.inf if loss > 709.0 else math.exp(loss)
