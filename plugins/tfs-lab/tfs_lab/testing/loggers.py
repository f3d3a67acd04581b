"""Conformance checks for loggers: every call of a run is accepted, in order, also when the run is resumed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfs_core.contracts import RunContext, RunLogger
from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord
from tfs_lab.testing.chosen import chosen
from tfs_lab.testing.results import Check, Finding, check

INFO: Mapping[str, Any] = {
    "format_version": 1,
    "name": "checked",
    "group": None,
    "seed": 1337,
    "tags": ["a tag"],
    "model": "torch",
    "total_steps": 4,
    "parameters": {"total": 1000, "without_embeddings": 600},
    "flops_per_token": 6000.0,
    "bigram_bits_per_byte": 2.5,
    "device": "cpu",
    "threads": 2,
    "matmul": "highest",
}
"""The keys of `run.info` that a logger may rely on."""


@dataclass(frozen=True)
class LoggerUnderCheck:
    """A logger by its name and options."""

    name: str
    options: Mapping[str, Any]

    def build(self, folder: Path, *, start_step: int = 0) -> RunLogger:
        """Return the logger of a run in this folder."""
        component = chosen("logger", self.name, self.options)
        run = RunContext(
            folder=folder,
            name="checked",
            config={"experiment_name": "checked", "seed": 1337, "training": {"max_steps": 4}},
            info=INFO,
            total_steps=4,
            start_step=start_step,
        )
        logger: RunLogger = component.factory(component.config, run=run)
        return logger


def step_record(step: int, *, loss: float = 2.5) -> StepRecord:
    """Return the record of a step; a loss of NaN is listed in `nonfinite`."""
    return StepRecord(
        step=step,
        epoch=0,
        tokens=100 * step,
        flops=1e6 * step,
        elapsed_seconds=0.1 * step,
        loss=loss,
        learning_rate=1e-3,
        grad_norm=1.0,
        tokens_per_second=1000.0,
        nonfinite=[] if loss == loss else ["loss"],
    )


def make_all_calls(logger: RunLogger, *, first_step: int, last_step: int, status: str) -> None:
    """Make every call that a logger receives in a run of these steps."""
    logger.on_start()
    logger.on_event(EventRecord(at="2026-01-31T12:00:00Z", step=first_step, kind="started", details={"a": [1, None]}))
    for step in range(first_step + 1, last_step + 1):
        logger.on_step(step_record(step))
    logger.on_validation(
        ValidationRecord(
            step=last_step,
            tokens=100,
            flops=1e6,
            elapsed_seconds=0.5,
            loss=2.0,
            perplexity=7.4,
            bits_per_byte=1.5,
            tokens_evaluated=50,
        )
    )
    strange = "[bold]\x1b[31m 👩‍👩‍👧‍👦\x00</script>"
    logger.on_sample(SampleRecord(step=last_step, prompt=strange, text=strange, settings={"temperature": 0.8}))
    logger.on_checkpoint(last_step)
    logger.on_end(status)


@check("a whole run")
def a_whole_run_is_accepted(subject: LoggerUnderCheck) -> Finding:
    """Every call of a run is accepted without raising, unusual samples and a loss of NaN included."""
    with tempfile.TemporaryDirectory() as folder:
        logger = subject.build(Path(folder))
        make_all_calls(logger, first_step=0, last_step=4, status="finished")
        failed = subject.build(Path(folder), start_step=4)
        failed.on_start()
        failed.on_step(step_record(5, loss=float("nan")))
        failed.on_end("failed")
    return "4 steps, a validation, a sample, a checkpoint; then a step with a loss of NaN"


@check("a resumed run")
def a_resumed_run_is_accepted(subject: LoggerUnderCheck) -> Finding:
    """A run stopped after step 3 and resumed from step 2 in the same folder continues without raising."""
    with tempfile.TemporaryDirectory() as folder:
        make_all_calls(subject.build(Path(folder)), first_step=0, last_step=3, status="stopped")
        make_all_calls(subject.build(Path(folder), start_step=2), first_step=2, last_step=4, status="finished")
    return "stopped at 3, resumed from 2"


LOGGER_CHECKS: tuple[Check[LoggerUnderCheck], ...] = (a_whole_run_is_accepted, a_resumed_run_is_accepted)
