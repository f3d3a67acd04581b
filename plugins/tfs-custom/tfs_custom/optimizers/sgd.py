"""Stochastic gradient descent (SGD): a step against the gradient or, with momentum, a decaying sum of gradients.

Robbins & Monro (1951), "A Stochastic Approximation Method", https://doi.org/10.1214/aoms/1177729586
Polyak (1964), "Some methods of speeding up the convergence of iteration methods" (momentum),
https://doi.org/10.1016/0041-5553(64)90137-5
Sutskever et al. (2013), "On the importance of initialization and momentum in deep learning",
https://proceedings.mlr.press/v28/sutskever13.html (Nesterov momentum)

The numbers are those of `torch.optim.SGD` to the last digit. As in PyTorch, weight decay is added to the gradient.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tfs_custom.config import SGDByHandConfig
from tfs_custom.optimizers.groups import groups_by_decay


class SGDByHand(Optimizer):
    """Subtract learning rate * direction: the gradient, or with momentum a decaying sum of gradients."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # torch's takes a closure, too
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, group)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Change one parameter, of any shape, in place; `gradient` has the same shape.

        With numbers: two steps with momentum 0.9 and the gradient 1. The second step is longer: 0.1 * (0.9 + 1)
            >>> parameter = torch.tensor([1.0])
            >>> optimizer = SGDByHand([parameter], {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0})
            >>> parameter.grad = torch.tensor([1.0])
            >>> optimizer.step()
            >>> parameter
            tensor([0.9000])
            >>> optimizer.step()
            >>> parameter
            tensor([0.7100])
        """
        learning_rate, weight_decay, momentum = group["lr"], group["weight_decay"], group["momentum"]

        # 1. Weight decay: weight_decay * p is the gradient of weight_decay / 2 * p^2, which is smallest at p = 0
        direction = torch.add(gradient, parameter, alpha=weight_decay) if weight_decay else gradient

        # 2. Momentum: a sum of all earlier directions; the one of k steps ago has the weight momentum**k
        if momentum:
            state = self.state[parameter]
            velocity = momentum * state["velocity"] + direction if state else direction.clone()
            state["velocity"] = velocity
            # Nesterov: add the next momentum step to the gradient in advance
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
    """Return the optimizer of these parameters, of any shape; only matrices decay."""
    groups = groups_by_decay(named_parameters, weight_decay)
    return SGDByHand(groups, {"lr": learning_rate, "momentum": config.momentum, "nesterov": config.nesterov})
