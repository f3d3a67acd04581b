"""A checkpoint: saved, loaded, and the checkpoints of a run kept in order.

Tensors are safetensors, the rest is JSON: nothing in a checkpoint can run when it is opened. How its folder is made,
verified and deleted is in `checkpoint_folder.py`, its tensors are in `tensor_files.py`.
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
from tfs_core.ranks import OneRank

STATE_FORMAT = 1


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
    """Write a checkpoint folder, whole or not at all; `state` is what `state.json` holds besides, JSON values.

    Raises TrainingError when the disk is full or not ours, and when a weight is not finite.
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

    with _saying_why_not(folder):
        write_checkpoint_folder(folder, write)


@contextmanager
def _saying_why_not(folder: Path) -> Iterator[None]:
    """Turn a full disk, or one that is not ours, into a sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{folder.name} cannot be saved in {folder.parent}: {error}. The checkpoints that are there are untouched. "
            "Make room or change the permissions, then go on with --resume."
        ) from error


def load_checkpoint(
    folder: Path, *, model: LanguageModel, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Verify a checkpoint, put its weights and optimizer state in place, and return what `state.json` holds.

    Raises CheckpointError when a file is damaged, or when names or shapes are not the model's.
    """
    verify_checkpoint(folder)
    state = read_state(folder)
    OneRank().load(folder, model, optimizer, state)
    return state


def read_state(folder: Path) -> dict[str, Any]:
    """Return what `state.json` holds."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: its state.json cannot be read ({error})") from None
    if not isinstance(state, dict) or state.get("format_version") != STATE_FORMAT:
        raise CheckpointError(f"{folder}: its state.json is not of format {STATE_FORMAT}, which this tfs reads")
    return state


def read_config(folder: Path, *, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of the run that saved the checkpoint, changed as `--set` says."""
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(f"{folder}: it has no config.yaml: it was not `tfs run` that saved it")
    return load_config(folder / "config.yaml", overrides=overrides)


class CheckpointKeeper:
    """The checkpoints of a run: saves one, moves `latest` and `best`, throws old ones away, in this order."""

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
        """`run_state()` is what `state.json` says of the run, asked for at every save."""
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
        """Return the folder of the new checkpoint. If it cannot be written, the others stay as they are."""
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
        with _saying_why_not(folder):
            point_to(self.folder, "latest", step)
            point_to(self.folder, "best", best_step)
            rotate(self.folder, keep=self.keep, best_step=best_step)
        return folder

    def latest(self) -> Path | None:
        """Return the newest checkpoint's folder."""
        return next(reversed(list_checkpoints(self.folder)), None)
