"""What a checkpoint holds, saved and loaded: weights, optimizer, random states, and where the run stood.

Tensors are safetensors, the rest is JSON: nothing in a checkpoint can run when it is opened. How its folder is made,
verified and thrown away is in `checkpoint_folder.py`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tfs_core.config import load_config
from tfs_core.config.schema import RunConfig
from tfs_core.contracts import LanguageModel, Tokenizer
from tfs_core.errors import CheckpointError, TrainingError
from tfs_core.plugins import blaming
from tfs_core.registry import get_registry
from tfs_core.runs import find_checkpoint
from tfs_core.training.checkpoint_folder import (
    checkpoint_name,
    checkpoint_step,
    list_checkpoints,
    newest_valid_checkpoint,
    point_to,
    rotate,
    verify_checkpoint,
    write_checkpoint_folder,
)
from tfs_core.training.components import build_model, with_local_model
from tfs_core.training.machine import apply_machine, choose_machine
from tfs_core.training.mirror import check_mirror, with_model
from tfs_core.training.optimizer_state import describe_optimizer, restore_optimizer

STATE_FORMAT = 1


def save_checkpoint(
    folder: Path,
    *,
    model: LanguageModel,
    optimizer: torch.optim.Optimizer | None,
    state: Mapping[str, Any],
    config_yaml: str | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write a checkpoint folder, whole or not at all; `state` is what `state.json` holds besides, JSON values.

    Raises TrainingError when the disk is full or not ours, and when a weight is not finite.
    """
    weights, tied = _distinct(model.state_dict())
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise TrainingError(f"{folder.name} is not saved: {name} holds numbers that are not finite")
    document = {"format_version": STATE_FORMAT, **state, "tied": tied}

    def write(path: Path) -> None:
        _write_tensors(weights, path / "model.safetensors")
        if optimizer is not None:
            described, document["optimizer"] = describe_optimizer(optimizer, model.named_parameters())
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in described.items()}
            _write_tensors(tensors, path / "optimizer.safetensors")
        (path / "state.json").write_text(json.dumps(document) + "\n", encoding="utf-8", newline="\n")
        if config_yaml is not None:
            (path / "config.yaml").write_text(config_yaml, encoding="utf-8", newline="\n")
        if tokenizer is not None:
            (path / "tokenizer").mkdir()
            tokenizer.save(path / "tokenizer")

    with _saying_why_not(folder):
        write_checkpoint_folder(folder, write)


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a file of tensors; the library makes it readable by its owner only, so it gets what its folder got."""
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)


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


def _distinct(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each tensor once, contiguous, on the CPU, and {other name of a tied one: the name it is kept under}."""
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first_name: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        identity = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and identity in first_name:
            tied[name] = first_name[identity]
            continue
        first_name[identity] = name
        plain = tensor.detach().cpu().contiguous()
        is_view = plain.untyped_storage().nbytes() != plain.numel() * plain.element_size()
        kept[name] = plain.clone() if is_view else plain
    return kept, tied


def load_checkpoint(
    folder: Path, *, model: LanguageModel, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Verify a checkpoint, put its weights and optimizer state in place, and return what `state.json` holds.

    Raises CheckpointError when a file is damaged, or when names or shapes are not the model's.
    """
    verify_checkpoint(folder)
    return restore_checkpoint(folder, model=model, optimizer=optimizer)


def restore_checkpoint(
    folder: Path, *, model: LanguageModel, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Do as `load_checkpoint`, with a checkpoint that has been verified."""
    state = read_state(folder)
    weights = _read_tensors(folder / "model.safetensors")
    weights.update({name: weights[kept] for name, kept in state["tied"].items()})
    try:
        model.load_state_dict(weights)
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{folder}: its weights do not fit the model: {error}") from error
    if optimizer is not None:
        if "optimizer" not in state:
            raise CheckpointError(f"{folder}: it was saved without an optimizer")
        tensors = _read_tensors(folder / "optimizer.safetensors")
        try:
            restore_optimizer(optimizer, model.named_parameters(), tensors, state["optimizer"])
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
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


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    return tensors


class CheckpointKeeper:
    """The checkpoints of a run: saves one, moves `latest` and `best`, throws old ones away, in this order."""

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        fixed_state: Mapping[str, Any] | None = None,
        config_yaml: str | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.fixed_state = fixed_state or {}
        self.config_yaml = config_yaml
        self.tokenizer = tokenizer

    def save(
        self,
        step: int,
        *,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer | None,
        state: Mapping[str, Any],
        best_step: int | None,
    ) -> Path:
        """Return the folder of the new checkpoint. When saving fails nothing else has changed."""
        folder = self.folder / checkpoint_name(step)
        save_checkpoint(
            folder,
            model=model,
            optimizer=optimizer,
            state={"step": step, **self.fixed_state, **state},
            config_yaml=self.config_yaml,
            tokenizer=self.tokenizer,
        )
        with _saying_why_not(folder):
            point_to(self.folder, "latest", step)
            point_to(self.folder, "best", best_step)
            rotate(self.folder, keep=self.keep, best_step=best_step)
        return folder

    def latest(self) -> Path | None:
        """Return the newest checkpoint's folder."""
        return next(reversed(list_checkpoints(self.folder)), None)


class CheckpointManager:
    """Checkpoints for a training loop of your own, in the folder `<checkpoint_dir>/<experiment_name>/`."""

    def __init__(
        self, checkpoint_dir: str | Path, model: LanguageModel, experiment_name: str, max_checkpoints: int = 5
    ) -> None:
        self.model = model
        self._keeper = CheckpointKeeper(Path(checkpoint_dir) / experiment_name, keep=max_checkpoints)

    def save(
        self,
        epoch: int,
        global_step: int,
        train_config: Mapping[str, Any] | None = None,
        learning_rate: float | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        metrics: Mapping[str, float] | None = None,
        is_best: bool = False,
    ) -> Path:
        """Save and return the checkpoint's folder; `is_best` makes it the one that `load("best")` finds."""
        state = {
            "epoch": epoch,
            "global_step": global_step,
            "train_config": dict(train_config or {}),
            "learning_rate": learning_rate,
            "metrics": dict(metrics or {}),
        }
        best = self.get_best()
        best_step = global_step if is_best else None if best is None else checkpoint_step(best)
        return self._keeper.save(global_step, model=self.model, optimizer=optimizer, state=state, best_step=best_step)

    def load(
        self, checkpoint_path: str | Path | None = None, optimizer: torch.optim.Optimizer | None = None
    ) -> dict[str, Any] | None:
        """Load a checkpoint (the newest whole one, `"best"`, or a folder) and return what `save` was told.

        None when there is none yet. Raises CheckpointError when the one asked for is damaged or does not fit.
        """
        if checkpoint_path is None:
            folder, damaged = newest_valid_checkpoint(self._keeper.folder)
            if folder is None and damaged:
                raise damaged[0]
        else:
            folder = self.get_best() if str(checkpoint_path) == "best" else Path(checkpoint_path)
        return None if folder is None else load_checkpoint(folder, model=self.model, optimizer=optimizer)

    def get_latest(self) -> Path | None:
        """Return the folder of the newest checkpoint."""
        return self._keeper.latest()

    def get_best(self) -> Path | None:
        """Return the folder of the best checkpoint, None while none was called so."""
        pointer = self._keeper.folder / "best"
        return self._keeper.folder / pointer.read_text(encoding="utf-8").strip() if pointer.exists() else None

    def list_checkpoints(self) -> list[Path]:
        """Return the folders of all checkpoints, oldest first."""
        return list_checkpoints(self._keeper.folder)


def _read_tokenizer(name: str, folder: Path) -> Tokenizer:
    """Return the tokenizer that was saved in a folder. Raises PluginError when its loader fails."""
    entry = get_registry().find("tokenizer", name)
    load = entry.load_loader()
    with blaming(f"{entry} cannot be read from {folder}"):
        return load(folder)


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, ready to evaluate and to write."""

    config: RunConfig
    model: LanguageModel
    tokenizer: Tokenizer
    step: int
    folder: Path  # the checkpoint's
    device: str


def load_model(
    target: str | Path,
    *,
    assets: Path,
    device: str = "auto",
    model: str | None = None,
    allow_local_code: bool = False,
) -> LoadedModel:
    """Return the model of a run (its latest checkpoint) or of a checkpoint, in eval mode, with its tokenizer.

    `model` names a mirror to load the weights into. The threads and the matrix-product kernel that the run recorded
    are put in force. Raises CheckpointError when there is no such checkpoint, or it is damaged, or does not fit.
    """
    folder = find_checkpoint(str(target), assets)
    verify_checkpoint(folder)
    overrides = [] if device == "auto" else [f"runtime.device={device}"]
    own_config, state = read_config(folder, overrides=overrides), read_state(folder)
    config = own_config if model is None else with_model(own_config, model)
    config = with_local_model(config, allowed=allow_local_code)
    machine = choose_machine(config.runtime, state["machine"])
    apply_machine(machine)
    tokenizer = _read_tokenizer(config.data.tokenizer.name, folder / "tokenizer")
    if tokenizer.fingerprint() != state["fingerprints"]["tokenizer"]:
        raise CheckpointError(f"{folder}: its tokenizer is not the one that the model was trained with")
    built = build_model(config.model, vocab_size=tokenizer.vocab_size, seed=config.seed, device=machine.device)
    if model is not None:
        check_mirror(own_config.model, config.model, built)
    restore_checkpoint(folder, model=built)
    built.eval()
    return LoadedModel(config, built, tokenizer, state["step"], folder, machine.device)
