"""AdamW: in each step every number of a parameter moves by about the learning rate at most, however large its gradient.

Kingma & Ba (2015), "Adam: A Method for Stochastic Optimization", https://arxiv.org/abs/1412.6980 (algorithm 1)
Loshchilov & Hutter (2019), "Decoupled Weight Decay Regularization", https://arxiv.org/abs/1711.05101 (algorithm 2)

The numbers are those of `torch.optim.AdamW` to the last digit. That needs `lerp`, `addcmul` and `addcdiv`, which round
differently from a product followed by a sum; the comment above each gives the formula.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tfs_custom.config import AdamWByHandConfig
from tfs_custom.optimizers.groups import groups_by_decay


class AdamWByHand(Optimizer):
    """Moving average of the gradient, divided by the root of the moving average of its square, for each parameter."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # torch's takes a closure, too
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, group)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Change one parameter, of any shape, in place; `gradient` has the same shape.

        In the papers, p is parameter, g gradient, m mean, v mean_square, t step.

        With numbers: in the first step the parameter moves by the learning rate, whether its gradient is 100 or 0.01
            >>> parameter = torch.tensor([1.0, 1.0])
            >>> parameter.grad = torch.tensor([100.0, 0.01])
            >>> AdamWByHand([parameter], {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}).step()
            >>> parameter
            tensor([0.9000, 0.9000])
        """
        learning_rate, weight_decay, eps = group["lr"], group["weight_decay"], group["eps"]
        beta1, beta2 = group["betas"]
        state = self.state[parameter]
        if not state:
            state.update(step=0, mean=torch.zeros_like(parameter), mean_square=torch.zeros_like(parameter))
        step = state["step"] + 1

        # 1. Weight decay, decoupled from the gradient (the W of AdamW): the parameter shrinks a little
        # p = p * (1 - learning_rate * weight_decay)
        shrunk = parameter * (1.0 - learning_rate * weight_decay)

        # 2. Exponential moving average of the gradient, over about the last 1 / (1 - beta1) steps
        # m = beta1 * m + (1 - beta1) * g
        mean = torch.lerp(state["mean"], gradient, 1.0 - beta1)

        # 3. Exponential moving average of its square
        # v = beta2 * v + (1 - beta2) * g * g
        mean_square = torch.addcmul(beta2 * state["mean_square"], gradient, gradient, value=1.0 - beta2)

        # 4. Bias correction: the averages start at 0, so early values are too small, by a factor 1 - beta**t
        bias_correction1 = 1.0 - beta1**step
        bias_correction2 = 1.0 - beta2**step

        # 5. Update. The fraction has no unit: it is near 1 or -1 while the gradient keeps its sign, else closer to 0
        # p = p - learning_rate * (m / bias_correction1) / (sqrt(v / bias_correction2) + eps)
        denominator = mean_square.sqrt() / math.sqrt(bias_correction2) + eps
        parameter.copy_(torch.addcdiv(shrunk, mean, denominator, value=-learning_rate / bias_correction1))
        state.update(step=step, mean=mean, mean_square=mean_square)


def build(
    config: AdamWByHandConfig,
    *,
    named_parameters: Iterable[tuple[str, Tensor]],
    learning_rate: float,
    weight_decay: float,
) -> AdamWByHand:
    """Return the optimizer of these parameters, of any shape; only matrices decay."""
    groups = groups_by_decay(named_parameters, weight_decay)
    return AdamWByHand(groups, {"lr": learning_rate, "betas": config.betas, "eps": config.eps})
