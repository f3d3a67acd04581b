"""Residual connection: a part of a block does not replace x, it adds to x.

He et al. (2015), "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence
    d_model     width of the residual stream, the x that every block reads and adds to
"""

from torch import Tensor


def residual_forward(x: Tensor, branch: Tensor) -> tuple[Tensor, None]:
    """Return x + branch, all [batch_size, seq_len, d_model], as a new tensor, and None: the backward needs no cache.

    Never `x += branch`: an operation that has x in its cache would then read the changed numbers in the backward pass.
    Layer norm, which comes before every branch, keeps `normalized` and is not affected. A layer norm that keeps x, as
    in `faults.py`, would return wrong gradients, while the loss goes on falling.
    """
    output = x + branch  # [batch_size, seq_len, d_model]
    return output, None


def residual_backward(grad_output: Tensor, _cache: None) -> tuple[Tensor, Tensor]:
    """Return (grad_x, grad_branch), given grad_output, all [batch_size, seq_len, d_model].

    If x grows by a small amount, output = x + branch grows by the same amount, and likewise for branch. So both have
    the gradient of the output, unchanged:

        dL/dx = dL/doutput          dL/dbranch = dL/doutput

    The gradient is copied, not divided between the two. This is one reason why deep models can be trained: along x the
    gradient of the last block reaches the first block without being multiplied by anything.

    With numbers
        >>> output, cache = residual_forward(torch.tensor([[[1.0, 2.0]]]), branch=torch.tensor([[[10.0, 20.0]]]))
        >>> output
        tensor([[[11., 22.]]])
        >>> residual_backward(torch.tensor([[[5.0, 6.0]]]), cache)
        (tensor([[[5., 6.]]]), tensor([[[5., 6.]]]))
    """
    # Forward was: output = x + branch
    return grad_output, grad_output
