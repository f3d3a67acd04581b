"""The transformer in PyTorch, exactly GPT-2's function. Read it from top to bottom: small parts come before the whole.

    x = token embedding + position embedding
    n_blocks times:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))
    logits = norm(x) @ token embedding transposed

Vaswani et al. (2017), "Attention Is All You Need", https://arxiv.org/abs/1706.03762
Radford et al. (2019), "Language Models are Unsupervised Multitask Learners" (GPT-2: the norm comes before each part),
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence now
    n_keys      positions that are looked at: seq_len, or with a cache every position so far
    d_model     width of the residual stream, the x that every block reads and adds to
    n_heads     attention heads, each d_head = d_model / n_heads wide
    d_ffn       hidden width of the feed-forward part
    vocab_size  token types
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfs_core.models import AutogradModel, check_input_ids
from tfs_torch.config import TorchConfig


class BlockCache:
    """What one block remembers while generating: the key and the value of every position so far."""

    def __init__(self, empty: Tensor) -> None:
        self.keys = empty.clone()  # [batch_size, max_seq_len, d_model]
        self.values = empty.clone()  # [batch_size, max_seq_len, d_model]

    def write(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        """Put keys and values [batch_size, seq_len, d_model] in the slots of their positions [batch_size, seq_len]."""
        rows = torch.arange(len(positions), device=positions.device)[:, None]  # [batch_size, 1]
        self.keys[rows, positions] = keys.to(self.keys.dtype)
        self.values[rows, positions] = values.to(self.values.dtype)


class Attention(nn.Module):
    """Each position asks a question of itself and of all before it, and takes a weighted mean of what they offer."""

    def __init__(self, config: TorchConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.fused = config.attention == "fused"
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key = nn.Linear(config.d_model, config.d_model)
        self.value = nn.Linear(config.d_model, config.d_model)
        self.output = nn.Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, visible: Tensor, positions: Tensor | None = None, cache: BlockCache | None = None
    ) -> Tensor:
        """Return what the heads gathered, as wide as x [batch_size, seq_len, d_model].

        `visible` says which keys (last axis) a position (the axis before) may look at. With a cache, the keys and
        values of x go into it, at `positions`, and all that it holds is looked at.
        """
        # 1. What each position asks for, how it answers to others' questions, and what it offers.
        queries = self.query(x)  # [batch_size, seq_len, d_model]
        keys = self.key(x)  # [batch_size, seq_len, d_model]
        values = self.value(x)  # [batch_size, seq_len, d_model]
        if cache is not None and positions is not None:
            cache.write(keys, values, positions)
            keys = cache.keys[:, : visible.shape[-1]]  # [batch_size, n_keys, d_model]
            values = cache.values[:, : visible.shape[-1]]  # [batch_size, n_keys, d_model]

        # 2. Each head works with its own d_head features.
        queries = self.split_heads(queries)  # [batch_size, n_heads, seq_len, d_head]
        keys = self.split_heads(keys)  # [batch_size, n_heads, n_keys, d_head]
        values = self.split_heads(values)  # [batch_size, n_heads, n_keys, d_head]

        # 3. Dropout asks for the explicit form: the fused one cannot drop on a CPU, and elsewhere draws another mask.
        # So does the compiled step of one token, which the explicit form becomes a part of.
        dropped = self.training and self.dropout.p > 0
        compiled_step = cache is not None and torch.compiler.is_compiling()
        if self.fused and not dropped and not compiled_step:
            gathered = self.attend_fused(queries, keys, values, None if cache is None else visible)
        else:
            gathered = self.attend(queries, keys, values, visible)

        # 4. The heads side by side again, and a last projection that mixes them.
        joined = gathered.transpose(1, 2).flatten(2)  # [batch_size, seq_len, d_model]
        output = self.output(joined)  # [batch_size, seq_len, d_model]
        return self.dropout(output)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """Return softmax(queries @ keys^T / sqrt(d_head)) @ values, a hidden key having no weight: the formula."""
        # Dividing by sqrt(d_head) keeps the scores' spread near 1 at any width, so that the softmax does not saturate.
        spread = math.sqrt(queries.shape[-1])
        attention_scores = queries @ keys.transpose(-2, -1) / spread  # [batch_size, n_heads, seq_len, n_keys]
        # A score of -inf becomes a weight of exactly 0: what comes later cannot change even the last bit.
        attention_scores = attention_scores.masked_fill(~visible, -math.inf)  # [batch_size, n_heads, seq_len, n_keys]
        wide = torch.promote_types(attention_scores.dtype, torch.float32)  # a softmax in bfloat16 would be too coarse
        attention_weights = attention_scores.softmax(dim=-1, dtype=wide)  # [batch_size, n_heads, seq_len, n_keys]
        attention_weights = self.dropout(attention_weights)  # [batch_size, n_heads, seq_len, n_keys]
        return attention_weights @ values

    def attend_fused(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
        """Return what `attend` does from one kernel, which works in tiles and never holds all the weights at once.

        Dao et al. (2022), "FlashAttention", https://arxiv.org/abs/2205.14135. Without `visible` it skips the tiles
        that causality hides, half of the work.
        """
        causal = visible is None
        if visible is not None and visible.shape[:-1].numel() == 1:
            visible = None  # a single token sees every key that is there: without a mask that is twice as fast
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible, is_causal=causal)

    def split_heads(self, x: Tensor) -> Tensor:
        """Return [batch_size, length, d_model] as [batch_size, n_heads, length, d_head], without copying."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Each position by itself: expanded to d_ffn features, bent by GELU, contracted again."""

    def __init__(self, config: TorchConfig) -> None:
        super().__init__()
        d_ffn = 4 * config.d_model if config.d_ffn is None else config.d_ffn
        self.expand = nn.Linear(config.d_model, d_ffn)
        self.contract = nn.Linear(d_ffn, config.d_model)
        self.gelu = nn.GELU(approximate="tanh" if config.gelu == "tanh" else "none")
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return contract(gelu(expand(x))) [batch_size, seq_len, d_model].

        Hendrycks & Gimpel (2016), "Gaussian Error Linear Units", https://arxiv.org/abs/1606.08415
        """
        hidden = self.expand(x)  # [batch_size, seq_len, d_ffn]
        activated = self.gelu(hidden)  # [batch_size, seq_len, d_ffn]
        output = self.contract(activated)  # [batch_size, seq_len, d_model]
        return self.dropout(output)


class Block(nn.Module):
    """Attention moves information between positions, the feed-forward part works on it; both only add to x."""

    def __init__(self, config: TorchConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.d_model)
        self.feed_forward = FeedForward(config)

    def forward(
        self, x: Tensor, visible: Tensor, positions: Tensor | None = None, cache: BlockCache | None = None
    ) -> Tensor:
        """Return x with both parts' contributions added [batch_size, seq_len, d_model]; x itself is left alone."""
        x = x + self.attention(self.attention_norm(x), visible, positions, cache)  # [batch_size, seq_len, d_model]
        x = x + self.feed_forward(self.feed_forward_norm(x))  # [batch_size, seq_len, d_model]
        return x


class Transformer(AutogradModel):
    """The whole: embeddings, blocks, and scores for the next token at every position."""

    def __init__(self, config: TorchConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        with torch.random.fork_rng(devices=[]):  # PyTorch's own initial values must not move its global random state
            self.token_embedding = nn.Embedding(vocab_size, config.d_model)
            self.position_embedding = nn.Embedding(config.max_seq_len, config.d_model)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
            self.final_norm = nn.LayerNorm(config.d_model)
        self.initialize(config.n_blocks, generator)

    @torch.no_grad()
    def initialize(self, n_blocks: int, generator: torch.Generator) -> None:
        """Set every parameter to GPT-2's initial values, drawn in the order of `named_parameters`.

        Each block adds to x twice. Drawing those 2 * n_blocks last matrices smaller keeps x as large at the end as at
        the start, at any depth.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.fill_(0.0)
            elif name.endswith(("attention.output.weight", "feed_forward.contract.weight")):
                parameter.normal_(0.0, 0.02 / math.sqrt(2 * n_blocks), generator=generator)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of the token after each of `input_ids`.

        Raises ValueError for ids outside the vocabulary and for more than max_seq_len of them.
        """
        return self.unembed(self.features(input_ids))

    def features(self, input_ids: Tensor) -> Tensor:
        """Return x at the top of the transformer [batch_size, seq_len, d_model], from which logits are made."""
        positions = torch.arange(input_ids.shape[-1], device=input_ids.device)  # [seq_len]
        visible = positions <= positions[:, None]  # [seq_len, seq_len]
        return self.read(input_ids, positions, visible)

    def make_cache(self, batch_size: int) -> list[BlockCache]:
        """Return an empty cache, one for each block. Slots hold zeros: a hidden NaN times a weight of 0 is a NaN."""
        table = self.position_embedding.weight  # [max_seq_len, d_model]
        dtype = torch.bfloat16 if self.config.dtype == "bfloat16" else table.dtype
        empty = torch.zeros(
            batch_size, *table.shape, dtype=dtype, device=table.device
        )  # [batch_size, max_seq_len, d_model]
        return [BlockCache(empty) for _ in self.blocks]

    def forward_with_cache(self, input_ids: Tensor, positions: Tensor, cache: list[BlockCache]) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of new ids at `positions` [batch_size, seq_len].

        Their keys and values are written to the cache; everything at or before a position is visible to it.
        """
        # Compiled code cannot depend on a value: there all slots are looked at, and `visible` hides those to come.
        n_keys = self.config.max_seq_len if torch.compiler.is_compiling() else int(positions.max()) + 1
        if n_keys > self.config.max_seq_len:
            raise ValueError(f"position {n_keys - 1} is outside the model's context of {self.config.max_seq_len}")
        slots = torch.arange(n_keys, device=positions.device)  # [n_keys]
        visible = slots <= positions[:, None, :, None]  # [batch_size, 1, seq_len, n_keys]
        return self.unembed(self.read(input_ids, positions, visible, cache))

    def read(
        self, input_ids: Tensor, positions: Tensor, visible: Tensor, cache: list[BlockCache] | None = None
    ) -> Tensor:
        """Return x [batch_size, seq_len, d_model] of ids at their positions, from the bottom to the top."""
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)

        # 1. What the token is and where it stands, added.
        x = self.token_embedding(input_ids) + self.position_embedding(positions)  # [batch_size, seq_len, d_model]
        x = self.dropout(x)  # [batch_size, seq_len, d_model]

        # 2. Every block reads x and adds to it.
        for index, block in enumerate(self.blocks):
            x = block(x, visible, positions, None if cache is None else cache[index])  # [batch_size, seq_len, d_model]
        return self.final_norm(x)  # [batch_size, seq_len, d_model]

    def unembed(self, features: Tensor) -> Tensor:
        """Return the logits [..., vocab_size] of x [..., d_model]: a token's is how well x matches its embedding.

        The table is used at both ends (tied).
        """
        return F.linear(features, self.token_embedding.weight)

    def flops_per_token(self, seq_len: int) -> float:
        """Return the operations of training on one token: 2 a weight and token forward, and twice that backward.

        Looking up an embedding multiplies nothing; the token table counts as the output projection that it also is.
        Scores and weighted means are 2 * seq_len * d_model each, in every block.
        """
        positions = self.position_embedding.weight.numel()
        matrices = sum(parameter.numel() for parameter in self.parameters() if parameter.dim() == 2) - positions
        attention = 4 * len(self.blocks) * seq_len * self.position_embedding.embedding_dim
        return float(3 * (2 * matrices + attention))
