"""Output of `tfs check`: one line per check, tables of gradients, and a verdict."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfs_core.terminal import escape_control_characters
from tfs_lab.testing.results import CheckResult, Comparison
from tfs_lab.testing.small_model import SmallModel

COLORS = {"pass": "green", "fail": "bold red", "skip": "dim", "PASS": "green", "FAIL": "bold red"}

TABLES = {
    "Gradients, parameter by parameter": {
        "gradients against autograd": "autograd",
        "gradients against differences": "differences",
        "gradients with dropout": "with dropout",
        "parity: gradients": "parity",
    },
    "Gradients, operation by operation": {"each operation": ""},
}
"""{title of a table: {check in the table: its column}}. For the column "", the reference's name is the column."""


@dataclass(kw_only=False)
class Report:
    """The results so far, printed on a terminal or returned as JSON values."""

    subject: SmallModel
    other: SmallModel | None
    parameters: int
    fault_meaning: str | None = None
    elapsed_seconds: float = 0.0
    results: list[CheckResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=False)
        if not self.console.is_terminal:
            self.console.width = 120

    @property
    def passed(self) -> bool:
        """True when no check failed."""
        return all(result.passed for result in self.results)

    @property
    def options(self) -> dict[str, Any]:
        """Return the options that the model is checked with: numbers, strings and null."""
        values = {**dataclasses.asdict(self.subject.config), "dtype": "float64"}
        return {
            name: value if isinstance(value, int | float | str | None) else str(value) for name, value in values.items()
        }

    def print_head(self) -> None:
        """Print the model, its options, the sizes of the batches, and the seed."""
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        self.say(f"{self.subject.name}: {self.parameters:,} parameters; {options}", style="bold")
        self.say(
            f"{self.subject.batch_size} sequences of {self.subject.seq_len} ids out of {self.subject.vocab_size}, "
            f"seed {self.subject.seed}" + (f"; compared with {self.other.name}" if self.other else "")
        )
        if self.fault_meaning is not None:
            self.say(f"Planted: {self.subject.fault}: {self.fault_meaning}", style="yellow")
        self.say("")

    def print_result(self, result: CheckResult) -> None:
        """Print the line of a check; for a failed one, also the property that should hold."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=4)
        grid.add_column(width=32)
        grid.add_column()
        status = Text(result.status.upper(), style=COLORS[result.status])
        detail = Text(escape_control_characters(result.detail), style="dim" if result.status == "skip" else "")
        if result.status == "fail":
            detail.append(f"\nExpected: {result.meaning}", style="italic")
        grid.add_row(status, Text(result.name), detail)
        self.console.print(grid)

    def print_tables(self) -> None:
        """Print the relative error of every gradient, one column per reference."""
        for title, checks in TABLES.items():
            lines: dict[str, dict[str, Comparison]] = {}
            for result in self.results:
                for comparison in result.comparisons if result.name in checks else ():
                    column = checks[result.name] or comparison.reference
                    column = comparison.reference if column == "parity" else column
                    lines.setdefault(comparison.name, {})[column] = comparison
            if lines:
                self.say("")
                self.console.print(gradient_table(title, lines))

    def print_verdict(self) -> None:
        """Print that all checks pass, or print the failed checks with the first wrong operation and parameter."""
        failed = [result for result in self.results if not result.passed]
        skipped = sum(result.status == "skip" for result in self.results)
        self.say("")
        if not failed:
            self.say(
                f"{self.subject.name}: all {len(self.results) - skipped} checks pass"
                f"{f', {skipped} do not apply' if skipped else ''} ({self.elapsed_seconds:.1f} s).",
                style="green" if self.subject.fault is None else "bold red",
            )
            if self.subject.fault is not None:
                self.say(f"The planted fault '{self.subject.fault}' was NOT caught.", style="bold red")
            return
        says = f"caught '{self.subject.fault}'" if self.subject.fault else "fail"
        self.say(
            f"{self.subject.name}: {len(failed)} of {len(self.results) - skipped} checks {says} "
            f"({self.elapsed_seconds:.1f} s): {', '.join(result.name for result in failed)}.",
            style="bold red" if self.subject.fault is None else "green",
        )
        for what, first in self.first_wrong().items():
            order = "In backward order the" if what == "parameter" else "The"
            self.say(f"{order} first wrong {what} is {first}: look there first.")

    def first_wrong(self) -> dict[str, str]:
        """Return the first wrong operation and the first wrong parameter of the backward pass, where they are known.

        Parity checks are excluded: when only parity fails, the gradients may be correct, but of a different function.
        """
        found: dict[str, str] = {}
        for what, checks in zip(("operation", "parameter"), reversed(TABLES.values()), strict=True):
            for result in self.results:
                if result.first_wrong and result.name in checks and not result.name.startswith("parity"):
                    found.setdefault(what, result.first_wrong)
        return found

    def as_values(self) -> dict[str, Any]:
        """Return the report as JSON values; a number that is not finite becomes null."""
        return {
            "model": self.subject.name,
            "options": self.options,
            "seed": self.subject.seed,
            "against": self.other.name if self.other else None,
            "fault": self.subject.fault,
            "passed": self.passed,
            "first_wrong": self.first_wrong(),
            "elapsed_seconds": self.elapsed_seconds,
            "checks": [
                {
                    "name": result.name,
                    "status": result.status,
                    "detail": result.detail,
                    "meaning": result.meaning,
                    "comparisons": [comparison_values(comparison) for comparison in result.comparisons],
                }
                for result in self.results
            ],
        }

    def say(self, text: str, *, style: str = "") -> None:
        """Print text without interpreting markup; control characters are escaped."""
        self.console.print(Text(escape_control_characters(text), style=style))


def gradient_table(title: str, lines: dict[str, dict[str, Comparison]]) -> Table:
    """Return a table with one row per gradient: its norm, its relative error by reference, and its verdict."""
    columns = list(dict.fromkeys(column for line in lines.values() for column in line))
    table = Table(title=f"{title}: relative error against", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("norm", justify="right")
    for column in columns:
        table.add_column(escape_control_characters(column), justify="right")
    table.add_column("verdict")
    for name, line in lines.items():
        wrong = [comparison for comparison in line.values() if not comparison.passed]
        worst = wrong[0] if wrong else next(iter(line.values()))
        cells = [relative_error(line[column]) if column in line else Text("") for column in columns]
        verdict = Text(worst.verdict, style=COLORS.get(worst.verdict, "cyan"))
        table.add_row(Text(escape_control_characters(name)), f"{next(iter(line.values())).norm:.2e}", *cells, verdict)
    return table


def relative_error(comparison: Comparison) -> Text:
    """Return the relative error as a table cell, red when it exceeds the tolerance."""
    number = f"{comparison.relative:.1e}" if comparison.relative else "0"
    return Text(number, style="" if comparison.passed else "bold red")


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    numbers = {name: getattr(comparison, name) for name in ("norm", "error", "relative", "rtol")}
    return {
        "name": comparison.name,
        "reference": comparison.reference,
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "verdict": comparison.verdict,
    }
