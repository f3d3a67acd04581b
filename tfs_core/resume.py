"""Resuming: find the checkpoint to resume from, check that the run is still the same, and prepare its folder."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tfs_core.checkpoint import RUN_STATE, read_config, read_state
from tfs_core.checkpoint_folder import (
    checkpoint_step,
    list_checkpoints,
    move_aside,
    newest_valid_checkpoint,
    point_to,
    remove_leftovers,
    rotate,
    verify_checkpoint,
)
from tfs_core.config import config_differences, resolved
from tfs_core.config.resolved import Difference
from tfs_core.config.schema import COMPONENT_KINDS, RunConfig, is_local_model
from tfs_core.durable import is_locked
from tfs_core.errors import CheckpointError, ConfigError, PluginError, TrainingError, UsageError
from tfs_core.origin import changed_local_files
from tfs_core.registry import get_registry
from tfs_core.run_folder import RunFolder
from tfs_core.runs import Run, find_checkpoint, find_run, list_runs, read_run, run_folders

MAY_CHANGE = (
    "group",
    "tags",
    "training.num_epochs",
    "training.max_steps",
    "training.max_tokens",
    "training.eval_every",
    "training.max_eval_batches",
    "training.checkpoint_every",
    "training.checkpoint_interval_minutes",
    "training.keep_checkpoints",
    "training.log_every",
    "training.early_stopping",
    "samples",
    "runtime",
    "loggers",
    "data.dataset",
    "data.tokenizer",
)
"""Settings that may change on a resume: the length of the run, its outputs, and the machine. Data set and tokenizer are
compared by fingerprint instead, so that files may move. All other settings decide the result of a step."""


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a run resumes from, with its configuration and state."""

    checkpoint: Path
    config: RunConfig
    state: dict[str, Any]
    run: Run | None  # None for a checkpoint that is not in a run folder
    siblings: list[Path]  # all checkpoints of the run when it was read
    damaged: list[str]  # problems of newer checkpoints, which are skipped

    @property
    def run_name(self) -> str:
        """The name of the run, even if the checkpoint is not in a run folder."""
        return self.checkpoint.parent.parent.name if self.run is None else self.run.name


def find_resume_point(target: str | Path | None, *, experiment_name: str | None, assets: Path) -> ResumePoint:
    """Return the newest valid checkpoint of a run, or the checkpoint that `target` names.

    `target` is a run's name or folder, or a checkpoint; None means the last run of `experiment_name`. Raises
    UsageError when neither is given, and CheckpointError when there is no valid checkpoint: a resume never falls back
    to starting from scratch.
    """
    if target is None:
        run = _last_run(experiment_name, assets)
    elif run_folders(assets, str(target)):
        run = find_run(str(target), assets)
    elif Path(target).name in ("latest", "best") or Path(target).name.startswith("step-"):
        folder = find_checkpoint(str(target), assets)
        verify_checkpoint(folder)
        return _resume_point(folder, damaged=[])
    else:
        run = find_run(str(target), assets)
    checkpoint, damaged = newest_valid_checkpoint(run.folder / "checkpoints")
    if checkpoint is None:
        why = f"each is damaged: {'; '.join(map(str, damaged))}" if damaged else "none was saved before it ended"
        config = run.folder / "config.yaml"  # missing if the run ended even before that
        raise CheckpointError(
            f"the run '{run.name}' has no checkpoint to resume from: {why}. Begin it again in its place: "
            f"tfs run --config {config if config.is_file() else 'FILE'} --resume auto --name {run.name}"
        )
    return _resume_point(checkpoint, damaged=[str(error) for error in damaged])


def run_to_continue(name: str | None, *, experiment_name: str, assets: Path) -> tuple[Path | None, bool]:
    """Return the folder of the run that `--resume auto` continues, and whether it has a checkpoint to resume from.

    It is the run of this name, or without a name the last run of `experiment_name`. Without a checkpoint it is begun
    again in its place; (None, False) when there is no such run yet.
    """
    found = [run.folder for run in _runs_of(experiment_name, assets)] if name is None else run_folders(assets, name)
    folder = found[-1] if found else None
    return folder, folder is not None and bool(list_checkpoints(folder / "checkpoints"))


def was_killed_before_its_first_checkpoint(folder: Path) -> bool:
    """Return whether a run was killed so early that the same command can begin it again in its place."""
    run = read_run(folder)
    was_running = run is not None and run.info.get("status") == "running" and not is_locked(folder / "run.lock")
    return was_running and not list_checkpoints(folder / "checkpoints")


def _last_run(experiment_name: str | None, assets: Path) -> Run:
    if experiment_name is None:
        raise UsageError("--resume needs a run, a checkpoint, or a --config whose last run is to be resumed")
    runs = _runs_of(experiment_name, assets)
    if not runs:
        raise CheckpointError(
            f"there is no run of '{experiment_name}' in {assets / 'runs'} to resume. Start one, without --resume."
        )
    return runs[-1]


def _runs_of(experiment_name: str, assets: Path) -> list[Run]:
    return [run for run in list_runs(assets) if run.info.get("experiment_name") == experiment_name]


def _resume_point(checkpoint: Path, *, damaged: list[str]) -> ResumePoint:
    in_a_run = checkpoint.parent.name == "checkpoints"
    return ResumePoint(
        checkpoint=checkpoint,
        config=read_config(checkpoint),
        state=read_state(checkpoint, shape=RUN_STATE),
        run=read_run(checkpoint.parent.parent) if in_a_run else None,
        siblings=list_checkpoints(checkpoint.parent),
        damaged=damaged,
    )


def check_config(previous: ResumePoint, config: RunConfig, *, is_fork: bool) -> dict[str, list[Any]]:
    """Return the changed settings, {key: [before, now]}. Raises ConfigError when one of them must not change."""
    allowed = (*MAY_CHANGE, "experiment_name") if is_fork else MAY_CHANGE
    differences = config_differences(previous.config, config)
    if config.model.name != previous.config.model.name:  # a mirror: only options that both models have must agree
        shared = resolved(previous.config)["model"].keys() & resolved(config)["model"].keys() - {"name"}
        differences = [
            difference
            for difference in differences
            if not difference.key.startswith("model.") or difference.key.removeprefix("model.") in shared
        ]
    differences = [difference for difference in differences if not _is_same_component(difference)]
    refused = [
        f"{difference.key} (was {difference.first!r}, now {difference.second!r})"
        for difference in differences
        if not any(difference.key == key or difference.key.startswith(key + ".") for key in allowed)
    ]
    if refused:
        raise ConfigError(
            f"the run '{previous.run_name}' cannot be resumed with changed settings: {', '.join(refused)}. "
            "Restore them, or start a new run without --resume."
        )
    return {difference.key: [difference.first, difference.second] for difference in differences}


def _is_same_component(difference: Difference) -> bool:
    """Return whether two names, such as `torch` and `tfs-torch/torch`, mean the same component."""
    kind = next(
        (COMPONENT_KINDS[part] for part in reversed(difference.key.split(".")) if part in COMPONENT_KINDS), None
    )
    names = (difference.first, difference.second)
    if kind is None or not all(isinstance(name, str) and not is_local_model(name) for name in names):
        return False
    try:
        first, second = (get_registry().find(kind, name) for name in names)
    except PluginError:
        return False
    return first is second


def check_local_files(previous: ResumePoint, config: RunConfig) -> None:
    """Raise ConfigError when the code of a local model has changed since the checkpoint."""
    if changed := changed_local_files(config.model.name, previous.state.get("local_files", {})):
        raise ConfigError(
            f"the run '{previous.run_name}' cannot be resumed: the code of its model has changed since the checkpoint: "
            f"{', '.join(changed)}. Restore it, or go on with the new code: --allow-changed-code"
        )


def check_fingerprints(previous: ResumePoint | None, **now: str) -> dict[str, str]:
    """Return the fingerprints given as keywords. Raises TrainingError when one differs from the checkpoint's."""
    words = {
        "source": "the text of the data set",
        "tokenizer": "the tokenizer",
        "tokens": "the token store made from them with the settings of `data`",
    }
    for key, fingerprint in now.items():
        before = fingerprint if previous is None else previous.state["fingerprints"][key]
        if fingerprint != before:
            assert previous is not None
            raise TrainingError(
                f"the run '{previous.run_name}' cannot be resumed: {words[key]} has changed since (fingerprint "
                f"{before[:12]}, now {fingerprint[:12]}). Restore the old one, or start a new run without --resume."
            )
    return now


def current_versions() -> dict[str, str]:
    """Return the versions that the last bits of a result depend on: torch and the processor."""
    return {"torch": str(torch.__version__), "processor": f"{platform.machine()} {platform.processor()}".strip()}


def machine_differences(state: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    """Return the changes of machine and versions since the checkpoint was saved, such as `threads was 4, is 2`."""
    before = {"compiled": False, **state["versions"], **state["machine"]}
    now = {**current_versions(), **machine}
    return [f"{key} was {before.get(key)}, is {now[key]}" for key in now if before.get(key) != now[key]]


def rewind_run_folder(previous: ResumePoint, run_folder: RunFolder, *, keep: int) -> None:
    """Make the checkpoint the newest of its run. The run folder must be locked.

    Moves newer checkpoints to `aside/`, corrects the pointers `latest` and `best`, and deletes old checkpoints beyond
    `keep`: a process that was killed while saving may not have done so. Raises TrainingError when another process has
    saved or removed a checkpoint in the meantime.
    """
    checkpoints = run_folder.folder / "checkpoints"
    remove_leftovers(checkpoints)
    if list_checkpoints(checkpoints) != previous.siblings:
        raise TrainingError(f"another process has just changed the run '{previous.run_name}': resume it again")
    step = checkpoint_step(previous.checkpoint)
    newer = [folder for folder in previous.siblings if checkpoint_step(folder) > step]
    move_aside(newer, run_folder.folder / "aside")
    point_to(checkpoints, "latest", step)
    point_to(checkpoints, "best", previous.state["progress"]["best_step"])
    rotate(checkpoints, keep=keep, best_step=previous.state["progress"]["best_step"])
