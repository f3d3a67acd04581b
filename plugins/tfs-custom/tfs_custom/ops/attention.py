"""Causal softmax attention: every position reads from itself and from earlier positions, more from those that match.

Vaswani et al. (2017), "Attention Is All You Need", section 3.2, https://arxiv.org/abs/1706.03762

Every position has a query, a key and a value. The score of two positions is the dot product of the query of one and the
key of the other, divided by sqrt(d_head). Softmax turns the scores of a query into weights that sum to 1, and the
output at its position is the sum of the values with these weights. For one head, with P for the weights and O for the
output:

    S = Q @ K.T / sqrt(d_head)          P = softmax(S), row by row          O = P @ V

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions with a query
    n_keys      positions with a key and a value: seq_len in training; with a key/value cache, earlier ones too
    d_model     width of the residual stream = n_heads * d_head
    n_heads     heads, each of which computes an attention of its own
    d_head      features of one head
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tfs_custom.ops.dropout import DropoutCache, dropout_backward, dropout_forward
from tfs_custom.ops.matrix_product import matrix_product
from tfs_custom.ops.softmax import SoftmaxCache, softmax_backward, softmax_forward


class AttentionCache(NamedTuple):
    """The tensors of the forward pass that the backward pass needs."""

    scaled_queries: Tensor  # [batch_size, n_heads, seq_len, d_head]
    keys: Tensor  # [batch_size, n_heads, n_keys, d_head]
    values: Tensor  # [batch_size, n_heads, n_keys, d_head]
    softmax: SoftmaxCache
    dropout: DropoutCache
    kept_weights: Tensor  # [batch_size, n_heads, seq_len, n_keys]


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """Return x [batch_size, n_keys, d_model] cut into heads [batch_size, n_heads, n_keys, d_head].

    The first d_head features belong to the first head.
    """
    separated = x.reshape(*x.shape[:2], n_heads, -1)  # [batch_size, n_keys, n_heads, d_head]
    heads = separated.transpose(1, 2).contiguous()  # [batch_size, n_heads, n_keys, d_head]
    return heads


def merge_heads(heads: Tensor) -> Tensor:
    """Return the heads [batch_size, n_heads, n_keys, d_head] concatenated again [batch_size, n_keys, d_model].

    Splitting and merging compute nothing: every number moves to another place. The backward moves its gradient back, so
    each of the two is the backward of the other.
    """
    separated = heads.transpose(1, 2)  # [batch_size, n_keys, n_heads, d_head]
    merged = separated.flatten(2)  # [batch_size, n_keys, d_model]
    return merged


def score_scale(d_head: int) -> float:
    """Return 1 / sqrt(d_head): a score is a sum of d_head products, and its variance would grow with their number."""
    return 1.0 / math.sqrt(d_head)


def visible_positions(seq_len: int, device: torch.device) -> Tensor:
    """Return the causal mask [seq_len, seq_len], True where the query (first axis) may read from the key (second)."""
    positions = torch.arange(seq_len, device=device)  # [seq_len]
    visible = positions <= positions[:, None]  # [seq_len, seq_len]
    return visible


def hide_scores(attention_scores: Tensor, visible: Tensor) -> Tensor:
    """Return the scores [batch_size, n_heads, seq_len, n_keys], set to -inf where a key is not visible.

    `attention_scores` have that shape, and `visible` broadcasts to it. exp(-inf) is exactly 0. With any finite number a
    hidden key would keep a small weight.
    """
    return attention_scores.masked_fill(~visible, -math.inf)


def attention_forward(
    queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, n_heads: int, dropout: float
) -> tuple[Tensor, AttentionCache]:
    """Return the output [batch_size, seq_len, d_model], and the cache for `attention_backward`.

    queries are [batch_size, seq_len, d_model], keys and values [batch_size, n_keys, d_model]; `visible` is True where a
    query may read from a key, of a shape that broadcasts to [batch_size, n_heads, seq_len, n_keys]; `dropout` is the
    share of attention weights dropped.
    """
    # 1. Each head gets d_head features of its own
    head_queries = split_heads(queries, n_heads)  # [batch_size, n_heads, seq_len, d_head]
    head_keys = split_heads(keys, n_heads)  # [batch_size, n_heads, n_keys, d_head]
    head_values = split_heads(values, n_heads)  # [batch_size, n_heads, n_keys, d_head]

    # 2. How well does each query match each key? Unscaled, the variance of the scores would grow with d_head
    scaled_queries = head_queries * score_scale(head_queries.shape[-1])  # [batch_size, n_heads, seq_len, d_head]
    attention_scores = matrix_product(scaled_queries, head_keys.mT)  # [batch_size, n_heads, seq_len, n_keys]

    # 3. Hide later positions, which do not exist yet when the model generates text
    visible_scores = hide_scores(attention_scores, visible)  # [batch_size, n_heads, seq_len, n_keys]

    # 4. Scores become weights that sum to 1 over the keys
    attention_weights, softmax_cache = softmax_forward(visible_scores)  # [batch_size, n_heads, seq_len, n_keys]

    # 5. In training some of the weights are dropped
    kept_weights, dropout_cache = dropout_forward(attention_weights, dropout)  # [batch_size, n_heads, seq_len, n_keys]

    # 6. Each query gets the weighted sum of the values, and the heads are concatenated again
    gathered = matrix_product(kept_weights, head_values)  # [batch_size, n_heads, seq_len, d_head]
    output = merge_heads(gathered)  # [batch_size, seq_len, d_model]
    cache = AttentionCache(scaled_queries, head_keys, head_values, softmax_cache, dropout_cache, kept_weights)
    return output, cache


def attention_backward(grad_output: Tensor, cache: AttentionCache) -> tuple[Tensor, Tensor, Tensor]:
    """Return (grad_queries, grad_keys, grad_values), each with the shape of its input.

    grad_output is [batch_size, seq_len, d_model].

    The forward steps in reverse order. For one head, without dropout, writing dX for dL/dX, .T for transposed and
    rowsum for the sum over a row:

        O = P @ V                    a matrix product (matrix_product.py):  dV = P.T @ dO       dP = dO @ V.T
        P = softmax(S)               row by row (softmax.py):               dS = P * (dP - rowsum(dP * P))
        S = Q @ K.T / sqrt(d_head)   a matrix product and a factor:         dQ = dS @ K / sqrt(d_head)
                                                                            dK = dS.T @ Q / sqrt(d_head)

    A value is read by the query at its own position and every later one, and its key is compared with the same queries:
    the products P.T @ dO and dS.T @ Q are the sums over these queries.

    With numbers: one head of d_head = 4 features, so that sqrt(d_head) is 2; only the first feature is not zero. The
    second query is 2 * log(3): its scores are 0 and log(3), its weights 1/4 and 3/4
        >>> first = torch.tensor([1.0, 0.0, 0.0, 0.0])
        >>> queries = torch.stack([0.0 * first, 2.0 * math.log(3.0) * first])[None]
        >>> keys, values = torch.stack([0.0 * first, first])[None], torch.stack([0.0 * first, 4.0 * first])[None]
        >>> visible = visible_positions(2, torch.device("cpu"))
        >>> output, cache = attention_forward(queries, keys, values, visible, n_heads=1, dropout=0.0)
        >>> output[0, :, 0]
        tensor([0.0000, 3.0000])
        >>> grads = attention_backward(torch.stack([0.0 * first, first])[None], cache)
        >>> grad_queries, grad_keys, grad_values = (grad[0, :, 0] for grad in grads)

    In the second row dP is (0, 4), rowsum(dP * P) is 3, and dS is 1/4 * (0 - 3) and 3/4 * (4 - 3), so dQ is 3/4 * 1 / 2
        >>> grad_values, grad_queries, grad_keys
        (tensor([0.2500, 0.7500]), tensor([0.0000, 0.3750]), tensor([-0.8240,  0.8240]))
    """
    scaled_queries, head_keys, head_values, softmax_cache, dropout_cache, kept_weights = cache
    n_heads, d_head = head_keys.shape[1], head_keys.shape[3]

    # 6. Forward was: output = merge_heads(gathered), gathered = kept_weights @ head_values
    grad_gathered = split_heads(grad_output, n_heads)  # [batch_size, n_heads, seq_len, d_head]
    # dV = P.T @ dO
    grad_head_values = matrix_product(kept_weights.mT, grad_gathered)  # [batch_size, n_heads, n_keys, d_head]
    # dP = dO @ V.T
    grad_kept_weights = matrix_product(grad_gathered, head_values.mT)  # [batch_size, n_heads, seq_len, n_keys]

    # 5. Forward was: kept_weights = dropout(attention_weights)
    grad_weights = dropout_backward(grad_kept_weights, dropout_cache)  # [batch_size, n_heads, seq_len, n_keys]

    # 4. Forward was: attention_weights = softmax(visible_scores)
    # dS = P * (dP - rowsum(dP * P))
    grad_scores = softmax_backward(grad_weights, softmax_cache)  # [batch_size, n_heads, seq_len, n_keys]

    # 3. Forward was: visible_scores = attention_scores, or -inf where hidden
    # Nothing to do: a hidden score has weight P = 0, so the formula above has given it dS = 0.

    # 2. Forward was: attention_scores = scaled_queries @ head_keys.T, scaled_queries = head_queries / sqrt(d_head)
    # dQ = dS @ K / sqrt(d_head)
    grad_scaled_queries = matrix_product(grad_scores, head_keys)  # [batch_size, n_heads, seq_len, d_head]
    grad_head_queries = grad_scaled_queries * score_scale(d_head)  # [batch_size, n_heads, seq_len, d_head]
    # dK = dS.T @ Q / sqrt(d_head), where the scaled queries are Q / sqrt(d_head)
    grad_head_keys = matrix_product(grad_scores.mT, scaled_queries)  # [batch_size, n_heads, n_keys, d_head]

    # 1. Forward was: head_queries = split_heads(queries), and likewise for keys and values
    grad_queries = merge_heads(grad_head_queries)  # [batch_size, seq_len, d_model]
    grad_keys = merge_heads(grad_head_keys)  # [batch_size, n_keys, d_model]
    grad_values = merge_heads(grad_head_values)  # [batch_size, n_keys, d_model]
    return grad_queries, grad_keys, grad_values
