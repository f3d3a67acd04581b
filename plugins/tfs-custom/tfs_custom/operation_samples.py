"""Every operation with small inputs in float64, no two dimensions of the same size: for `tfs check` and the tests.

Weights are larger than a model's initial ones, and biases and gains are not 0 and 1: a mistake in a term that is nearly
zero would not be detected. One id occurs twice, and one target is padding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tfs_core.contracts import IGNORED_TARGET, Operation
from tfs_custom import ops, replaced

SIZES: Mapping[str, int] = {
    "batch_size": 2,
    "seq_len": 5,
    "n_heads": 3,
    "d_head": 7,
    "d_model": 21,
    "d_ffn": 11,
    "vocab_size": 13,
}
"""The size of each word of the shape comments."""

N_KEYS = 6
"""The number of keys and values in the sample of attention: seq_len + 1, as with a key/value cache."""


def sample_operations(replacements: Mapping[str, Callable[..., Any]]) -> Sequence[Operation]:
    """Return the operations, some of them replaced, in the order in which the forward pass first calls them."""
    generator = torch.Generator().manual_seed(0)
    batch_size, seq_len, d_model = SIZES["batch_size"], SIZES["seq_len"], SIZES["d_model"]
    d_ffn, vocab_size = SIZES["d_ffn"], SIZES["vocab_size"]

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def function(name: str) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:  # Any: each operation has its own inputs and outputs
            with replaced(**replacements):
                return getattr(ops, name)(*inputs)

        return call

    def operation(name: str, **inputs: Any) -> Operation:  # Any: tensors, and options such as n_heads
        forward, backward = function(f"{name}_forward"), function(f"{name}_backward")
        return Operation(name=name, forward=forward, backward=backward, inputs=inputs)

    x = draw(batch_size, seq_len, d_model)  # [batch_size, seq_len, d_model]
    ids = torch.randint(vocab_size, (batch_size, seq_len), generator=generator)  # [batch_size, seq_len]
    ids[1] = ids[0]  # every id at least twice
    target_ids = torch.randint(vocab_size, (batch_size, seq_len), generator=generator)  # [batch_size, seq_len]
    target_ids[1, -2:] = IGNORED_TARGET
    attention = {
        "queries": draw(batch_size, seq_len, d_model),
        "keys": draw(batch_size, N_KEYS, d_model),
        "values": draw(batch_size, N_KEYS, d_model),
        "visible": torch.arange(N_KEYS) <= torch.arange(seq_len)[:, None] + 1,  # there is one earlier position
    }
    return [
        operation("embedding", ids=ids, table=draw(vocab_size, d_model)),
        operation("dropout", x=x, rate=0.25),
        operation("layer_norm", x=x, gain=draw(d_model), bias=draw(d_model)),
        operation("linear", x=x, weight=draw(d_ffn, d_model), bias=draw(d_ffn)),
        operation("softmax", scores=draw(batch_size, seq_len, vocab_size)),
        operation("attention", **attention, n_heads=SIZES["n_heads"], dropout=0.25),
        operation("residual", x=x, branch=draw(batch_size, seq_len, d_model)),
        operation("gelu", x=2.0 * draw(batch_size, seq_len, d_ffn), form="tanh"),
        operation("gelu", x=2.0 * draw(batch_size, seq_len, d_ffn), form="exact"),
        operation("unembedding", x=x, table=draw(vocab_size, d_model)),
        operation("cross_entropy", logits=3.0 * draw(batch_size, seq_len, vocab_size), target_ids=target_ids),
    ]
