"""Linear layer: every output feature is a weighted sum of all input features, plus a bias.

Rumelhart, Hinton & Williams (1986), "Learning representations by back-propagating errors",
https://www.nature.com/articles/323533a0

Shapes in this file
    batch_size    sequences in the batch
    seq_len       positions in each sequence; every position goes through the same weights
    in_features   input features at each position
    out_features  output features at each position
"""

from typing import NamedTuple

from torch import Tensor

from tfs_custom.ops.matrix_product import matrix_product


class LinearCache(NamedTuple):
    """The tensors of the forward pass that the backward pass needs."""

    x: Tensor  # [batch_size, seq_len, in_features]
    weight: Tensor  # [out_features, in_features]


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, LinearCache]:
    """Return `x @ weight.T + bias` [batch_size, seq_len, out_features], and the cache for `linear_backward`.

    x is [batch_size, seq_len, in_features], `bias` [out_features]. A row of `weight` [out_features, in_features] holds
    the factors of one output feature.
    """
    weighted_sums = matrix_product(x, weight.mT)  # [batch_size, seq_len, out_features]
    output = weighted_sums + bias  # [batch_size, seq_len, out_features]
    return output, LinearCache(x, weight)


def linear_backward(grad_output: Tensor, cache: LinearCache) -> tuple[Tensor, Tensor, Tensor]:
    """Return (grad_x, grad_weight, grad_bias), given grad_output [batch_size, seq_len, out_features].

    At one position, with o counting output features and i counting input features,

        output[o] = (sum over i of  x[i] * weight[o, i]) + bias[o]

    bias[o] is a term of output[o]: its gradient is that of output[o]. weight[o, i] is multiplied by x[i]: its gradient
    is x[i] times that of output[o]. x[i] is used in every output[o], multiplied by weight[o, i]: its gradient is a sum
    over o. Weights and bias are used at every position of every sequence, so their gradients are sums over all
    positions as well:

        dL/dbias[o]      = sum over positions of  dL/doutput[o]
        dL/dweight[o, i] = sum over positions of  dL/doutput[o] * x[i]
        dL/dx[i]         = sum over o of          dL/doutput[o] * weight[o, i]

    The last two sums are matrix products, by the rule in `matrix_product.py`.

    With numbers: two positions, two input features, one output feature
        >>> x = torch.tensor([[[1.0, 2.0], [10.0, 0.0]]])
        >>> output, cache = linear_forward(x, weight=torch.tensor([[3.0, 4.0]]), bias=torch.tensor([0.5]))
        >>> output
        tensor([[[11.5000],
                 [30.5000]]])
        >>> grad_x, grad_weight, grad_bias = linear_backward(torch.tensor([[[1.0], [2.0]]]), cache)
        >>> grad_x
        tensor([[[3., 4.],
                 [6., 8.]]])
        >>> grad_weight, grad_bias
        (tensor([[21.,  2.]]), tensor([3.]))
    """
    x, weight = cache

    # Forward was: output = weighted_sums + bias
    grad_bias = grad_output.sum(dim=(0, 1))  # [out_features]

    # Forward was: weighted_sums = x @ weight.T
    # The gradient of the weights is a sum over the positions of all sequences: put them in one long list.
    x_rows = x.flatten(0, 1)  # [batch_size*seq_len, in_features]
    grad_rows = grad_output.flatten(0, 1)  # [batch_size*seq_len, out_features]
    grad_weight = matrix_product(grad_rows.mT, x_rows)  # [out_features, in_features]
    grad_x = matrix_product(grad_output, weight)  # [batch_size, seq_len, in_features]
    return grad_x, grad_weight, grad_bias
