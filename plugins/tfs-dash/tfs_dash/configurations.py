"""Comparison of configurations: one row per setting, those that differ first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfs_dash.redact import without_secrets
from tfs_dash.run_info import TOO_LARGE
from tfs_dash.store import RunData

ABSENT = "–"

FACTS = ("model", "device", "threads", "matmul", "bigram_bits_per_byte")
"""Fields of `run.json` that are compared besides the configuration. For privacy, host, process and platform are not."""


@dataclass(frozen=True)
class Row:
    """A setting and its value in each run, as text."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """True if the runs have different values."""
        return len(set(self.values)) > 1


def compare(runs: Sequence[RunData]) -> list[Row]:
    """Return the rows in the order of the configuration, but those that differ first."""
    flat = [_facts(run) | flatten(without_secrets(run.read_config())) for run in runs]
    names = dict.fromkeys(name for values in flat for name in values)
    rows = [Row(name, tuple(values.get(name, ABSENT) for values in flat)) for name in names]
    return sorted(rows, key=lambda row: not row.differs)


def _facts(run: RunData) -> dict[str, str]:
    facts = {f"({name})": _text(run.info.get(name)) for name in FACTS if run.info.get(name) is not None}
    for name, number in run.info["parameters"].items():
        facts[f"(parameters, {str(name).replace('_', ' ')})"] = _text(number) if number is None else f"{number:,}"
    for name, version in run.info["versions"].items():
        facts[f"(version of {name})"] = str(version)
    commit = run.info["git"].get("commit")
    return facts | ({"(git commit)": str(commit)[:12]} if commit else {})


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to dotted names, as in `training.learning_rate: 0.003`."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            flat |= flatten({str(position): item for position, item in enumerate(value)}, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _text(value)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "(none)"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and abs(value) > TOO_LARGE:  # str() raises for thousands of digits
        return f"{value:#x}"[:40] + "…"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
