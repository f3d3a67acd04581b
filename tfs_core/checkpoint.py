"""Saving and loading of checkpoints, and rotation of the checkpoints of a run.

Tensors are stored as safetensors and the state as JSON, so opening a checkpoint never executes code from it.
`checkpoint_folder.py` writes, verifies and deletes the folders; `tensor_files.py` reads and writes the tensors.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tfs_core.checkpoint_folder import (
    checkpoint_name,
    list_checkpoints,
    point_to,
    rotate,
    verify_checkpoint,
    write_checkpoint_folder,
)
from tfs_core.config import load_config
from tfs_core.config.schema import RunConfig
from tfs_core.contracts import LanguageModel, Ranks, Tokenizer
from tfs_core.errors import CheckpointError, TrainingError
from tfs_core.origin import PLUGINS, owners
from tfs_core.plugins import describe
from tfs_core.ranks import OneRank
from tfs_core.runs import read_run
from tfs_core.stored_json import read_json

STATE_FORMAT = 1

STATE = {"tied": {str: str}, "optimizer?": {"groups": [{"names": [str], "options": dict}], "numbers": {str: dict}}}
"""The shape of any `state.json` (see `tfs_core.stored_json`)."""

RUN_STATE = {
    **STATE,
    "step": int,
    "fingerprints": {"source": str, "tokenizer": str, "tokens": str},
    "machine": {"device": {"cpu", "cuda", "mps"}, "threads": range(1, 1025), "matmul": {"highest", "high", "medium"}},
    "versions": {str: str},
    "progress": {
        "step": int,
        "tokens": int,
        "flops": float,
        "elapsed_seconds": float,
        "best_loss": (float, None),
        "best_step": (int, None),
        "validations_without_improvement": int,
    },
    "plugins?": PLUGINS,
    "local_files?": {str: str},
    "random_state": {"torch": [range(256)], "python": list, "numpy": list},
}
"""The shape of the `state.json` of a checkpoint that a run saved."""


def save_checkpoint(
    folder: Path,
    *,
    model: LanguageModel,
    optimizer: torch.optim.Optimizer | None,
    state: Mapping[str, Any],
    config_yaml: str | None = None,
    tokenizer: Tokenizer | None = None,
    ranks: Ranks | None = None,
) -> None:
    """Write a checkpoint folder atomically.

    `state` has all entries of `state.json` (JSON values) except the format version and the description of the tensors.

    Raises TrainingError when the disk is full, when writing is not permitted, and when a weight is not finite. Raises
    CheckpointError for optimizer state that is neither a tensor nor JSON.
    """

    def write(path: Path) -> None:
        tensors = (ranks or OneRank()).save(path, model, optimizer)
        document = {"format_version": STATE_FORMAT, **state, **tensors}
        (path / "state.json").write_text(json.dumps(document) + "\n", encoding="utf-8", newline="\n")
        if config_yaml is not None:
            (path / "config.yaml").write_text(config_yaml, encoding="utf-8", newline="\n")
        if tokenizer is not None:
            (path / "tokenizer").mkdir()
            tokenizer.save(path / "tokenizer")

    with _training_error_if_unwritable(folder):
        write_checkpoint_folder(folder, write)


@contextmanager
def as_checkpoint_error(folder: Path) -> Iterator[None]:
    """Convert errors of the block, which restores the state of a checkpoint, to a CheckpointError: it does not fit."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: its state cannot be restored: {describe(error)}") from error


@contextmanager
def _training_error_if_unwritable(folder: Path) -> Iterator[None]:
    """Convert the errors of a full disk or of missing permissions to a TrainingError that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{folder.name} cannot be saved in {folder.parent}: {error}. The existing checkpoints are unchanged. "
            "Make room or change the permissions, then continue with --resume."
        ) from error


def load_checkpoint(
    folder: Path, *, model: LanguageModel, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Verify a checkpoint, load its weights and optimizer state, and return the content of `state.json`.

    Raises CheckpointError when a file is damaged, or when names or shapes differ from the model's.
    """
    verify_checkpoint(folder)
    state = read_state(folder)
    with as_checkpoint_error(folder):
        OneRank().load(folder, model, optimizer, state)
    return state


def read_state(folder: Path, *, shape: Mapping[str, Any] = STATE) -> dict[str, Any]:
    """Return the content of `state.json`, of the shape STATE or RUN_STATE. Raises CheckpointError when it differs."""
    state: dict[str, Any] = read_json(folder / "state.json", shape, version=STATE_FORMAT)
    return state


def read_config(folder: Path, *, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of the run that saved the checkpoint, changed by `overrides` (as by `--set`).

    Raises CheckpointError when the checkpoint has no configuration, and ConfigError for invalid overrides.
    """
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(f"{folder}: it has no config.yaml, so it was not saved by `tfs run`")
    recorded = read_state(folder, shape={"plugins?": PLUGINS}).get("plugins")
    if recorded is None and (run := read_run(folder.parent.parent)):
        recorded = run.info.get("plugins")
    return load_config(folder / "config.yaml", overrides=overrides, owners=owners(recorded or {}))


class CheckpointKeeper:
    """Saves the checkpoints of a run, updates the pointers `latest` and `best`, and deletes old ones, in this order."""

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        run_state: Callable[[], Mapping[str, Any]] = dict,
        config_yaml: str | None = None,
        tokenizer: Tokenizer | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Store the arguments of `save_checkpoint` that are the same for every step.

        `run_state()` is called at every save and returns the entries of `state.json` about the run. `keep` is the
        number of newest checkpoints that are not deleted.
        """
        self.folder = folder
        self.keep = keep
        self.run_state = run_state
        self.config_yaml = config_yaml
        self.tokenizer = tokenizer
        self.ranks = ranks

    def save(
        self,
        step: int,
        *,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer | None,
        state: Mapping[str, Any],
        best_step: int | None,
    ) -> Path:
        """Save a checkpoint and return its folder. If it cannot be written, the existing ones remain unchanged.

        Raises the errors of `save_checkpoint`.
        """
        folder = self.folder / checkpoint_name(step)
        save_checkpoint(
            folder,
            model=model,
            optimizer=optimizer,
            state={"step": step, **self.run_state(), **state},
            config_yaml=self.config_yaml,
            tokenizer=self.tokenizer,
            ranks=self.ranks,
        )
        with _training_error_if_unwritable(folder):
            point_to(self.folder, "latest", step)
            point_to(self.folder, "best", best_step)
            rotate(self.folder, keep=self.keep, best_step=best_step)
        return folder

    def latest(self) -> Path | None:
        """Return the folder of the newest checkpoint, or None."""
        return next(reversed(list_checkpoints(self.folder)), None)
