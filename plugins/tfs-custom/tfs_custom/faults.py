"""Known bugs that can be planted in a model. With most of them the loss still falls; `tfs check` catches each.

    tfs check custom --break residual-in-place

A fault replaces some operations of one model instance by wrong ones; `ops/` and `model.py` stay unchanged. Each wrong
operation takes and returns tensors of the same shapes as the operation in `ops/` that it replaces.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tfs_custom.ops.attention import AttentionCache, attention_backward
from tfs_custom.ops.cross_entropy import CrossEntropyCache, cross_entropy_backward, cross_entropy_forward
from tfs_custom.ops.dropout import DropoutCache
from tfs_custom.ops.embedding import EmbeddingCache, positions_of
from tfs_custom.ops.gelu import GeluCache, gelu_backward, gelu_forward
from tfs_custom.ops.layer_norm import LayerNormCache, layer_norm_backward, layer_norm_forward
from tfs_custom.ops.linear import LinearCache, linear_backward
from tfs_custom.ops.softmax import SoftmaxCache
from tfs_custom.ops.unembedding import UnembeddingCache, unembedding_backward


@dataclass(frozen=True)
class Fault:
    """A bug: its description and the wrong operations."""

    sentence: str
    replacements: Mapping[str, Callable[..., Any]]  # name of the operation -> the wrong one; Any: each its own


# 1. Changed in place


def layer_norm_forward_keeping_x(x: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """A sound way to save memory: keep x, which exists anyway, and normalize it again in the backward."""
    return layer_norm_forward(x, gain, bias)[0], (x, gain, bias)


def layer_norm_backward_keeping_x(grad_output: Tensor, cache: tuple[Tensor, Tensor, Tensor]) -> Any:
    """Normalize the stored x again, then call the correct backward."""
    return layer_norm_backward(grad_output, layer_norm_forward(*cache)[1])


def residual_in_place(x: Tensor, branch: Tensor) -> tuple[Tensor, None]:
    """Add the branch to x in place: the only wrong operation of this fault."""
    x += branch  # the x that is in the layer norm's cache
    return x, None


# 2. A path forgotten in the backward


def residual_backward_without_x(grad_output: Tensor, _cache: None) -> tuple[Tensor, Tensor]:
    """Return zeros as grad_x: the gradient reaches the branch only."""
    return torch.zeros_like(grad_output), grad_output


def layer_norm_backward_without_variance(grad_output: Tensor, cache: LayerNormCache) -> tuple[Tensor, Tensor, Tensor]:
    """Omit the path through the variance from grad_x."""
    _, grad_gain, grad_bias = layer_norm_backward(grad_output, cache)
    grad_normalized = grad_output * cache.gain
    grad_x = cache.inverse_std * (grad_normalized - grad_normalized.mean(dim=-1, keepdim=True))
    return grad_x, grad_gain, grad_bias


def softmax_backward_without_row_mean(grad_weights: Tensor, cache: SoftmaxCache) -> Tensor:
    """Omit the weighted mean of the row from grad_scores."""
    return cache.weights * grad_weights


def unembedding_backward_without_table(grad_logits: Tensor, cache: UnembeddingCache) -> tuple[Tensor, Tensor]:
    """Return zeros as grad_table."""
    grad_x, grad_table = unembedding_backward(grad_logits, cache)
    return grad_x, torch.zeros_like(grad_table)


def dropout_backward_without_mask(grad_output: Tensor, _cache: DropoutCache) -> Tensor:
    """Return the gradient without multiplying it by the mask."""
    return grad_output


# 3. The wrong derivative


def gelu_backward_of_the_other_form(grad_output: Tensor, cache: GeluCache) -> Tensor:
    """Use the derivative of `exact` for `tanh`, and of `tanh` for `exact`."""
    _, other_cache = gelu_forward(cache.x, "exact" if cache.form == "tanh" else "tanh")
    return gelu_backward(grad_output, other_cache)


def attention_backward_without_scale(grad_output: Tensor, cache: AttentionCache) -> tuple[Tensor, Tensor, Tensor]:
    """Omit the factor 1 / sqrt(d_head) from grad_queries."""
    grad_queries, grad_keys, grad_values = attention_backward(grad_output, cache)
    return grad_queries * math.sqrt(cache.keys.shape[-1]), grad_keys, grad_values


# 4. The mean instead of the sum, or the last term instead of the sum


def cross_entropy_mean_forward(logits: Tensor, target_ids: Tensor) -> tuple[Tensor, tuple[CrossEntropyCache, float]]:
    """Return the mean over the valid targets, in nats per token, instead of the sum."""
    loss, cache = cross_entropy_forward(logits, target_ids)
    share = 1.0 / max(1, int(cache.valid.sum()))
    return loss * share, (cache, share)


def cross_entropy_mean_backward(grad_loss: float, cache: tuple[CrossEntropyCache, float]) -> Tensor:
    """Return the gradient of the mean over the valid targets."""
    return cross_entropy_backward(grad_loss * cache[1], cache[0])


def linear_backward_with_mean_bias(grad_output: Tensor, cache: LinearCache) -> tuple[Tensor, Tensor, Tensor]:
    """Average grad_bias over the positions instead of summing it."""
    grad_x, grad_weight, _ = linear_backward(grad_output, cache)
    return grad_x, grad_weight, grad_output.mean(dim=(0, 1))


def embedding_backward_by_assignment(grad_output: Tensor, cache: EmbeddingCache) -> Tensor:
    """Assign the rows of grad_table, so that the last occurrence of an id overwrites the others."""
    grad_table = grad_output.new_zeros(cache.n_rows, grad_output.shape[-1])
    grad_table[cache.ids] = grad_output
    return grad_table


def overwrite(parameter: Tensor, gradient: Tensor) -> None:
    """Replace the stored gradient instead of adding to it."""
    parameter.grad = gradient


# 5. The wrong mask, the wrong positions


def everything_visible(seq_len: int, device: torch.device) -> Tensor:
    """Return a mask that hides no position."""
    return torch.ones(seq_len, seq_len, dtype=torch.bool, device=device)


def scores_hidden_by_a_finite_number(attention_scores: Tensor, visible: Tensor) -> Tensor:
    """Set hidden scores to -30 instead of -inf."""
    return attention_scores.masked_fill(~visible, -30.0)


def positions_off_by_one(input_ids: Tensor) -> Tensor:
    """Return each position minus 1, and 0 for the first."""
    return (positions_of(input_ids) - 1).clamp(min=0)


FAULTS: Mapping[str, Fault] = {
    "residual-in-place": Fault(
        "The residual is added in place (x += branch) to a tensor that a layer norm has kept for its backward.",
        {
            "layer_norm_forward": layer_norm_forward_keeping_x,
            "layer_norm_backward": layer_norm_backward_keeping_x,
            "residual_forward": residual_in_place,
        },
    ),
    "residual-path-forgotten": Fault(
        "The backward of x + branch gives the gradient to the branch only.",
        {"residual_backward": residual_backward_without_x},
    ),
    "variance-path-forgotten": Fault(
        "The backward of layer norm treats the variance as a constant.",
        {"layer_norm_backward": layer_norm_backward_without_variance},
    ),
    "softmax-row-mean-forgotten": Fault(
        "The backward of softmax forgets that raising one weight lowers the others.",
        {"softmax_backward": softmax_backward_without_row_mean},
    ),
    "tied-gradient-forgotten": Fault(
        "The token table gets its gradient as the input embedding only, not as the output projection.",
        {"unembedding_backward": unembedding_backward_without_table},
    ),
    "dropout-mask-forgotten": Fault(
        "The backward of dropout lets the gradient of dropped numbers through (seen only while dropout is on).",
        {"dropout_backward": dropout_backward_without_mask},
    ),
    "other-gelu": Fault(
        "The derivative is that of the other form of GELU: off by a thousandth, and training hardly changes.",
        {"gelu_backward": gelu_backward_of_the_other_form},
    ),
    "score-scale-forgotten": Fault(
        "The backward of attention forgets the 1/sqrt(d_head) that its forward scaled the queries with.",
        {"attention_backward": attention_backward_without_scale},
    ),
    "mean-for-sum-in-loss": Fault(
        "The loss is the mean over the valid targets, where the sum was promised; its gradient agrees with it.",
        {"cross_entropy_forward": cross_entropy_mean_forward, "cross_entropy_backward": cross_entropy_mean_backward},
    ),
    "mean-for-sum-in-bias": Fault(
        "The gradient of a linear layer's bias is averaged over the positions instead of summed.",
        {"linear_backward": linear_backward_with_mean_bias},
    ),
    "embedding-overwritten": Fault(
        "A token that occurs twice gets the gradient of one occurrence: rows are assigned, not added up.",
        {"embedding_backward": embedding_backward_by_assignment},
    ),
    "gradient-overwritten": Fault(
        "A new gradient replaces the one in .grad instead of being added to it.",
        {"accumulate": overwrite},
    ),
    "mask-forgotten": Fault(
        "Attention reads from later positions: the causal mask hides nothing.",
        {"visible_positions": everything_visible},
    ),
    "mask-too-weak": Fault(
        "Hidden scores are set to -30, not to -inf: a little of the future leaks through.",
        {"hide_scores": scores_hidden_by_a_finite_number},
    ),
    "position-off-by-one": Fault(
        "The forward pass counts positions from -1, and the first two share one; generation counts them right.",
        {"positions_of": positions_off_by_one},
    ),
}
