"""The bundle of a training step that went wrong: a folder like a checkpoint's, with all that repeats the step.

It holds the weights before the update, finite or not, and the micro-batches; `state.json` names the documents.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tfs_core.checkpoint import CheckpointKeeper, save_checkpoint
from tfs_core.checkpoint_folder import checkpoint_name, list_checkpoints, remove_leftovers
from tfs_core.contracts import Batch, LanguageModel
from tfs_core.random_state import capture_random_state
from tfs_core.ranks import OneRank
from tfs_core.tensor_files import distinct_tensors, write_tensors


def torch_random_states(device: str) -> dict[str, Tensor]:
    """Return the states of torch's generators on the CPU and the device, within microseconds."""
    states = {"torch": torch.get_rng_state()}
    return states if device == "cpu" else {**states, device: torch.get_device_module(device).get_rng_state()}


class _StepTensors(OneRank):
    """Writes the weights, without the check that they are finite, and the micro-batches."""

    def __init__(self, micro_batches: Sequence[Batch]) -> None:
        self.micro_batches = micro_batches

    def save(self, folder: Path, model: LanguageModel, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:  # noqa: ARG002
        """Write `model.safetensors`, and `batches.safetensors` with names such as `0/input_ids`."""
        weights, tied = distinct_tensors(model.state_dict())
        write_tensors(weights, folder / "model.safetensors")
        parts = {f"{i}/{key}": value for i, it in enumerate(self.micro_batches) for key, value in vars(it).items()}
        tensors = {name: value.clone() for name, value in parts.items() if isinstance(value, Tensor)}  # views of one
        write_tensors(tensors, folder / "batches.safetensors")
        return {"tied": tied}


def save_step_bundle(
    keeper: CheckpointKeeper,
    step: int,
    *,
    model: LanguageModel,
    micro_batches: Sequence[Batch],
    random_states: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> Path:
    """Write `nonfinite/step-<step>` beside the checkpoints, delete the bundles of other steps, and return the folder.

    `random_states` are from `torch_random_states` before the step, `state` the other entries of `state.json`. Raises
    the errors of `save_checkpoint`.
    """
    folder = keeper.folder.with_name("nonfinite") / checkpoint_name(step)
    states = {key: [it.tolist()] if key == "cuda" else it.tolist() for key, it in random_states.items()}
    random_state = {**capture_random_state(), **states}
    remove_leftovers(folder.parent)
    save_checkpoint(
        folder,
        model=model,
        optimizer=None,
        state={**keeper.run_state(), **state, "random_state": random_state},
        config_yaml=keeper.config_yaml,
        tokenizer=keeper.tokenizer,
        ranks=_StepTensors(micro_batches),
    )
    for other in list_checkpoints(folder.parent):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder
