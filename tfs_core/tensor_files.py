"""Tensors of a checkpoint in safetensors files: weights, and optimizer state by parameter name.

Tensors may have any shape. State by name fits any model with the same parameter names, independent of their order. A
tensor of the optimizer is named `<state key>/<parameter>`, such as `exp_avg/final_norm.weight`; all other state is
stored as JSON values.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tfs_core.errors import CheckpointError

NOT_RESTORED = {"params", "lr", "fused", "foreach", "capturable"}
"""Options of a parameter group that are not restored: the schedule sets `lr`, and kernels depend on the machine."""


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file, readable and writable as its folder (the library's default: owner only)."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, by name. Raises CheckpointError when it cannot be read."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    return tensors


def distinct_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return ({name: tensor}, {tied name: name}): each distinct tensor once, and the other names of tied tensors.

    The tensors are contiguous and on the CPU.
    """
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


def describe_optimizer(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, JSON values).

    The tensors are named `<state key>/<parameter>`. The JSON values are `groups`, with the parameter names and options
    of each group, and `numbers`, with all other state of each parameter.

    Raises CheckpointError for state that is neither a tensor nor JSON.
    """
    names = {id(parameter): name for name, parameter in named_parameters}
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    groups = []
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key not in NOT_RESTORED}
        groups.append({"names": [names[id(parameter)] for parameter in group["params"]], "options": options})
        for parameter in group["params"]:
            name = names[id(parameter)]
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{key}/{name}"] = value
                else:
                    numbers.setdefault(name, {})[key] = value
    _require_json({"groups": groups, "numbers": numbers}, type(optimizer).__name__)
    return tensors, {"groups": groups, "numbers": numbers}


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, Tensor]],
    tensors: Mapping[str, Tensor],
    described: Mapping[str, Any],
) -> None:
    """Restore the state from `describe_optimizer`, each tensor on the device of its parameter.

    Raises CheckpointError when the parameter groups differ from those saved.
    """
    names = {id(parameter): name for name, parameter in named_parameters}
    state: dict[str, dict[str, Any]] = {name: dict(values) for name, values in described["numbers"].items()}
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition("/")
        state.setdefault(name, {})[key] = tensor

    packed = optimizer.state_dict()
    packed["state"] = {}
    if len(packed["param_groups"]) != len(described["groups"]):
        raise CheckpointError("the optimizer does not have as many parameter groups as the one in the checkpoint")
    for group, packed_group, saved in zip(
        optimizer.param_groups, packed["param_groups"], described["groups"], strict=True
    ):
        group_names = [names[id(parameter)] for parameter in group["params"]]
        if set(group_names) != set(saved["names"]):
            raise CheckpointError("the optimizer does not group its parameters like the one in the checkpoint")
        packed_group.update({key: _tuples(value) for key, value in saved["options"].items()})
        for index, name in zip(packed_group["params"], group_names, strict=True):
            if name in state:
                packed["state"][index] = state[name]
    optimizer.load_state_dict(packed)
    _undo_casts(optimizer, names, state)


def _undo_casts(optimizer: torch.optim.Optimizer, names: Mapping[int, str], saved: Mapping[str, Any]) -> None:
    """Restore the dtype of saved state: `load_state_dict` has cast it to the dtype of its parameter."""
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.dtype != (original := saved[names[id(parameter)]][key]).dtype:
                values[key] = original.to(value.device)


def _require_json(value: Any, optimizer: str, place: str = "") -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_json(item, optimizer, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _require_json(item, optimizer, f"{place}.{index}")
    elif not isinstance(value, bool | int | float | str | None):
        raise CheckpointError(
            f"the optimizer {optimizer} keeps a {type(value).__name__} in {place}, which a checkpoint cannot store: "
            "state must be a tensor per parameter, or numbers and strings"
        )


def _tuples(value: Any) -> Any:
    """Convert JSON lists back to tuples, such as `betas`: torch's optimizers have no options that are lists."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
