"""Module: a part of the model, with parameters and submodules. What `torch.nn.Module` does, in plain Python.

A parameter is a plain tensor with `requires_grad` False: PyTorch records none of its uses. Our own
backward fills its `.grad`, where any optimizer and any gradient clipping of PyTorch finds it.
"""

from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor

from tfs_core.errors import CheckpointError

PARAMETER_DTYPES = (torch.float32, torch.float64)


class Module:
    """A part of the model. Attributes that are tensors are its parameters, those that are modules its submodules."""

    training: bool = True
    """True in training mode, where dropout is on."""

    def parts(self) -> Iterator[tuple[str, "Module"]]:
        """Iterate over (name, submodule) in the order of the attributes; modules in a list by index: `blocks.0`."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{index}", part) for index, part in enumerate(value))

    def modules(self) -> Iterator["Module"]:
        """Iterate over this module and all its submodules, nested ones included."""
        yield self
        for _, part in self.parts():
            yield from part.modules()

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, tensor), in the order of the attributes: `blocks.0.attention.query.weight`.

        The tensors have any shape.
        """
        yield from ((name, value) for name, value in vars(self).items() if isinstance(value, Tensor))
        for prefix, part in self.parts():
            yield from ((f"{prefix}.{name}", tensor) for name, tensor in part.named_parameters())

    def train(self, mode: bool = True) -> Self:
        """Switch training mode on or off. In training mode, dropout is on and layers store caches for backward."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Turn training mode off."""
        return self.train(False)

    @property
    def device(self) -> torch.device:
        """Return the device of the parameters."""
        return next(self.named_parameters())[1].device

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters, of any shape, by name: nothing else needs to be saved."""
        return dict(self.named_parameters())

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Copy the tensors, of any shape, in. Raises CheckpointError, and copies none, when names or shapes differ."""
        own = self.state_dict()
        wrong = [f"'{name}' is missing" for name in own if name not in state_dict]
        wrong += [f"'{name}' is no parameter of this model" for name in state_dict if name not in own]
        wrong += [
            f"'{name}' has shape {list(state_dict[name].shape)}, here it is {list(parameter.shape)}"
            for name, parameter in own.items()
            if name in state_dict and state_dict[name].shape != parameter.shape
        ]
        if wrong:
            more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise CheckpointError(
                f"custom: the saved weights do not fit the model: {'; '.join(wrong[:3])}{more}. "
                "Load them into a model with the configuration they were saved with."
            )
        for name, parameter in own.items():
            parameter.copy_(state_dict[name])

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Self:
        """Move and cast the parameters in place; set gradients to None. Raises ValueError for a dtype below float32."""
        if dtype not in PARAMETER_DTYPES:
            raise ValueError(
                f"custom: parameters are float32 or float64, not {dtype}: small updates would vanish in it. "
                "To compute in bfloat16 set model.dtype to bfloat16; the parameters stay float32."
            )
        for _, parameter in self.named_parameters():
            parameter.grad = None
            parameter.data = parameter.data.to(device=device, dtype=dtype)
        return self
