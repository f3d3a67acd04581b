"""GELU: the nonlinearity of the feed-forward part. Without it, the two linear layers would equal a single one.

Hendrycks & Gimpel (2016), "Gaussian Error Linear Units", https://arxiv.org/abs/1606.08415

    gelu(x) = x * gate(x)

The gate is near 1 for large positive x, near 0 for large negative x, and 1/2 at 0. It has two forms:

    exact  gate(x) = Phi(x), the probability that a standard normal variable is below x:
           Phi(x) = (1 + erf(x / sqrt(2))) / 2

    tanh   gate(x) = (1 + tanh(u)) / 2,   u = sqrt(2 / pi) * (x + 0.044715 * x^3)

The second is an approximation of the first, from the paper; GPT-2 uses it. Why tanh? tanh(u) is a smooth step from -1
to 1, so (1 + tanh(u)) / 2 is a smooth step from 0 to 1, as the gate must be. It is the sigmoid of z = 2u, which is how
it is computed here:

    tanh(u) = (1 - exp(-2u)) / (1 + exp(-2u)),   so   (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)) = sigmoid(z)

The factor sqrt(2 / pi) gives both gates the same slope at 0, and 0.044715 was fitted to bring the curves together
elsewhere: the two GELUs differ by less than 5e-4. Each form has a derivative of its own, and a model that was trained
with one form must be used with that form.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence
    d_ffn       hidden width of the feed-forward part (any axes would do: each number is handled by itself)
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

GeluForm = Literal["tanh", "exact"]

CUBIC = 0.044715
"""The factor of x^3 in the tanh form, from the paper."""


class GeluCache(NamedTuple):
    """The tensors of the forward pass that the backward pass needs."""

    x: Tensor  # [batch_size, seq_len, d_ffn]
    gate: Tensor  # [batch_size, seq_len, d_ffn]
    form: GeluForm


def exact_gate(x: Tensor) -> Tensor:
    """Return Phi(x), of x [batch_size, seq_len, d_ffn]."""
    gate = (1.0 + torch.erf(x / math.sqrt(2.0))) / 2.0  # [batch_size, seq_len, d_ffn]
    return gate


def tanh_gate(x: Tensor) -> Tensor:
    """Return (1 + tanh(u)) / 2 = sigmoid(z), z = 2u, of x [batch_size, seq_len, d_ffn]."""
    z = 2.0 * math.sqrt(2.0 / math.pi) * (x + CUBIC * x * x * x)  # [batch_size, seq_len, d_ffn]
    gate = torch.sigmoid(z)  # [batch_size, seq_len, d_ffn]
    return gate


def gelu_forward(x: Tensor, form: GeluForm) -> tuple[Tensor, GeluCache]:
    """Return `x * gate(x)` [batch_size, seq_len, d_ffn], and the cache for `gelu_backward`."""
    gate = exact_gate(x) if form == "exact" else tanh_gate(x)  # [batch_size, seq_len, d_ffn]
    output = x * gate  # [batch_size, seq_len, d_ffn]
    return output, GeluCache(x, gate, form)


def gelu_backward(grad_output: Tensor, cache: GeluCache) -> Tensor:
    """Return grad_x, given grad_output, both [batch_size, seq_len, d_ffn].

    x occurs twice in x * gate(x). By the product rule,

        d gelu/dx = gate(x) + x * dgate/dx          dL/dx = dL/doutput * d gelu/dx

    exact: dgate/dx is the density of the standard normal distribution, since Phi is its integral up to x:

        dPhi/dx = exp(-x^2 / 2) / sqrt(2 * pi)

    tanh: the derivative of sigmoid(z) = 1 / (1 + exp(-z)) is exp(-z) / (1 + exp(-z))^2 = sigmoid(z) * (1 - sigmoid(z)),
    and by the chain rule it is multiplied by dz/dx:

        dgate/dx = gate * (1 - gate) * dz/dx          dz/dx = 2 * sqrt(2 / pi) * (1 + 3 * 0.044715 * x^2)

    With numbers: at x = 0 the gate is 1/2; at x = 1 Phi is 0.8413 and the density is 0.2420
        >>> output, cache = gelu_forward(torch.tensor([[[0.0, 1.0]]]), "exact")
        >>> output
        tensor([[[0.0000, 0.8413]]])
        >>> gelu_backward(torch.tensor([[[1.0, 1.0]]]), cache)
        tensor([[[0.5000, 1.0833]]])

    The tanh form at x = 1: u = 0.8336, gate = sigmoid(1.6671) = 0.8412, dz/dx = 1.8099
        >>> output, cache = gelu_forward(torch.tensor([[[0.0, 1.0]]]), "tanh")
        >>> output
        tensor([[[0.0000, 0.8412]]])
        >>> gelu_backward(torch.tensor([[[1.0, 1.0]]]), cache)
        tensor([[[0.5000, 1.0830]]])
    """
    x, gate, form = cache

    # Forward was: output = x * gate(x)
    if form == "exact":
        gate_slope = torch.exp(-x * x / 2.0) / math.sqrt(2.0 * math.pi)  # [batch_size, seq_len, d_ffn]
    else:
        z_slope = 2.0 * math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * CUBIC * x * x)  # [batch_size, seq_len, d_ffn]
        gate_slope = gate * (1.0 - gate) * z_slope  # [batch_size, seq_len, d_ffn]
    grad_x = grad_output * (gate + x * gate_slope)  # [batch_size, seq_len, d_ffn]
    return grad_x
