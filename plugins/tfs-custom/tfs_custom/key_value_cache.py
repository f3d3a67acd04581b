"""The key/value cache: text is generated token by token, and each token's keys and values are computed only once.

A position's keys and values depend on the tokens up to it, so they never change: a new token needs its own query, and
the cached keys and values of all earlier positions. Used for generating only, so there is no backward here.

Shazeer (2019), "Fast Transformer Decoding: One Write-Head is All You Need", https://arxiv.org/abs/1911.02150 (the
memory that decoding needs for keys and values, and its cost)

Shapes in this file
    batch_size   sequences that are generated at once
    seq_len      new positions in each
    n_keys       slots of the cache that are read: up to the last position so far
    max_seq_len  slots in all
    d_model      width of the residual stream
    vocab_size   token types
"""

import torch
from torch import Tensor

from tfs_core.models import check_input_ids
from tfs_custom.model import Block, Transformer
from tfs_custom.ops.residual import residual_forward


class BlockCache:
    """The keys and values of one block: a slot for each position.

    `empty` has the shape of `keys` and `values`.
    """

    def __init__(self, empty: Tensor) -> None:
        self.keys = empty.clone()  # [batch_size, max_seq_len, d_model]
        self.values = empty.clone()  # [batch_size, max_seq_len, d_model]

    def write(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        """Put keys and values [batch_size, seq_len, d_model] in the slots of their positions [batch_size, seq_len]."""
        rows = torch.arange(len(positions), device=positions.device)[:, None]  # [batch_size, 1]
        self.keys[rows, positions] = keys
        self.values[rows, positions] = values


def block_with_cache(block: Block, x: Tensor, visible: Tensor, positions: Tensor, cache: BlockCache) -> Tensor:
    """Return `block.forward` of x [batch_size, seq_len, d_model], with earlier keys and values from the cache.

    `visible` is [batch_size, 1, seq_len, n_keys], `positions` [batch_size, seq_len].
    """
    # 1. x + attention(norm(x)), which writes to the cache and then reads from it
    attention = block.attention
    normalized = block.attention_norm.forward(x)  # [batch_size, seq_len, d_model]
    queries = attention.query.forward(normalized)  # [batch_size, seq_len, d_model]
    cache.write(attention.key.forward(normalized), attention.value.forward(normalized), positions)
    n_keys = visible.shape[-1]
    keys, values = cache.keys[:, :n_keys], cache.values[:, :n_keys]  # [batch_size, n_keys, d_model]
    gathered = attention.attend.forward(queries, keys, values, visible)  # [batch_size, seq_len, d_model]
    x, _ = residual_forward(x, attention.output.forward(gathered))

    # 2. x + feed_forward(norm(x))
    normalized = block.feed_forward_norm.forward(x)  # [batch_size, seq_len, d_model]
    x, _ = residual_forward(x, block.feed_forward.forward(normalized))
    return x


class CachedTransformer(Transformer):
    """The transformer of `model.py`, with two more methods for generation with a key/value cache."""

    def make_cache(self, batch_size: int) -> list[BlockCache]:
        """Return an empty cache for each block. Initialized with 0: other memory may hold NaN, and 0 * NaN is NaN."""
        table = self.position_embedding.weight  # [max_seq_len, d_model]
        empty = table.new_zeros(batch_size, *table.shape)  # [batch_size, max_seq_len, d_model]
        return [BlockCache(empty) for _ in self.blocks]

    def forward_with_cache(self, input_ids: Tensor, positions: Tensor, cache: list[BlockCache]) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of new ids at `positions` [batch_size, seq_len].

        Their keys and values are written to the cache; a position reads from all slots up to its own. Call it in eval
        mode. Raises ValueError for ids outside the vocabulary and positions from max_seq_len on.
        """
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        n_keys = int(positions.max()) + 1
        if n_keys > self.config.max_seq_len:
            raise ValueError(f"position {n_keys - 1} is outside the model's context of {self.config.max_seq_len}")
        slots = torch.arange(n_keys, device=positions.device)  # [n_keys]
        visible = slots <= positions[:, None, :, None]  # [batch_size, 1, seq_len, n_keys]
        with self.computing(keep_caches=False):
            x = self.embed(input_ids, positions)  # [batch_size, seq_len, d_model]
            for block, block_cache in zip(self.blocks, cache, strict=True):
                x = block_with_cache(block, x, visible, positions, block_cache)  # [batch_size, seq_len, d_model]
            return self.unembed(self.final_norm.forward(x))
