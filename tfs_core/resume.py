"""Where a run goes on from, and whether it is still the same run."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tfs_core.checkpoint import read_config, read_state
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
from tfs_core.config.schema import RunConfig
from tfs_core.errors import CheckpointError, ConfigError, TrainingError, UsageError
from tfs_core.run_folder import RunFolder
from tfs_core.runs import Run, find_checkpoint, find_run, list_runs, read_run

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
"""Settings that may differ when a run is resumed: how long it is, what is shown and saved, and the machine. Data set
and tokenizer are compared by what they hold, so that files may move. The rest decides what a step computes."""


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a run goes on from."""

    checkpoint: Path
    config: RunConfig
    state: dict[str, Any]
    run: Run | None  # None for a checkpoint that is not in a run folder
    siblings: list[Path]  # the run's checkpoints, as they were found
    damaged: list[str]  # what is wrong with newer checkpoints

    @property
    def run_name(self) -> str:
        return self.checkpoint.parent.parent.name if self.run is None else self.run.name


def find_origin(target: str | Path | None, *, experiment_name: str | None, assets: Path) -> Origin:
    """Return the newest whole checkpoint of a run, or the one that `target` is.

    `target` is a run's name or folder, or a checkpoint; None means the last run of `experiment_name`. Raises
    UsageError when neither is given, and CheckpointError when there is nothing whole to go on from: a run that was
    asked to resume never starts from scratch.
    """
    if target is None:
        run = _last_run(experiment_name, assets)
    elif Path(target).name in ("latest", "best") or Path(target).name.startswith("step-"):
        folder = find_checkpoint(str(target), assets)
        verify_checkpoint(folder)
        return _origin(folder, damaged=[])
    else:
        run = find_run(str(target), assets)
    checkpoint, damaged = newest_valid_checkpoint(run.folder / "checkpoints")
    if checkpoint is None:
        why = f"each is damaged: {'; '.join(map(str, damaged))}" if damaged else "none was saved before it ended"
        raise CheckpointError(
            f"the run '{run.name}' has no checkpoint to resume from: {why}. Start again, without --resume."
        )
    return _origin(checkpoint, damaged=[str(error) for error in damaged])


def _last_run(experiment_name: str | None, assets: Path) -> Run:
    if experiment_name is None:
        raise UsageError("--resume needs a run, a checkpoint, or a --config whose last run is to be resumed")
    runs = [run for run in list_runs(assets) if run.info.get("experiment_name") == experiment_name]
    if not runs:
        raise CheckpointError(
            f"there is no run of '{experiment_name}' in {assets / 'runs'} to resume. Start one, without --resume."
        )
    return runs[-1]


def _origin(checkpoint: Path, *, damaged: list[str]) -> Origin:
    in_a_run = checkpoint.parent.name == "checkpoints"
    return Origin(
        checkpoint=checkpoint,
        config=read_config(checkpoint),
        state=read_state(checkpoint),
        run=read_run(checkpoint.parent.parent) if in_a_run else None,
        siblings=list_checkpoints(checkpoint.parent),
        damaged=damaged,
    )


def check_config(origin: Origin, config: RunConfig, *, is_fork: bool) -> dict[str, list[Any]]:
    """Return the settings that change, {key: [before, now]}; raises ConfigError for those that must not."""
    allowed = (*MAY_CHANGE, "experiment_name") if is_fork else MAY_CHANGE
    differences = config_differences(origin.config, config)
    if config.model.name != origin.config.model.name:  # a mirror: only what both can set must agree
        shared = resolved(origin.config)["model"].keys() & resolved(config)["model"].keys() - {"name"}
        differences = [
            difference
            for difference in differences
            if not difference.key.startswith("model.") or difference.key.removeprefix("model.") in shared
        ]
    refused = [
        f"{difference.key} (was {difference.first!r}, now {difference.second!r})"
        for difference in differences
        if not any(difference.key == key or difference.key.startswith(key + ".") for key in allowed)
    ]
    if refused:
        raise ConfigError(
            f"the run '{origin.run_name}' cannot be resumed with other settings than its own: {', '.join(refused)}. "
            "Put them back, or begin a new run without --resume."
        )
    return {difference.key: [difference.first, difference.second] for difference in differences}


def check_fingerprints(origin: Origin | None, **now: str) -> dict[str, str]:
    """Return the fingerprints, by what they are of. Raises TrainingError for one that is not the checkpoint's."""
    words = {
        "source": "the text of the data set",
        "tokenizer": "the tokenizer",
        "tokens": "the token store that they and the settings of `data` make",
    }
    for key, fingerprint in now.items():
        before = fingerprint if origin is None else origin.state["fingerprints"][key]
        if fingerprint != before:
            assert origin is not None
            raise TrainingError(
                f"the run '{origin.run_name}' cannot be resumed: {words[key]} has changed since (fingerprint "
                f"{before[:12]}, now {fingerprint[:12]}). Bring the old one back, or begin a new run without --resume."
            )
    return now


def versions_now() -> dict[str, str]:
    """Return what else decides the last bits of a result: torch and the processor."""
    return {"torch": str(torch.__version__), "processor": f"{platform.machine()} {platform.processor()}".strip()}


def differences_of_machine(state: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    """Return in words what differs from the machine and the torch that saved the checkpoint."""
    before = {"compiled": False, **state["versions"], **state["machine"]}
    now = {**versions_now(), **machine}
    return [f"{key} was {before.get(key)}, is {now[key]}" for key in now if before.get(key) != now[key]]


def go_back_to(origin: Origin, run_folder: RunFolder, *, keep: int) -> None:
    """Make the checkpoint the newest of its run, which is locked, and its folder as if nothing else had been saved.

    Newer checkpoints go to `aside/`; what a killed process did not come to do, pointers and rotation, is done.

    Raises TrainingError when the run has moved on since its checkpoints were looked at.
    """
    checkpoints = run_folder.folder / "checkpoints"
    remove_leftovers(checkpoints)
    if list_checkpoints(checkpoints) != origin.siblings:
        raise TrainingError(f"another process has worked on the run '{origin.run_name}' just now: resume it again")
    step = checkpoint_step(origin.checkpoint)
    newer = [folder for folder in origin.siblings if checkpoint_step(folder) > step]
    move_aside(newer, run_folder.folder / "aside")
    point_to(checkpoints, "latest", step)
    point_to(checkpoints, "best", origin.state["progress"]["best_step"])
    rotate(checkpoints, keep=keep, best_step=origin.state["progress"]["best_step"])
