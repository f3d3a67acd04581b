"""Softmax: turns a row of scores into weights that are not negative and sum to 1.

Bridle (1989), "Training Stochastic Model Recognition Algorithms as Networks can Lead to Maximum Mutual Information
Estimation of Parameters", https://papers.nips.cc/paper/1989/hash/0336dcbab05b9d5ad24f4333c7658a0e-Abstract.html

    weight[i] = exp(score[i]) / (sum over j of exp(score[j]))

Shapes in this file
    ...     any leading axes: each row by itself
    n_keys  numbers in a row
"""

from typing import NamedTuple

import torch
from torch import Tensor


class SoftmaxCache(NamedTuple):
    """The weights, for the backward pass. The scores are not needed."""

    weights: Tensor  # [..., n_keys]


def softmax_forward(scores: Tensor) -> tuple[Tensor, SoftmaxCache]:
    """Return the softmax of each row [..., n_keys], and the cache for `softmax_backward`.

    In float32, exp(score) overflows for scores above 88. To avoid this, subtract the row's maximum from every score:
    numerator and denominator are multiplied by the same exp(-maximum), so the weights stay the same, but the largest
    exponent is now 0, and the denominator is at least 1. A score of -inf gets a weight of exactly 0.
    """
    row_max = scores.amax(dim=-1, keepdim=True)  # [..., 1]
    numerators = torch.exp(scores - row_max)  # [..., n_keys]
    denominators = numerators.sum(dim=-1, keepdim=True)  # [..., 1]
    weights = numerators / denominators  # [..., n_keys]
    return weights, SoftmaxCache(weights)


def softmax_backward(grad_weights: Tensor, cache: SoftmaxCache) -> Tensor:
    """Return grad_scores, given grad_weights, both [..., n_keys].

    Write n[i] = exp(score[i]) for the numerators and z = sum over j of n[j] for the denominator: weight[i] = n[i] / z.
    A change of score[j] changes the numerator n[j] (exp is its own derivative) and the denominator:

        dn[i]/dscore[j] = n[j] if i == j else 0          dz/dscore[j] = n[j]

    By the quotient rule, (n / z)' = (n' * z - n * z') / z^2,

        dweight[i]/dscore[j] = (n[j] * z if i == j else 0) / z^2  -  n[i] * n[j] / z^2
                             = (weight[j] if i == j else 0)  -  weight[i] * weight[j]

    score[j] changes every weight of its row, so its gradient is a sum over i:

        dL/dscore[j] = sum over i of  dL/dweight[i] * dweight[i]/dscore[j]
                     = weight[j] * (dL/dweight[j]  -  sum over i of dL/dweight[i] * weight[i])

    The last sum is the mean of the row's gradients, weighted by the row's own weights. The weights sum to 1, so they
    cannot all grow together: only the distance of dL/dweight[j] from this mean counts. (The maximum that the forward
    pass subtracts cancels in the fraction, so it has no gradient.)

    With numbers: scores 0 and log(3), weights 1/4 and 3/4
        >>> weights, cache = softmax_forward(torch.tensor([[0.0, math.log(3.0)]]))
        >>> weights
        tensor([[0.2500, 0.7500]])
        >>> softmax_backward(torch.tensor([[1.0, 0.0]]), cache)
        tensor([[ 0.1875, -0.1875]])
    """
    weights = cache.weights  # [..., n_keys]

    # Forward was: weights = exp(scores) / row sum of exp(scores)
    row_mean = (grad_weights * weights).sum(dim=-1, keepdim=True)  # [..., 1]
    grad_scores = weights * (grad_weights - row_mean)  # [..., n_keys]
    return grad_scores
