"""The key/value cache: while text is written token by token, what earlier positions answered and offered is kept.

A position's key and value depend on what came before it only, so they never change again: a new token needs its own
query, and the kept keys and values of all the others. For generating only, so there is no backward here.

Shazeer (2019), "Fast Transformer Decoding: One Write-Head is All You Need", https://arxiv.org/abs/1911.02150 (what
decoding keeps, and what that costs)

Shapes in this file
    batch_size   sequences that are written at once
    seq_len      new positions in each
    n_keys       slots that are looked at: up to the last position so far
    max_seq_len  slots in all
    d_model      width of the residual stream = n_heads * d_head
"""

import torch
from torch import Tensor

from tfs_custom.config import CustomConfig
from tfs_custom.ops.attention import HIDDEN_SCORE, merge_heads, score_scale, split_heads
from tfs_custom.ops.matrix_product import matrix_product
from tfs_custom.ops.softmax import softmax_forward


class KeyValueCache:
    """The keys and values of every block: a slot for each position."""

    def __init__(self, config: CustomConfig, batch_size: int, *, like: Tensor) -> None:
        """Make it empty, on the device and in the type of `like`. Empty slots hold zeros, and nobody sees them."""
        self.n_heads = config.n_heads
        shape = (batch_size, config.max_seq_len, config.d_model)
        names = [f"blocks.{index}.attention" for index in range(config.n_blocks)]
        self.keys = {name: like.new_zeros(shape) for name in names}  # each [batch_size, max_seq_len, d_model]
        self.values = {name: like.new_zeros(shape) for name in names}  # each [batch_size, max_seq_len, d_model]

    def attend(self, positions: Tensor, name: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Put keys and values into the slots of their positions, and return what the queries gather from all slots.

        `positions` is [batch_size, seq_len], the others [batch_size, seq_len, d_model]. Steps 1 to 6 of
        `attention_forward`, but that a position sees the slots up to its own, whatever is in those after it.
        """
        n_keys = int(positions.max()) + 1
        rows = torch.arange(len(positions), device=positions.device).unsqueeze(-1)  # [batch_size, 1]
        self.keys[name][rows, positions] = keys
        self.values[name][rows, positions] = values
        kept_keys = self.keys[name][:, :n_keys]  # [batch_size, n_keys, d_model]
        kept_values = self.values[name][:, :n_keys]  # [batch_size, n_keys, d_model]

        # 1. Each head gets d_head features of its own
        head_queries = split_heads(queries, self.n_heads)  # [batch_size, n_heads, seq_len, d_head]
        head_keys = split_heads(kept_keys, self.n_heads)  # [batch_size, n_heads, n_keys, d_head]
        head_values = split_heads(kept_values, self.n_heads)  # [batch_size, n_heads, n_keys, d_head]

        # 2. and 3. How well does each query match each key? Nobody sees what comes later
        scaled_queries = head_queries * score_scale(head_queries.shape[-1])  # [batch_size, n_heads, seq_len, d_head]
        attention_scores = matrix_product(scaled_queries, head_keys.mT)  # [batch_size, n_heads, seq_len, n_keys]
        slots = torch.arange(n_keys, device=positions.device)  # [n_keys]
        visible = slots <= positions[:, None, :, None]  # [batch_size, 1, seq_len, n_keys]
        visible_scores = attention_scores.masked_fill(~visible, HIDDEN_SCORE)  # [batch_size, n_heads, seq_len, n_keys]

        # 4. to 6. The weighted sum of the values
        attention_weights, _ = softmax_forward(visible_scores)  # [batch_size, n_heads, seq_len, n_keys]
        gathered = matrix_product(attention_weights, head_values)  # [batch_size, n_heads, seq_len, d_head]
        output = merge_heads(gathered)  # [batch_size, seq_len, d_model]
        return output
