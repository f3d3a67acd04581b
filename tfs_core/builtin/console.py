"""The logger `console`: a progress bar on a terminal, plain lines at intervals elsewhere.

It writes to standard output only. `tfs --quiet` leaves out the bar and the steps. Its options raise ValueError for
invalid values.
"""

import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from tfs_core import progress
from tfs_core.contracts import RunContext, RunLogger
from tfs_core.progress import duration
from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord
from tfs_core.terminal import counted, escape_control_characters

REFRESH_SECONDS = 0.1
MAX_BAR_WIDTH = 40
MIN_BAR_WIDTH = 8
"""Columns of the bar. In a narrow terminal, the learning rate and the speed make room for it first."""

MARGIN = 4
"""Free columns after the bar's line, for the `^C` that the terminal prints there: a full line would be broken."""


@dataclass(frozen=True, kw_only=True)
class ConsoleConfig:
    """The options of the logger `console`."""

    every_seconds: float = 10.0
    """Seconds between two progress lines when the output is not a terminal; 0 for one line per logged step."""

    def __post_init__(self) -> None:
        if not self.every_seconds >= 0.0:
            raise ValueError(f"every_seconds must be at least 0, not {self.every_seconds}")


def build(config: ConsoleConfig, *, run: RunContext) -> "ConsoleLogger":
    """Return the logger of a run."""
    return ConsoleLogger(config, run)


class Output(Console):
    """A console that does not exit the process on a broken pipe (`tfs run ... | head`)."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise BrokenPipeError, so that this logger is dropped and training continues; discard later output."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
        raise BrokenPipeError("the reader of the output has closed it")


class ConsoleLogger(RunLogger):
    """Prints steps, validations, samples and warnings."""

    def __init__(self, config: ConsoleConfig, run: RunContext, console: Console | None = None) -> None:
        self._run = run
        self._console = console or Output(file=sys.stdout, highlight=False)
        # FORCE_COLOR makes rich treat any file as a terminal, so isatty() is checked as well.
        self._has_bar = self._console.is_interactive and self._console.file.isatty()
        self._interval = REFRESH_SECONDS if self._has_bar else config.every_seconds
        self._shows_steps = progress.is_shown is not False
        self._bar: Progress | None = None
        self._bar_column = BarColumn(bar_width=MAX_BAR_WIDTH)
        self._task = TaskID(0)
        self._shown_at = -math.inf
        self._first: StepRecord | None = None  # of this attempt
        self._last: StepRecord | None = None
        self._last_shown = 0
        best = (run.info.get("summary") or {}).get("best_validation") or {}
        self._best_loss: float = best.get("loss", math.inf)
        self._best: ValidationRecord | None = None

    def on_start(self) -> None:
        for line in start_summary(self._run):
            self._print(line)
        if self._has_bar and self._shows_steps:
            self._bar = Progress(
                self._bar_column,
                TextColumn("{task.fields[status]}", markup=False, table_column=Column(no_wrap=True)),
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stderr=sys.stderr.isatty(),
            )
            start, total = self._run.start_step, self._run.total_steps
            self._task = self._bar.add_task("", total=total, completed=start, status=f"step {start}/{total}")
            self._bar.start()

    def on_step(self, record: StepRecord) -> None:
        self._first = self._first or record
        self._last = record
        if not self._shows_steps:
            return
        now = time.monotonic()
        if now - self._shown_at >= self._interval or record.step == self._run.total_steps:
            self._shown_at = now
            self._show(record)

    def _show(self, record: StepRecord) -> None:
        self._last_shown = record.step
        if self._bar is None:
            self._print(self._step_line(record, room=self._console.width if self._has_bar else math.inf))
        else:
            room = self._console.width - MARGIN
            line = self._step_line(record, room=room - 2, room_for_speed=room - MIN_BAR_WIDTH - 1)
            self._bar_column.bar_width = max(1, min(MAX_BAR_WIDTH, room - len(line) - 1))
            self._bar.update(self._task, completed=record.step, status=line, refresh=True)

    def _step_line(self, record: StepRecord, *, room: float, room_for_speed: float | None = None) -> str:
        """Return the numbers of a step in at most `room` columns: step, loss and time left, and what else has room.

        Learning rate and speed are left out of a line with more than `room_for_speed` columns, by default `room`.
        """
        step, loss = f"step {record.step}/{self._run.total_steps}", f"loss {record.loss:.4f}"
        rate, speed = f"lr {record.learning_rate:.2e}", f"{short(record.tokens_per_second)} tok/s"
        left = self._time_left(record)
        for facts in ([rate, speed], [speed]):
            line = "  ".join([step, loss, *facts, *left])
            if len(line) <= (room if room_for_speed is None else room_for_speed):
                return line
        line = "  ".join([step, loss, *left])
        return line if len(line) <= room else " ".join([step.removeprefix("step "), f"loss {record.loss:.2f}", *left])

    def _time_left(self, record: StepRecord) -> list[str]:
        """Return the time until the last step, at the speed of this session; nothing at its first step."""
        assert self._first is not None
        steps_between = record.step - self._first.step
        if steps_between == 0:
            return []
        pace = (record.elapsed_seconds - self._first.elapsed_seconds) / steps_between
        return [f"{duration(pace * max(0, self._run.total_steps - record.step))} left"]

    def on_validation(self, record: ValidationRecord) -> None:
        is_best = record.loss < self._best_loss
        if is_best:
            self._best_loss, self._best = record.loss, record
        line = (
            f"validation at step {record.step}: loss {record.loss:.4f}, perplexity {record.perplexity:.2f}, "
            f"{record.bits_per_byte:.4f} bits/byte"
        )
        self._print(line + ("  * best so far" if is_best else ""), "bold" if is_best else "")

    def on_sample(self, record: SampleRecord) -> None:
        self._print(f"sample at step {record.step}:", "dim")
        self._print(record.text, "dim", lead=record.prompt)

    def on_event(self, record: EventRecord) -> None:
        if record.kind in ("started", "checkpoint", "finished", "stopped", "failed"):
            return  # reported by the summaries and the error message; checkpoints are not worth a line
        style = "yellow" if record.kind in ("warning", "spike") else "dim"
        details = {key: value for key, value in record.details.items() if value not in (None, "", [], {})}
        changed = details.pop("changed", {}) if record.kind == "resumed" else {}  # settings: {key: [before, now]}
        told = [f"{key} {value}" for key, value in details.items()]
        told += [f"{key} {now} instead of {before}" for key, (before, now) in changed.items()]
        self._print(f"{record.kind} at step {record.step}: {details.get('message') or ', '.join(told)}", style)

    def on_end(self, status: str) -> None:
        if self._bar is not None:
            self._bar.stop()  # it disappears, and its step becomes a line
            self._bar, self._last_shown = None, 0
        if self._last is not None and self._last.step != self._last_shown and self._shows_steps:
            self._show(self._last)
        for line in end_summary(self._run, status, self._last, self._best):
            self._print(line, "bold" if status == "failed" else "")

    def _print(self, text: str, style: str = "", *, lead: str = "") -> None:
        """Print text after a bold `lead`, literally: no markup, no wrapping, escape sequences made visible."""
        line = Text.assemble((self._printable(lead), "bold"), self._printable(text), style=style)
        self._console.print(line, soft_wrap=True)

    def _printable(self, text: str) -> str:
        encoding = self._console.encoding
        return escape_control_characters(text).encode(encoding, "backslashreplace").decode(encoding)


def start_summary(run: RunContext) -> list[str]:
    """Return the lines to print before the first step: model, machine, goal and folder, if `run.json` has them."""
    info = run.info
    parameters: Mapping[str, int] = info.get("parameters") or {}
    facts = [
        f"model {info['model']}" if info.get("model") else "",
        f"{parameters['total']:,} parameters ({parameters['without_embeddings']:,} without embeddings)"
        if parameters
        else "",
        f"{short(info['flops_per_token'], ' ')}FLOPs a token" if info.get("flops_per_token") else "",
    ]
    machine = [
        f"on {info['device']}" if info.get("device") else "",
        counted(info["threads"], "thread") if info.get("threads") else "",
        f"matmul {info['matmul']}" if info.get("matmul") else "",
    ]
    first = f"from step {run.start_step} " if run.start_step else ""
    bigram: Any = info.get("bigram_bits_per_byte")
    goal = [
        f"{first}to step {run.total_steps}",
        f"to beat: a bigram model's {bigram:.4f} bits/byte" if bigram is not None else "",
    ]
    return [f"run {run.name}: {_joined(facts)}", f"  {_joined(machine)}", f"  {_joined(goal)}", f"  in {run.folder}"]


def end_summary(run: RunContext, status: str, last: StepRecord | None, best: ValidationRecord | None) -> list[str]:
    """Return the lines to print at the end: steps, tokens, FLOPs, time and the best validation of this attempt."""
    facts = [f"{status} at step {last.step if last else run.start_step}"]
    if last is not None:
        facts += [f"{short(last.tokens)} tokens", f"{short(last.flops, ' ')}FLOPs", f"{duration(last.elapsed_seconds)}"]
    if best is not None:
        facts.append(f"best validation loss {best.loss:.4f} at step {best.step}")
    lines = [f"run {run.name} {_joined(facts)}"]
    bigram = run.info.get("bigram_bits_per_byte")
    if best is not None:
        yardstick = f"; a bigram model: {bigram:.4f}" if bigram is not None else ""
        lines.append(f"  {best.bits_per_byte:.4f} bits/byte on the validation text{yardstick}")
    return lines


def _joined(facts: list[str]) -> str:
    return ", ".join(fact for fact in facts if fact)


def short(number: float, gap: str = "") -> str:
    """Return a number with three digits and an SI prefix: 17.2k, 912k, 1.23M, 4.56T; `gap` separates the prefix."""
    if not math.isfinite(number):
        return str(number)
    for letter in ("", "k", "M", "G", "T", "P"):
        if abs(number) < 999.5:
            return f"{number:.3g}{gap}{letter}"
        number /= 1000
    return f"{number:.3g}{gap}E"
