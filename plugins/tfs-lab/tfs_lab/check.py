"""`tfs check MODEL`: verify a model numerically, because a falling loss proves nothing.

The checks are in `tfs_lab.testing`, which the tests of plugins use too; this module is the command line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tfs_core.config.document import Document, Place
from tfs_core.config.load import apply_overrides
from tfs_core.contracts import LanguageModel, SupportsFaults
from tfs_core.errors import PluginError
from tfs_core.terminal import say
from tfs_lab.report import Report
from tfs_lab.testing.model_checks import check_model
from tfs_lab.testing.small_model import small_model


@click.command()
@click.argument("model")
@click.option("--against", metavar="MODEL", help="Compare with this model too. Default: the one that MODEL mirrors.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Set an option of the model, as in YAML.")
@click.option("--break", "fault", metavar="FAULT", help="Plant a known fault first, to see which checks catch it.")
@click.option("--list-faults", is_flag=True, help="List the faults that MODEL can plant, and exit.")
@click.option("--seed", default=1337, show_default=True, help="Seed of weights, token ids and samples.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def check(
    model: str,
    *,
    against: str | None,
    settings: tuple[str, ...],
    fault: str | None,
    list_faults: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Verify a model: gradients, causality, padding, saving, resuming, parity with its mirror.

    MODEL is the name of an installed model, or a class in a file, as ./my_model.py:MyModel. Every check builds a new
    small model in float64. The exit code is 0 when every check passes and 1 when one fails; so with --break it is 1
    when the fault is caught, and 0 when it is missed.
    """
    subject = small_model(model, parse_settings(settings), seed=seed, fault=fault)
    built = subject.build()
    known_faults = dict(built.faults()) if isinstance(built, SupportsFaults) else {}
    if list_faults:
        say(json.dumps(known_faults) if as_json else describe_faults(known_faults, model))
        return
    other_name = against or built.mirrors
    try:
        other = subject.counterpart(other_name) if other_name else None
    except PluginError as error:
        if against:
            raise
        other = None
        say(f"Not compared with its mirror: {error}", err=True)

    report = Report(subject, other, parameters=parameter_count(built), fault_meaning=known_faults.get(fault or ""))
    started_at = time.perf_counter()
    if not as_json:
        report.print_head()
    for result in check_model(subject, against=other):
        report.results.append(result)
        if not as_json:
            report.print_result(result)
    report.elapsed_seconds = time.perf_counter() - started_at
    if as_json:
        say(json.dumps(report.as_values(), allow_nan=False))
    else:
        report.print_tables()
        report.print_verdict()
    if not report.passed:
        raise SystemExit(1)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Return the options given by `--set KEY=VALUE`, the values parsed as YAML. Raises ConfigError."""
    document = Document(values={"model": {}}, places={(): Place(source="--set", base=Path.cwd())})
    apply_overrides(document, [f"model.{setting.removeprefix('model.')}" for setting in settings])
    document.raise_problems()
    options: dict[str, Any] = document.values["model"]
    return options


def describe_faults(faults: Mapping[str, str], model: str) -> str:
    """Return the faults as text, one line each, with an example command."""
    if not faults:
        return f"'{model}' declares no faults that can be planted."
    width = max(map(len, faults))
    lines = [f"{name:{width}}  {meaning}" for name, meaning in faults.items()]
    return "\n".join([*lines, "", f"See one caught: tfs check {model} --break {next(iter(faults))}"])


def parameter_count(model: LanguageModel) -> int:
    """Return the number of elements of all parameters."""
    return sum(parameter.numel() for _, parameter in model.named_parameters())
