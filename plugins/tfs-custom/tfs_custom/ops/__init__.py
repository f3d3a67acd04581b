"""The operations of the transformer, one file each: a forward, and the backward that returns the gradients.

    x_forward(inputs)               -> (output, cache)
    x_backward(grad_output, cache)  -> the gradient of each input

One rule holds in all of them: no tensor is changed in place. Not an input, not a parameter, not the incoming gradient,
and above all nothing that is in a cache: the backward would read the new numbers instead of the old ones and be wrong,
while the loss went on falling. So `x = x + y`, which makes a new tensor, and not `x += y`. The tests check that nothing
is changed; `tfs check custom --break residual-in-place` shows the report of a violation.

The examples in the docstrings can be typed in after `import math, torch` and `from tfs_custom.ops import *`; a test
runs them.
"""

from tfs_custom.ops.accumulate import accumulate
from tfs_custom.ops.attention import (
    attention_backward,
    attention_forward,
    hide_scores,
    merge_heads,
    score_scale,
    split_heads,
    visible_positions,
)
from tfs_custom.ops.cross_entropy import cross_entropy_backward, cross_entropy_forward
from tfs_custom.ops.dropout import dropout_backward, dropout_forward
from tfs_custom.ops.embedding import embedding_backward, embedding_forward, positions_of
from tfs_custom.ops.gelu import gelu_backward, gelu_forward
from tfs_custom.ops.layer_norm import layer_norm_backward, layer_norm_forward
from tfs_custom.ops.linear import linear_backward, linear_forward
from tfs_custom.ops.matrix_product import matrix_product
from tfs_custom.ops.residual import residual_backward, residual_forward
from tfs_custom.ops.softmax import softmax_backward, softmax_forward
from tfs_custom.ops.unembedding import unembedding_backward, unembedding_forward

__all__ = [
    "accumulate",
    "attention_backward",
    "attention_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout_backward",
    "dropout_forward",
    "embedding_backward",
    "embedding_forward",
    "gelu_backward",
    "gelu_forward",
    "hide_scores",
    "layer_norm_backward",
    "layer_norm_forward",
    "linear_backward",
    "linear_forward",
    "matrix_product",
    "merge_heads",
    "positions_of",
    "residual_backward",
    "residual_forward",
    "score_scale",
    "softmax_backward",
    "softmax_forward",
    "split_heads",
    "unembedding_backward",
    "unembedding_forward",
    "visible_positions",
]
