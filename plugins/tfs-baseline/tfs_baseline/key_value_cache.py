"""The key/value cache: text is generated token by token, and each token's keys and values are computed only once.

A position's keys and values depend on the tokens up to it, so they never change: a new token needs its own query, and
the cached keys and values of all earlier positions. Keys are cached after QK-norm and rotation.

Shazeer (2019), "Fast Transformer Decoding: One Write-Head is All You Need", https://arxiv.org/abs/1911.02150 (the
memory that decoding needs for keys and values, and its cost)

Shapes in this file
    batch_size   sequences that are generated at once
    seq_len      new positions in each
    n_keys       slots of the cache that are read: up to the last position so far
    max_seq_len  slots in all
    d_model      width of the residual stream
    n_heads      query heads, each d_head wide
    n_kv_heads   key/value heads, each of which serves n_shared = n_heads / n_kv_heads query heads
    vocab_size   token types
    n_rows       rows of a mask: batch_size
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tfs_baseline.model import Block, Shared, Transformer, merge_heads
from tfs_core.models import check_input_ids


class BlockCache:
    """The keys and values of one block: a slot for each position.

    `empty` has the shape of `keys` and `values`.
    """

    def __init__(self, empty: Tensor) -> None:
        self.keys = empty.clone()  # [batch_size, n_kv_heads, max_seq_len, d_head]
        self.values = empty.clone()  # [batch_size, n_kv_heads, max_seq_len, d_head]

    def write(self, keys: Tensor, values: Tensor, positions: Tensor | slice) -> None:
        """Put keys and values [batch_size, n_kv_heads, seq_len, d_head] in the slots of their positions.

        `positions` is [batch_size, seq_len]. If all sequences are at the same positions, a slice is faster.
        """
        if isinstance(positions, slice):
            self.keys[:, :, positions] = keys
            self.values[:, :, positions] = values
        else:
            rows = torch.arange(len(positions), device=positions.device)[:, None]  # [batch_size, 1]
            self.keys[rows, :, positions] = keys.transpose(1, 2)
            self.values[rows, :, positions] = values.transpose(1, 2)


def block_with_cache(
    block: Block, x: Tensor, shared: Shared, positions: Tensor | slice, n_keys: int, cache: BlockCache
) -> Tensor:
    """Return `block.forward` of x [batch_size, seq_len, d_model], with earlier keys and values from the cache.

    `positions` is a slice or [batch_size, seq_len]; `n_keys` is the number of slots that are read.
    """
    # 1. x + attention(norm(x)), which writes to the cache and then reads from it
    attention = block.attention
    normalized = block.attention_norm(x)  # [batch_size, seq_len, d_model]
    queries, keys, values = attention.project(normalized, shared.rotation)
    cache.write(keys, values, positions)
    keys, values = cache.keys[:, :, :n_keys], cache.values[:, :, :n_keys]  # [batch_size, n_kv_heads, n_keys, d_head]
    if shared.mask is None:
        gathered = attend_to_all(queries, keys, values)  # [batch_size, n_heads, seq_len, d_head]
    else:
        attend = attention.attend_fused if shared.fused else attention.attend
        gathered = attend(queries, keys, values, shared.mask)  # [batch_size, n_heads, seq_len, d_head]
    x = x + attention.output(merge_heads(gathered))  # [batch_size, seq_len, d_model]

    # 2. x + feed_forward(norm(x))
    normalized = block.feed_forward_norm(x)  # [batch_size, seq_len, d_model]
    x = x + block.feed_forward(normalized)  # [batch_size, seq_len, d_model]
    return x


def attend_to_all(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return the attention output of one new token [batch_size, n_heads, 1, d_head], computed by one kernel.

    Queries have the same shape; keys and values are [batch_size, n_kv_heads, n_keys, d_head]. The token sees every key.
    The query heads that share a key/value head are concatenated along the positions, as in `Attention.attend`.
    """
    d_head = queries.shape[-1]
    stacked = queries.reshape(*keys.shape[:2], -1, d_head)  # [batch_size, n_kv_heads, n_shared, d_head]
    return F.scaled_dot_product_attention(stacked, keys, values).reshape(queries.shape)


class CachedTransformer(Transformer):
    """The transformer of `model.py`, with two more methods for generation with a key/value cache."""

    def make_cache(self, batch_size: int) -> list[BlockCache]:
        """Return an empty cache for each block. Initialized with 0: other memory may hold NaN, and 0 * NaN is NaN."""
        config = self.config
        sizes = (batch_size, config.kv_heads, config.max_seq_len, config.head_width)
        empty = torch.zeros(
            sizes, dtype=self.compute_dtype(), device=self.token_embedding.weight.device
        )  # [batch_size, n_kv_heads, max_seq_len, d_head]
        return [BlockCache(empty) for _ in self.blocks]

    def forward_with_cache(self, input_ids: Tensor, positions: Tensor, cache: list[BlockCache]) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of new ids at `positions` [batch_size, seq_len].

        Their keys and values are written to the cache; a position reads from all slots up to its own. Call it in eval
        mode. Raises ValueError for ids outside the vocabulary and positions from max_seq_len on.
        """
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        seq_len = input_ids.shape[-1]
        # 1. Are all sequences at the same positions, one after the other? Then a slice of the cache is written.
        if torch.compiler.is_compiling():  # compiled code cannot depend on a value: all slots are read
            same_positions, first, n_keys = False, 0, self.config.max_seq_len
        else:
            position_lists = positions.tolist()
            first, n_keys = position_lists[0][0], max(map(max, position_lists)) + 1
            if n_keys > self.config.max_seq_len:
                raise ValueError(f"position {n_keys - 1} is outside the model's context of {self.config.max_seq_len}")
            same_positions = all(row == list(range(first, n_keys)) for row in position_lists)
        written_at = slice(first, n_keys) if same_positions else positions

        # 2. One new token sees all keys, and the fused form then needs no mask. Otherwise later slots are hidden.
        fused = self.is_fused(seq_len, n_keys)
        mask = None
        if not (same_positions and fused and seq_len == 1):
            slots = torch.arange(n_keys, device=positions.device)  # [n_keys]
            mask = self.mask(slots <= positions[..., None])  # [n_rows, 1, n_shared*seq_len, n_keys]

        # 3. The forward pass
        shared = self.share(written_at, mask, fused)
        x = self.embed(input_ids, written_at)  # [batch_size, seq_len, d_model]
        for block, block_cache in zip(self.blocks, cache, strict=True):
            x = block_with_cache(block, x, shared, written_at, n_keys, block_cache)  # [batch_size, seq_len, d_model]
        return self.unembed(self.final_norm(x))
