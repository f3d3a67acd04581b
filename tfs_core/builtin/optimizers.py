"""AdamW and SGD from torch, with weight decay on matrices only.

Parameters may have any shape. A matrix is a parameter with two or more dimensions, embeddings included. Biases and the
gains of norms are not decayed: pulling them toward zero shifts the function without limiting its complexity.

On CPU and CUDA one fused kernel makes the update. It is faster, and bit-identical when repeated on the same machine
with the same number of threads.

The options raise ValueError for invalid values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor
    from torch.optim import Optimizer

FUSED_ON = {"cpu", "cuda"}


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """The options of AdamW."""

    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates (beta1, beta2) of the exponential moving averages of the gradient and of its square. beta2 = 0.95
    follows the changing gradients of a language model better than the usual 0.999; go higher for very small batches."""

    eps: float = 1e-8
    """Added to the denominator (the root of the mean squared gradient), so that a tiny gradient makes no large step."""

    def __post_init__(self) -> None:
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, not {list(self.betas)}")
        if self.eps < 0.0:
            raise ValueError(f"eps must be at least 0, not {self.eps}")


@dataclass(frozen=True, kw_only=True)
class SGDConfig:
    """The options of gradient descent."""

    momentum: float = 0.0
    """Each update direction is the gradient plus `momentum` times the last direction. 0 for none; 0.9 is usual."""

    nesterov: bool = False
    """Nesterov momentum: look ahead along the momentum before the gradient is applied. Needs a momentum above 0."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum}")
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum above 0, such as 0.9")


def adamw(
    config: AdamWConfig, *, named_parameters: Iterable[tuple[str, Tensor]], learning_rate: float, weight_decay: float
) -> Optimizer:
    """Return AdamW, which divides each parameter's step by the root of the running average of its squared gradient.

    Kingma & Ba (2015), "Adam: A Method for Stochastic Optimization", https://arxiv.org/abs/1412.6980
    Loshchilov & Hutter (2019), "Decoupled Weight Decay Regularization", https://arxiv.org/abs/1711.05101
    """
    from torch.optim import AdamW

    groups, fused = _groups(named_parameters, weight_decay)
    return AdamW(groups, lr=learning_rate, betas=config.betas, eps=config.eps, fused=fused)


def sgd(
    config: SGDConfig, *, named_parameters: Iterable[tuple[str, Tensor]], learning_rate: float, weight_decay: float
) -> Optimizer:
    """Return stochastic gradient descent, with momentum if it is configured.

    Polyak (1964), "Some methods of speeding up the convergence of iteration methods" (momentum),
    https://doi.org/10.1016/0041-5553(64)90137-5
    Sutskever et al. (2013), "On the importance of initialization and momentum in deep learning",
    https://proceedings.mlr.press/v28/sutskever13.html
    """
    from torch.optim import SGD

    groups, fused = _groups(named_parameters, weight_decay)
    return SGD(groups, lr=learning_rate, momentum=config.momentum, nesterov=config.nesterov, fused=fused)


def _groups(
    named_parameters: Iterable[tuple[str, Tensor]], weight_decay: float
) -> tuple[list[dict[str, Any]], bool]:  # Any: torch's type of a group
    """Return the parameter groups with and without weight decay, and whether a fused kernel can update them."""
    from torch.nn import Parameter

    # A Parameter without requires_grad is frozen. A plain tensor without it belongs to a model with its own backward,
    # which needs no autograd: it is trained.
    parameters = [tensor for _, tensor in named_parameters if tensor.requires_grad or not isinstance(tensor, Parameter)]
    matrices = [parameter for parameter in parameters if parameter.dim() >= 2]
    others = [parameter for parameter in parameters if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type in FUSED_ON for parameter in parameters)
    return [group for group in groups if group["params"]], fused
