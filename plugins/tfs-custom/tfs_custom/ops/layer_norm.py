"""Layer normalization: the features of every position are rescaled to zero mean and unit variance.

Ba, Kiros & Hinton (2016), "Layer Normalization", https://arxiv.org/abs/1607.06450

However large or small x has become on its way through the blocks, the next part receives it at one scale. A learned
gain and a learned bias, one number each for every feature, then choose the scale and the offset that this part works
best with.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence
    d_model     features at each position (the axis that is normalized)
"""

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5
"""Added to the variance, so that a row of equal numbers, whose variance is 0, is not divided by zero."""


class LayerNormCache(NamedTuple):
    """The tensors of the forward pass that the backward pass needs."""

    normalized: Tensor  # [batch_size, seq_len, d_model]
    inverse_std: Tensor  # [batch_size, seq_len, 1]
    gain: Tensor  # [d_model]


def layer_norm_forward(x: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, LayerNormCache]:
    """Return `gain * normalized + bias` [batch_size, seq_len, d_model], and the cache for `layer_norm_backward`.

    x has the same shape; gain and bias are [d_model].
    """
    # 1. Subtract the mean of the position's features
    mean = x.mean(dim=-1, keepdim=True)  # [batch_size, seq_len, 1]
    centered = x - mean  # [batch_size, seq_len, d_model]

    # 2. Divide by their standard deviation
    variance = (centered * centered).mean(dim=-1, keepdim=True)  # [batch_size, seq_len, 1]
    inverse_std = torch.rsqrt(variance + EPSILON)  # [batch_size, seq_len, 1]
    normalized = centered * inverse_std  # [batch_size, seq_len, d_model]

    # 3. Apply the learned scale and offset of each feature
    output = gain * normalized + bias  # [batch_size, seq_len, d_model]
    return output, LayerNormCache(normalized, inverse_std, gain)


def layer_norm_backward(grad_output: Tensor, cache: LayerNormCache) -> tuple[Tensor, Tensor, Tensor]:
    """Return (grad_x, grad_gain, grad_bias), given grad_output [batch_size, seq_len, d_model].

    Write g for dL/doutput, x_hat for `normalized` and s for `inverse_std`, all at one position.

    Step 3, output[i] = gain[i] * x_hat[i] + bias[i], is a product and a sum:

        dL/dbias[i] = g[i]          dL/dgain[i] = g[i] * x_hat[i]          dL/dx_hat[i] = g[i] * gain[i]

    and since gain and bias are used at every position, their gradients are summed over all positions.

    Steps 1 and 2, x_hat[j] = (x[j] - mean) * s. Write h[j] for dL/dx_hat[j] = g[j] * gain[j], and d for d_model. x[i]
    changes the loss along three paths, because the mean and the variance depend on it too:

        path                  effect on x_hat                                        term of dL/dx[i]
        directly              x_hat[i] changes by s                                   s * h[i]
        through the mean      dmean/dx[i] = 1/d, so every x_hat[j] changes by -s/d   -s * mean(h)
        through the variance  derived below                                          -s * x_hat[i] * mean(h * x_hat)

    with each mean taken over the d features. dL/dx[i] is the sum of the three:

        dL/dx = s * (h - mean(h) - x_hat * mean(h * x_hat))

    The third path. The variance is v = (sum over j of centered[j]^2) / d, so dv/dx[i] = 2 * centered[i] / d (the
    mean inside `centered` depends on x[i] too, but this adds nothing, because `centered` sums to 0).
    s = (v + epsilon)^(-1/2), so ds/dv = -1/2 * (v + epsilon)^(-3/2) = -s^3 / 2. And x_hat[j] = centered[j] * s, so
    dx_hat[j]/ds = centered[j]. The chain rule multiplies the three derivatives, and the sum over j collects every x_hat
    that changes:

        sum over j of  h[j] * centered[j] * (-s^3 / 2) * (2 * centered[i] / d)
            = -s * (centered[i] * s) * (sum over j of h[j] * (centered[j] * s)) / d
            = -s * x_hat[i] * mean(h * x_hat)

    With numbers: mean 1, variance 1, so x_hat is (-1, -1, 1, 1) and s is 1
        >>> x, gain = torch.tensor([[[0.0, 0.0, 2.0, 2.0]]]), torch.tensor([2.0, 1.0, 1.0, 1.0])
        >>> output, cache = layer_norm_forward(x, gain, bias=torch.zeros(4))
        >>> output
        tensor([[[-2.0000, -1.0000,  1.0000,  1.0000]]])
        >>> grad_x, grad_gain, grad_bias = layer_norm_backward(torch.tensor([[[1.0, 0.0, 0.0, 1.0]]]), cache)

    g is (1, 0, 0, 1), h is (2, 0, 0, 1) with mean 3/4, h * x_hat is (-2, 0, 0, 1) with mean -1/4
        >>> grad_x
        tensor([[[ 1.0000, -1.0000, -0.5000,  0.5000]]])
        >>> grad_gain, grad_bias
        (tensor([-1.0000,  0.0000,  0.0000,  1.0000]), tensor([1., 0., 0., 1.]))
    """
    normalized, inverse_std, gain = cache

    # 3. Forward was: output = gain * normalized + bias
    grad_bias = grad_output.sum(dim=(0, 1))  # [d_model]
    grad_gain = (grad_output * normalized).sum(dim=(0, 1))  # [d_model]
    grad_normalized = grad_output * gain  # [batch_size, seq_len, d_model]

    # 2. and 1. Forward was: normalized = (x - mean) * inverse_std
    mean_term = grad_normalized.mean(dim=-1, keepdim=True)  # [batch_size, seq_len, 1]
    variance_term = (grad_normalized * normalized).mean(dim=-1, keepdim=True)  # [batch_size, seq_len, 1]
    grad_x = inverse_std * (grad_normalized - mean_term - normalized * variance_term)  # [batch_size, seq_len, d_model]
    return grad_x, grad_gain, grad_bias
