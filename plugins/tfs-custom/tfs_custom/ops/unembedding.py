"""Unembedding: from the features at a position to a score, called logit, for each token of the vocabulary.

Press & Wolf (2017), "Using the Output Embedding to Improve Language Models", https://arxiv.org/abs/1608.05859

The table is that of the token embedding (tied weights): a token gets a high logit where the features point in the
direction of the token's vector. So the table has a gradient from both ends of the model, and the two are added.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence
    d_model     width of the residual stream
    vocab_size  token types, the rows of the table
"""

from typing import NamedTuple

from torch import Tensor

from tfs_custom.ops.matrix_product import matrix_product


class UnembeddingCache(NamedTuple):
    """The tensors of the forward pass that the backward pass needs."""

    x: Tensor  # [batch_size, seq_len, d_model]
    table: Tensor  # [vocab_size, d_model]


def unembedding_forward(x: Tensor, table: Tensor) -> tuple[Tensor, UnembeddingCache]:
    """Return the logits `x @ table.T` [batch_size, seq_len, vocab_size], and the cache for `unembedding_backward`.

    x is [batch_size, seq_len, d_model], the table [vocab_size, d_model].
    """
    logits = matrix_product(x, table.mT)  # [batch_size, seq_len, vocab_size]
    return logits, UnembeddingCache(x, table)


def unembedding_backward(grad_logits: Tensor, cache: UnembeddingCache) -> tuple[Tensor, Tensor]:
    """Return (grad_x, grad_table), given grad_logits [batch_size, seq_len, vocab_size].

    This is a linear layer without a bias, with the gradients that are derived in `linear.py`: the table is used at all
    positions of all sequences, so its gradient is summed over them.

        dL/dx = dL/dlogits @ table          dL/dtable = dL/dlogits.T @ x

    With numbers: one position, two features, two tokens
        >>> table = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> logits, cache = unembedding_forward(torch.tensor([[[1.0, 2.0]]]), table)
        >>> logits
        tensor([[[11.,  2.]]])
        >>> grad_x, grad_table = unembedding_backward(torch.tensor([[[1.0, -1.0]]]), cache)
        >>> grad_x
        tensor([[[3., 3.]]])
        >>> grad_table
        tensor([[ 1.,  2.],
                [-1., -2.]])
    """
    x, table = cache

    # Forward was: logits = x @ table.T
    x_rows = x.flatten(0, 1)  # [batch_size*seq_len, d_model]
    grad_rows = grad_logits.flatten(0, 1)  # [batch_size*seq_len, vocab_size]
    grad_table = matrix_product(grad_rows.mT, x_rows)  # [vocab_size, d_model]
    grad_x = matrix_product(grad_logits, table)  # [batch_size, seq_len, d_model]
    return grad_x, grad_table
