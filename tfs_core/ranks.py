"""`contracts.Ranks` for a run with a single process. Plugins may implement it for several processes."""

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
    """A single process: communication is a no-op, and a checkpoint's tensors are in two files."""

    rank = 0
    size = 1

    def sum(self, values: Tensor) -> Tensor:
        """Return the values unchanged: there is only one process."""
        return values

    def last_micro_batch(self, is_last: bool) -> None:
        """Do nothing: gradients need no synchronization."""

    def finish_gradients(self, parameters: Sequence[Tensor]) -> Tensor:
        """Return the norm of the gradient over all parameters: []."""
        return torch.nn.utils.get_total_norm([it.grad for it in parameters if it.grad is not None])

    def save(self, folder: Path, model: LanguageModel, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
        """Write `model.safetensors` and `optimizer.safetensors`. Return the parts that are not tensors, as JSON values.

        Raises TrainingError for weights that are not finite, and CheckpointError for optimizer state that is neither a
        tensor nor JSON.
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
        """Load weights and optimizer state. Raises CheckpointError when names or shapes do not match the model's."""
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
