"""Embedding: every id selects a row of a table, the vector that the model has learned for this id.

Bengio et al. (2003), "A Neural Probabilistic Language Model", https://www.jmlr.org/papers/v3/bengio03a.html

Used twice: for tokens and for positions. The two vectors are added.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence
    n_rows      rows of the table: vocab_size for tokens, max_seq_len for positions
    d_model     numbers in a row
"""

from typing import NamedTuple

import torch
from torch import Tensor


class EmbeddingCache(NamedTuple):
    """The ids, for the backward pass. The vectors themselves are not needed."""

    ids: Tensor  # [batch_size, seq_len]
    n_rows: int


def positions_of(input_ids: Tensor) -> Tensor:
    """Return the position of every token in its sequence [batch_size, seq_len]: 0, 1, 2, ... in each row.

    `input_ids` have the same shape.
    """
    batch_size, seq_len = input_ids.shape
    counted = torch.arange(seq_len, device=input_ids.device)  # [seq_len]
    positions = counted.expand(batch_size, seq_len)  # [batch_size, seq_len]
    return positions


def embedding_forward(ids: Tensor, table: Tensor) -> tuple[Tensor, EmbeddingCache]:
    """Return the rows of `table` [n_rows, d_model] that the ids [batch_size, seq_len] select, and the cache."""
    output = table[ids]  # [batch_size, seq_len, d_model]
    return output, EmbeddingCache(ids, n_rows=table.shape[0])


def embedding_backward(grad_output: Tensor, cache: EmbeddingCache) -> Tensor:
    """Return grad_table [n_rows, d_model], given grad_output [batch_size, seq_len, d_model].

    In all operations, grad_x means dL/dx and has the shape of x.

    A look-up copies a row. The gradient of a copy is the gradient of the row, and a row that was copied many times
    (that of a frequent word) gets the sum over its copies. A row that no id selected has gradient zero. Ids have no
    gradient: they are whole numbers, which cannot change by a small amount.

        dL/dtable[row] = sum over the places where ids == row of dL/doutput[place]

    The sum matters: with `grad_table[ids] = grad_output` the last copy would overwrite the others.

    With numbers: id 0 occurs twice, id 1 never
        >>> table = torch.tensor([[1.0], [2.0], [3.0]])
        >>> output, cache = embedding_forward(torch.tensor([[0, 2, 0]]), table)
        >>> output.flatten()
        tensor([1., 3., 1.])
        >>> embedding_backward(torch.tensor([[[10.0], [20.0], [30.0]]]), cache).flatten()
        tensor([40.,  0., 20.])
    """
    ids, n_rows = cache
    d_model = grad_output.shape[-1]

    # Forward was: output = table[ids]
    zeros = grad_output.new_zeros(n_rows, d_model)  # [n_rows, d_model]
    grad_rows = grad_output.flatten(0, 1)  # [batch_size*seq_len, d_model]
    grad_table = zeros.index_add(0, ids.flatten(), grad_rows)  # [n_rows, d_model]
    return grad_table
