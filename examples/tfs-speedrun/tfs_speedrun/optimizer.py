"""The optimizer of the speed run: three update rules for three kinds of parameters.

    hidden matrices   Muon: the orthogonalized moving average of the gradient, all singular values about 1
    n-gram tables     plain gradient descent: a row changes only when it is used, in proportion to its gradient
    all others        AdamW

Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks", https://kellerjordan.github.io/posts/muon/

Shapes in this file
    n_matrices     matrices of one shape, updated together
    rows, columns  of each of them; n_short is the smaller of the two, n_long the larger
"""

from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from tfs_speedrun.config import SpeedrunOptimizerConfig

COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Coefficients (a, b, c) of the polynomial a s + b s^3 + c s^5 that each step applies to every singular value s. They
differ by step: first steep at 0, so that small values grow, then flat at 1. From the record runs of modded-nanogpt,
https://github.com/KellerJordan/modded-nanogpt"""

ADAMW_EPS = 1e-10
FUSED_ON = {"cpu", "cuda"}


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return approximately U Y^T for each matrix U S Y^T [n_matrices, rows, columns]: all singular values about 1.

    Newton-Schulz iteration in bfloat16: its precision is enough for the direction of an update, and it is twice as fast
    on processors that multiply bfloat16.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices  # [n_matrices, n_short, n_long]
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)  # [n_matrices, n_short, n_long]
    x = x.bfloat16()  # [n_matrices, n_short, n_long]
    for a, b, c in COEFFICIENTS:
        gram = torch.bmm(x, x.mT)  # [n_matrices, n_short, n_short]
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # [n_matrices, n_short, n_short]
        x = torch.baddbmm(x, factor, x, beta=a)  # [n_matrices, n_short, n_long]
    result = x.mT if tall else x  # [n_matrices, rows, columns]
    return result.to(matrices.dtype)


class SpeedrunOptimizer(Optimizer):
    """An optimizer that updates each parameter group by its `rule`: `muon`, `sgd` or `adamw`."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # torch's own also takes a closure, unused here
        """Update every parameter that has a gradient."""
        update = {"muon": self.update_by_muon, "sgd": self.update_by_sgd, "adamw": self.update_by_adamw}
        for group in self.param_groups:
            trained = [(p, p.grad) for p in group["params"] if p.grad is not None]
            update[group["rule"]](trained, group)

    def update_by_muon(self, trained: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        """Move each matrix along its orthogonalized average gradient; matrices of one shape are batched."""
        by_shape: defaultdict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, gradient in trained:
            by_shape[tuple(parameter.shape)].append((parameter, gradient))
        for (rows, columns), same_shape in by_shape.items():
            directions = []
            for parameter, gradient in same_shape:
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                mean = state["mean"].lerp_(gradient, 1.0 - group["momentum"])  # [rows, columns]
                directions.append(gradient.lerp(mean, group["momentum"]))  # Nesterov: mixed in again
            updates = orthogonalize(torch.stack(directions))  # [n_matrices, rows, columns]
            step_size = group["lr"] * max(1.0, rows / columns) ** 0.5
            for (parameter, _), update in zip(same_shape, updates, strict=True):
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-step_size)

    def update_by_sgd(self, trained: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        """Move each parameter against its gradient."""
        for parameter, gradient in trained:
            parameter.add_(gradient, alpha=-group["lr"])

    def update_by_adamw(self, trained: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        """Update parameters as `torch.optim.AdamW` does, with the fused kernel where there is one.

        Loshchilov & Hutter (2019), "Decoupled Weight Decay Regularization", https://arxiv.org/abs/1711.05101
        """
        for parameter, _ in trained:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device if group["fused"] else "cpu"),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter, _ in trained]
        adamw(
            [parameter for parameter, _ in trained],
            [gradient for _, gradient in trained],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=ADAMW_EPS,
            maximize=False,
        )


def build(
    config: SpeedrunOptimizerConfig,
    *,
    named_parameters: Iterable[tuple[str, Tensor]],
    learning_rate: float,
    weight_decay: float,
) -> SpeedrunOptimizer:
    """Return the optimizer of these parameters in up to three groups, one per rule. Only `muon` has weight decay."""
    by_rule: dict[str, list[Tensor]] = {"muon": [], "sgd": [], "adamw": []}
    for name, parameter in named_parameters:
        if any(fnmatchcase(name, pattern) for pattern in config.sgd_parameters):
            rule = "sgd"
        elif parameter.dim() != 2 or any(fnmatchcase(name, pattern) for pattern in config.adamw_parameters):
            rule = "adamw"
        else:
            rule = "muon"
        by_rule[rule].append(parameter)
    fused = all(parameter.device.type in FUSED_ON for parameters in by_rule.values() for parameter in parameters)
    groups = [
        {
            "rule": "muon",
            "params": by_rule["muon"],
            "lr": learning_rate,
            "weight_decay": weight_decay,
            "momentum": config.momentum,
        },
        {"rule": "sgd", "params": by_rule["sgd"], "lr": learning_rate * config.sgd_rate_ratio},
        {
            "rule": "adamw",
            "params": by_rule["adamw"],
            "lr": learning_rate * config.adamw_rate_ratio,
            "weight_decay": 0.0,
            "betas": config.betas,
            "fused": fused,
        },
    ]
    return SpeedrunOptimizer([group for group in groups if group["params"]], {})
