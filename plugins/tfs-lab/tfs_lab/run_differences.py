"""Bitwise comparison of two finished runs: the newest checkpoint, and every log line without its times."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tfs_core.checkpoint import read_state
from tfs_core.config.resolved import flat
from tfs_core.runs import Run, read_lines
from tfs_core.tensor_files import read_tensors
from tfs_core.terminal import counted

WALL_CLOCK_NAMES = ("at", "elapsed_seconds", "tokens_per_second")
WALL_CLOCK_ENDINGS = ("_at", "_seconds", "_per_second")
"""Fields of a log line with these names or endings are times or speeds, which differ from run to run."""

NOT_COMPARED = ("run", "progress.elapsed_seconds", "plugins")
"""Entries of `state.json` that are not compared, with all entries in them: the name and the time of a run differ, and
the hashes of the plugins' files describe the code, which an author may edit meanwhile."""

SESSION_LOG = "events.jsonl"
"""The log of the sessions of a run, which differ when a run is interrupted."""


def run_differences(run: Run, expected: Run) -> list[str]:
    """Return what differs in `run`, one sentence per file that differs; an empty list for equal runs.

    Raises CheckpointError when a checkpoint cannot be read.
    """
    found = [*_log_differences(run.folder, expected.folder)]
    ours, theirs = run.latest, expected.latest
    if ours is None or theirs is None or ours.name != theirs.name:
        return [*found, f"the newest checkpoint is {ours and ours.name}, not {theirs and theirs.name}"]
    for name in _names(ours, theirs, "*.safetensors"):
        if difference := tensor_difference(_read(ours / name), _read(theirs / name)):
            found.append(f"{name}: {difference}")
    if difference := value_difference(read_state(ours), read_state(theirs)):
        found.append(f"state.json: {difference}")
    return found


def line_count(run: Run) -> int:
    """Return the number of log lines that `run_differences` compares."""
    return sum(len(_comparable_lines(run.folder / name)) for name in _names(run.folder, run.folder, "*.jsonl"))


def _names(ours: Path, theirs: Path, pattern: str) -> list[str]:
    return sorted({path.name for folder in (ours, theirs) for path in folder.glob(pattern)} - {SESSION_LOG})


def _read(path: Path) -> dict[str, Tensor]:
    return read_tensors(path) if path.exists() else {}


def _log_differences(ours: Path, theirs: Path) -> Iterator[str]:
    for name in _names(ours, theirs, "*.jsonl"):
        if difference := line_difference(_comparable_lines(ours / name), _comparable_lines(theirs / name)):
            yield f"{name}: {difference}"


def _comparable_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log file without times and speeds; none for a missing file."""
    return [without_times(line) for line in read_lines(path).rows]


def without_times(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a log line without the fields that are times or speeds."""
    return {
        name: value
        for name, value in line.items()
        if name not in WALL_CLOCK_NAMES and not name.endswith(WALL_CLOCK_ENDINGS)
    }


def line_difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str | None:
    """Return a description of the first line that differs, with its step and fields; None for equal lines."""
    for number, (line, expected) in enumerate(zip(ours, theirs, strict=False), 1):
        fields = _differing(line, expected)
        if fields:
            values = ", ".join(f"{name} is {line.get(name)!r:.40}, not {expected.get(name)!r:.40}" for name in fields)
            return f"the first line that differs is line {number}, of step {expected.get('step')}: {values}"
    return None if len(ours) == len(theirs) else f"it has {counted(len(ours), 'line')}, not {len(theirs)}"


def tensor_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    """Return the number of tensors that differ in any bit, and the name of the first; None for equal tensors."""
    names = [*theirs, *(name for name in ours if name not in theirs)]
    differ = [name for name in names if name not in ours or name not in theirs or not _same(ours[name], theirs[name])]
    if not differ:
        return None
    return f"{len(differ)} of {len(names)} tensors differ, the first of them is {differ[0]}"


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same type, shape and bits (NaN equals NaN, and 0.0 differs from -0.0)."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def value_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return the names of the entries of `state.json` that differ; None for equal states."""
    found = _differing(flat(dict(ours)), flat(dict(theirs)))
    differ = [
        name for name in found if not any(name == other or name.startswith(f"{other}.") for other in NOT_COMPARED)
    ]
    return f"these entries differ: {', '.join(differ[:5])}{', ...' if len(differ) > 5 else ''}" if differ else None


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the names with different values, compared as text: NaN equals NaN, and 0.0 differs from -0.0."""
    return [name for name in {**theirs, **ours} if repr(ours.get(name)) != repr(theirs.get(name))]
