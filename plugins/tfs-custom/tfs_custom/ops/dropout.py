"""Dropout: in training, a random share of the activations is set to zero, so that the model relies on no single one.

Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
https://jmlr.org/papers/v15/srivastava14a.html

Shapes in this file
    ...  any shape: each number is dropped or kept independently
"""

from typing import NamedTuple

import torch
from torch import Tensor


class DropoutCache(NamedTuple):
    """The mask that was drawn, for the backward pass."""

    scaled_mask: Tensor | None  # [...], 0 where dropped and 1 / (1 - rate) where kept; None when nothing was dropped


def dropout_forward(x: Tensor, rate: float) -> tuple[Tensor, DropoutCache]:
    """Return x (any shape) with a share `rate` of its numbers set to zero and the others scaled up, and the cache.

    Each number is kept with probability 1 - rate, drawn from torch's global random state. Dividing the kept numbers by
    1 - rate preserves the expected value of each, so that nothing needs to be rescaled when dropout is off. With rate 0
    nothing is drawn and x itself is returned.
    """
    if rate == 0.0:
        return x, DropoutCache(scaled_mask=None)
    mask = torch.empty_like(x).bernoulli_(1.0 - rate)  # [...]
    scaled_mask = mask / (1.0 - rate)  # [...]
    output = x * scaled_mask  # [...]
    return output, DropoutCache(scaled_mask)


def dropout_backward(grad_output: Tensor, cache: DropoutCache) -> Tensor:
    """Return grad_x, of the same shape as grad_output.

    The forward pass multiplied each number by a constant, 0 or 1 / (1 - rate). The gradient of a number that was
    multiplied by a constant is the gradient of the product times the same constant:

        dL/dx = dL/doutput * scaled_mask

    It must be the mask that the forward pass drew. A new one would give the gradient of another function.

    With numbers: rate 1/2, the second number was dropped
        >>> cache = DropoutCache(scaled_mask=torch.tensor([2.0, 0.0, 2.0]))
        >>> dropout_backward(torch.tensor([1.0, 1.0, 0.5]), cache)
        tensor([2., 0., 1.])
    """
    if cache.scaled_mask is None:
        return grad_output
    # Forward was: output = x * scaled_mask
    grad_x = grad_output * cache.scaled_mask  # [...]
    return grad_x
