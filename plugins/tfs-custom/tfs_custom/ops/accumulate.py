"""Accumulation: a parameter's gradient is the sum of all that arrives for it.

Linnainmaa (1976), "Taylor expansion of the accumulated rounding error", https://doi.org/10.1007/BF01931367 (the chain
rule from the last operation to the first)

A parameter may be used twice in one pass (the token table at both ends), and several batches may make one update. A
nudge to it moves the loss through each of its uses, and the effects add up.
"""

from torch import Tensor


def accumulate(parameter: Tensor, gradient: Tensor) -> None:
    """Add `gradient`, of the same shape, to `parameter.grad`, or make it the first."""
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
