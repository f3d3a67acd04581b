"""Gradient accumulation: a parameter's gradient is the sum over all its uses.

Linnainmaa (1976), "Taylor expansion of the accumulated rounding error", https://doi.org/10.1007/BF01931367 (the chain
rule applied from the last operation to the first)

A parameter may be used twice in one pass (the token table is used at both ends of the model), and several micro-batches
may make one update. A small change of the parameter changes the loss through each of these uses, and the changes add
up.

With numbers: two uses, with the gradients (0.5, 0) and (0.25, 1)
    >>> parameter = torch.tensor([1.0, 2.0])
    >>> accumulate(parameter, torch.tensor([0.5, 0.0]))
    >>> accumulate(parameter, torch.tensor([0.25, 1.0]))
    >>> parameter.grad
    tensor([0.7500, 1.0000])
"""

from torch import Tensor


def accumulate(parameter: Tensor, gradient: Tensor) -> None:
    """Add `gradient`, of the same shape, to `parameter.grad`. The first gradient is stored without a copy."""
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
