"""Gradient descent: a step downhill, and with momentum the steps before still count.

Polyak (1964), "Some methods of speeding up the convergence of iteration methods" (momentum),
https://doi.org/10.1016/0041-5553(64)90137-5
Sutskever et al. (2013), "On the importance of initialization and momentum in deep learning",
https://proceedings.mlr.press/v28/sutskever13.html (Nesterov's look ahead)

The numbers are those of `torch.optim.SGD` to the last digit, and so is its way: weight decay is added to the gradient.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tfs_custom.config import SGDByHandConfig
from tfs_custom.optimizers.groups import groups_by_decay


class SGDByHand(Optimizer):
    """For each parameter: against its gradient, by the learning rate times its size."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # torch's own may also take a closure, which nobody here has
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, group)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Change one parameter in place."""
        learning_rate, weight_decay, momentum = group["lr"], group["weight_decay"], group["momentum"]

        # 1. Weight decay: the slope of weight_decay / 2 * p^2, which pulls p toward 0
        direction = torch.add(gradient, parameter, alpha=weight_decay) if weight_decay else gradient

        # 2. Momentum: what all earlier directions left over, each momentum times as much as the one after it
        if momentum:
            state = self.state[parameter]
            velocity = momentum * state["velocity"] + direction if state else direction.clone()
            state["velocity"] = velocity
            # Nesterov: take the direction once more where the velocity is about to lead
            direction = torch.add(direction, velocity, alpha=momentum) if group["nesterov"] else velocity

        # 3. p = p - learning_rate * direction
        parameter.copy_(torch.add(parameter, direction, alpha=-learning_rate))


def build(
    config: SGDByHandConfig,
    *,
    named_parameters: Iterable[tuple[str, Tensor]],
    learning_rate: float,
    weight_decay: float,
) -> SGDByHand:
    """Return the optimizer of these parameters; only matrices decay."""
    groups = groups_by_decay(named_parameters, weight_decay)
    return SGDByHand(groups, {"lr": learning_rate, "momentum": config.momentum, "nesterov": config.nesterov})
