"""Layers: the smallest modules. Each pairs an operation of `ops/` with its parameters and its cache.

`forward` calls the operation's forward and keeps the cache. `backward` takes the gradient of the output, calls the
operation's backward with the cache, adds the parameters' gradients to their `.grad`, and returns the gradient of the
input. The cache is released by then, so memory falls as the backward pass goes on. Every gradient has the shape of its
tensor.

Shapes in this file
    batch_size    sequences in the batch
    seq_len       positions in each sequence
    d_model       width of the residual stream
    n_rows        rows of an embedding table
    in_features   input features of a linear layer, and out_features its output features
    d_ffn         hidden width of the feed-forward part
    vocab_size    token types
"""

from typing import Generic, TypeVar

import torch
from torch import Tensor

from tfs_custom.module import Module
from tfs_custom.ops.accumulate import accumulate
from tfs_custom.ops.attention import AttentionCache, attention_backward, attention_forward
from tfs_custom.ops.cross_entropy import CrossEntropyCache, cross_entropy_backward, cross_entropy_forward
from tfs_custom.ops.dropout import DropoutCache, dropout_backward, dropout_forward
from tfs_custom.ops.embedding import EmbeddingCache, embedding_backward, embedding_forward
from tfs_custom.ops.gelu import GeluCache, GeluForm, gelu_backward, gelu_forward
from tfs_custom.ops.layer_norm import LayerNormCache, layer_norm_backward, layer_norm_forward
from tfs_custom.ops.linear import LinearCache, linear_backward, linear_forward
from tfs_custom.ops.unembedding import UnembeddingCache, unembedding_backward, unembedding_forward

Cache = TypeVar("Cache")


class Layer(Module, Generic[Cache]):
    """A module that is one operation, and keeps its cache from forward to backward."""

    cache: Cache | None = None

    keeps_cache: bool = False
    """True while caches are stored for `backward`."""

    def keep(self, cache: Cache) -> None:
        """Store the cache for one `backward`, if `keeps_cache` is set."""
        if self.keeps_cache:
            self.cache = cache

    def take(self) -> Cache:
        """Return the cache and release it."""
        assert self.cache is not None, (
            f"{type(self).__name__} has no cache: set keeps_cache, and call forward once before each backward"
        )
        cache, self.cache = self.cache, None
        return cache


class Embedding(Layer[EmbeddingCache]):
    """A table with a vector for each id: ids [batch_size, seq_len] select vectors [batch_size, seq_len, d_model]."""

    def __init__(self, n_rows: int, d_model: int) -> None:
        self.weight = torch.empty(n_rows, d_model)  # [n_rows, d_model]

    def forward(self, ids: Tensor) -> Tensor:
        output, cache = embedding_forward(ids, self.weight)  # [batch_size, seq_len, d_model]
        self.keep(cache)
        return output

    def backward(self, grad_output: Tensor) -> None:
        grad_table = embedding_backward(grad_output, self.take())  # [n_rows, d_model]
        accumulate(self.weight, grad_table)


class Linear(Layer[LinearCache]):
    """A weighted sum of all input features for each output feature, and a bias.

    x is [batch_size, seq_len, in_features], the output [batch_size, seq_len, out_features].
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        self.weight = torch.empty(out_features, in_features)  # [out_features, in_features]
        self.bias = torch.empty(out_features)  # [out_features]

    def forward(self, x: Tensor) -> Tensor:
        output, cache = linear_forward(x, self.weight, self.bias)  # [batch_size, seq_len, out_features]
        self.keep(cache)
        return output

    def backward(self, grad_output: Tensor) -> Tensor:
        grad_x, grad_weight, grad_bias = linear_backward(grad_output, self.take())
        accumulate(self.weight, grad_weight)
        accumulate(self.bias, grad_bias)
        return grad_x


class LayerNorm(Layer[LayerNormCache]):
    """Zero mean and unit variance at every position, then a gain (`weight`, as in PyTorch) and a bias.

    x and the output are [batch_size, seq_len, d_model].
    """

    def __init__(self, d_model: int) -> None:
        self.weight = torch.empty(d_model)  # [d_model]
        self.bias = torch.empty(d_model)  # [d_model]

    def forward(self, x: Tensor) -> Tensor:
        output, cache = layer_norm_forward(x, self.weight, self.bias)  # [batch_size, seq_len, d_model]
        self.keep(cache)
        return output

    def backward(self, grad_output: Tensor) -> Tensor:
        grad_x, grad_gain, grad_bias = layer_norm_backward(grad_output, self.take())
        accumulate(self.weight, grad_gain)
        accumulate(self.bias, grad_bias)
        return grad_x


class GELU(Layer[GeluCache]):
    """The nonlinearity of the feed-forward part. x and the output are [batch_size, seq_len, d_ffn]."""

    def __init__(self, form: GeluForm) -> None:
        self.form: GeluForm = form

    def forward(self, x: Tensor) -> Tensor:
        output, cache = gelu_forward(x, self.form)  # [batch_size, seq_len, d_ffn]
        self.keep(cache)
        return output

    def backward(self, grad_output: Tensor) -> Tensor:
        return gelu_backward(grad_output, self.take())


class Dropout(Layer[DropoutCache]):
    """A random share of the numbers set to zero, in training only.

    x and the output are [batch_size, seq_len, d_model].
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        output, cache = dropout_forward(x, self.rate if self.training else 0.0)  # [batch_size, seq_len, d_model]
        self.keep(cache)
        return output

    def backward(self, grad_output: Tensor) -> Tensor:
        return dropout_backward(grad_output, self.take())


class CausalAttention(Layer[AttentionCache]):
    """Attention of queries, keys and values; it has no parameters of its own.

    The output has the shape of the queries [batch_size, seq_len, d_model]. During generation there may be more keys and
    values than queries; see `attention_forward` for all shapes.
    """

    def __init__(self, n_heads: int, dropout: float) -> None:
        self.n_heads = n_heads
        self.rate = dropout

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        rate = self.rate if self.training else 0.0
        output, cache = attention_forward(queries, keys, values, visible, self.n_heads, rate)
        self.keep(cache)
        return output

    def backward(self, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return attention_backward(grad_output, self.take())


class Unembedding(Layer[UnembeddingCache]):
    """A logit for each token. The table belongs to the token embedding, so `backward` returns the table's gradient.

    x is [batch_size, seq_len, d_model], the table [vocab_size, d_model], logits [batch_size, seq_len, vocab_size].
    """

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        logits, cache = unembedding_forward(x, table)  # [batch_size, seq_len, vocab_size]
        self.keep(cache)
        return logits

    def backward(self, grad_logits: Tensor) -> tuple[Tensor, Tensor]:
        return unembedding_backward(grad_logits, self.take())


class CrossEntropy(Layer[CrossEntropyCache]):
    """The loss: the sum of nats over the valid targets, a tensor without dimensions.

    Logits are [batch_size, seq_len, vocab_size], target ids [batch_size, seq_len].
    """

    def forward(self, logits: Tensor, target_ids: Tensor) -> Tensor:
        loss, cache = cross_entropy_forward(logits, target_ids)  # []
        self.keep(cache)
        return loss

    def backward(self, grad_loss: float) -> Tensor:
        return cross_entropy_backward(grad_loss, self.take())
