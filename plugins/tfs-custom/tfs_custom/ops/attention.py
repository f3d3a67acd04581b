"""Causal softmax attention: every position looks at itself and at those before it, and takes what it finds relevant.

Vaswani et al. (2017), "Attention Is All You Need", section 3.2, https://arxiv.org/abs/1706.03762

A position asks with its query, answers with its key, and hands out its value. How well a query and a key match is a
score; softmax makes of a position's scores weights that add up to 1; what it takes home is the weighted sum of values.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence; in [seq_len, seq_len] the first is the one that asks, the second is asked
    d_model     width of the residual stream = n_heads * d_head
    n_heads     heads, each of which attends by itself
    d_head      features of one head
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tfs_custom.ops.dropout import DropoutCache, dropout_backward, dropout_forward
from tfs_custom.ops.matrix_product import matrix_product
from tfs_custom.ops.softmax import SoftmaxCache, softmax_backward, softmax_forward

HIDDEN_SCORE = -math.inf  # exp(-inf) is 0 to the last bit; any finite score would let a little of the future through


class AttentionCache(NamedTuple):
    """What the backward pass must remember from the forward pass."""

    scaled_queries: Tensor  # [batch_size, n_heads, seq_len, d_head]
    keys: Tensor  # [batch_size, n_heads, seq_len, d_head]
    values: Tensor  # [batch_size, n_heads, seq_len, d_head]
    softmax: SoftmaxCache
    dropout: DropoutCache
    kept_weights: Tensor  # [batch_size, n_heads, seq_len, seq_len]


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """Return x [batch_size, seq_len, d_model] cut into heads: the first d_head features are the first head's."""
    features_apart = x.unflatten(-1, (n_heads, -1))  # [batch_size, seq_len, n_heads, d_head]
    heads = features_apart.transpose(1, 2).contiguous()  # [batch_size, n_heads, seq_len, d_head]
    return heads


def merge_heads(heads: Tensor) -> Tensor:
    """Return the heads [batch_size, n_heads, seq_len, d_head] side by side again.

    Splitting and merging compute nothing, every number only moves to another place; on the way back its gradient moves
    the other way. So each of the two is the other's backward.
    """
    features_apart = heads.transpose(1, 2)  # [batch_size, seq_len, n_heads, d_head]
    merged = features_apart.flatten(2)  # [batch_size, seq_len, d_model]
    return merged


def score_scale(d_head: int) -> float:
    """Return 1 / sqrt(d_head): a score sums d_head products, and this keeps its spread near 1 whatever d_head is."""
    return 1.0 / math.sqrt(d_head)


def visible_positions(seq_len: int, device: torch.device) -> Tensor:
    """Return where the position that asks (first axis) may look at the one asked (second): at itself and before."""
    positions = torch.arange(seq_len, device=device)  # [seq_len]
    visible = positions <= positions[:, None]  # [seq_len, seq_len]
    return visible


def attention_forward(
    queries: Tensor, keys: Tensor, values: Tensor, n_heads: int, dropout: float
) -> tuple[Tensor, AttentionCache]:
    """Return what each position gathers [batch_size, seq_len, d_model], and the cache for `attention_backward`.

    queries, keys and values are [batch_size, seq_len, d_model]; `dropout` is the share of attention weights dropped.
    """
    # 1. Each head gets d_head features of its own
    head_queries = split_heads(queries, n_heads)  # [batch_size, n_heads, seq_len, d_head]
    head_keys = split_heads(keys, n_heads)  # [batch_size, n_heads, seq_len, d_head]
    head_values = split_heads(values, n_heads)  # [batch_size, n_heads, seq_len, d_head]

    # 2. How well does each query match each key? (Scaling the queries scales the scores, with fewer multiplications)
    scaled_queries = head_queries * score_scale(head_queries.shape[-1])  # [batch_size, n_heads, seq_len, d_head]
    attention_scores = matrix_product(scaled_queries, head_keys.mT)  # [batch_size, n_heads, seq_len, seq_len]

    # 3. Nobody sees what comes later: at generation it will not be there yet (in place: the scores are ours alone)
    visible = visible_positions(queries.shape[1], queries.device)  # [seq_len, seq_len]
    visible_scores = attention_scores.masked_fill_(~visible, HIDDEN_SCORE)  # [batch_size, n_heads, seq_len, seq_len]

    # 4. Scores become weights that add up to 1 over the positions asked
    attention_weights, softmax_cache = softmax_forward(visible_scores)  # [batch_size, n_heads, seq_len, seq_len]

    # 5. In training some of the weights are dropped
    kept_weights, dropout_cache = dropout_forward(attention_weights, dropout)  # [batch_size, n_heads, seq_len, seq_len]

    # 6. Each position gathers the weighted sum of the values, head by head, and the heads stand side by side again
    gathered = matrix_product(kept_weights, head_values)  # [batch_size, n_heads, seq_len, d_head]
    output = merge_heads(gathered)  # [batch_size, seq_len, d_model]
    cache = AttentionCache(scaled_queries, head_keys, head_values, softmax_cache, dropout_cache, kept_weights)
    return output, cache


def attention_backward(grad_output: Tensor, cache: AttentionCache) -> tuple[Tensor, Tensor, Tensor]:
    """Return (grad_queries, grad_keys, grad_values), each [batch_size, seq_len, d_model].

    The forward steps are undone from the last to the first. Two of them are matrix products, and follow the rule in
    `matrix_product.py`; softmax and dropout have their own files; splitting and merging heads undo each other. A value
    is used by every position that looks at it, and so is a key: in their gradients the product sums over those.
    """
    scaled_queries, head_keys, head_values, softmax_cache, dropout_cache, kept_weights = cache
    n_heads, d_head = head_keys.shape[1], head_keys.shape[3]

    # 6. Forward was: output = merge_heads(gathered), gathered = kept_weights @ head_values
    grad_gathered = split_heads(grad_output, n_heads)  # [batch_size, n_heads, seq_len, d_head]
    grad_kept_weights = matrix_product(grad_gathered, head_values.mT)  # [batch_size, n_heads, seq_len, seq_len]
    grad_head_values = matrix_product(kept_weights.mT, grad_gathered)  # [batch_size, n_heads, seq_len, d_head]

    # 5. Forward was: kept_weights = dropout(attention_weights)
    grad_weights = dropout_backward(grad_kept_weights, dropout_cache)  # [batch_size, n_heads, seq_len, seq_len]

    # 4. Forward was: attention_weights = softmax(visible_scores)
    grad_scores = softmax_backward(grad_weights, softmax_cache)  # [batch_size, n_heads, seq_len, seq_len]

    # 3. Forward was: visible_scores = attention_scores, or -inf where hidden
    # Nothing to do: a hidden score has weight 0, and step 4 multiplied its gradient by that.

    # 2. Forward was: attention_scores = scaled_queries @ head_keys.T, scaled_queries = head_queries / sqrt(d_head)
    grad_scaled_queries = matrix_product(grad_scores, head_keys)  # [batch_size, n_heads, seq_len, d_head]
    grad_head_keys = matrix_product(grad_scores.mT, scaled_queries)  # [batch_size, n_heads, seq_len, d_head]
    grad_head_queries = grad_scaled_queries * score_scale(d_head)  # [batch_size, n_heads, seq_len, d_head]

    # 1. Forward was: head_queries = split_heads(queries), and so for keys and values
    grad_queries = merge_heads(grad_head_queries)  # [batch_size, seq_len, d_model]
    grad_keys = merge_heads(grad_head_keys)  # [batch_size, seq_len, d_model]
    grad_values = merge_heads(grad_head_values)  # [batch_size, seq_len, d_model]
    return grad_queries, grad_keys, grad_values
