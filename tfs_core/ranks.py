"""The processes that train together: here the only one of a plain run. Plugins bring others (`contracts.Ranks`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tfs_core.contracts import LanguageModel
from tfs_core.errors import CheckpointError, TrainingError
from tfs_core.tensor_files import (
    describe_optimizer,
    distinct_tensors,
    read_tensors,
    restore_optimizer,
    write_tensors,
)


class OneRank:
    """One process alone: nothing to exchange, and a checkpoint's tensors are two files."""

    rank = 0
    size = 1

    def sum(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values

    def last_micro_batch(self, is_last: bool) -> None:
        """Do nothing: `backward` adds to the gradients by itself."""

    def finish_gradients(self, parameters: Sequence[Tensor]) -> Tensor:
        """Return the norm of the whole gradient: []."""
        return torch.nn.utils.get_total_norm([it.grad for it in parameters if it.grad is not None])

    def save(self, folder: Path, model: LanguageModel, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
        """Write `model.safetensors` and `optimizer.safetensors`, and return what of them is JSON.

        Raises TrainingError for weights that are not finite, CheckpointError for optimizer state that is neither tensor
        nor JSON.
        """
        weights, tied = distinct_tensors(model.state_dict())
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise TrainingError(f"the checkpoint is not saved: {name} holds numbers that are not finite")
        write_tensors(weights, folder / "model.safetensors")
        if optimizer is None:
            return {"tied": tied}
        tensors, described = describe_optimizer(optimizer, model.named_parameters())
        write_tensors(tensors, folder / "optimizer.safetensors")
        return {"tied": tied, "optimizer": described}

    def load(
        self, folder: Path, model: LanguageModel, optimizer: torch.optim.Optimizer | None, state: Mapping[str, Any]
    ) -> None:
        """Put weights and optimizer state in place. Raises CheckpointError when names or shapes are not the model's."""
        weights = read_tensors(folder / "model.safetensors")
        weights.update({name: weights[kept] for name, kept in state["tied"].items()})
        try:
            model.load_state_dict(weights)
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{folder}: its weights do not fit the model: {error}") from error
        if optimizer is None:
            return
        if "optimizer" not in state:
            raise CheckpointError(f"{folder}: it was saved without an optimizer")
        tensors = read_tensors(folder / "optimizer.safetensors")
        try:
            restore_optimizer(optimizer, model.named_parameters(), tensors, state["optimizer"])
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
