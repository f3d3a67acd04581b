"""The transformer that you would really train: `torch`'s, with what practice added. Read tfs_torch/model.py first.

    x = token embedding
    n_blocks times:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))
    logits = norm(x) @ token embedding transposed

The order is that of tfs_torch/model.py, so `diff` shows what is other. Each difference is marked: what it replaces,
who proposed it, and what it was worth when everything else stayed (plugins/tfs-baseline/ablation.py; the README has
the table). Configured as they are, it is the function of Hugging Face's Qwen3, or of Llama with `qk_norm: false`.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence now
    n_keys      positions that are looked at: seq_len, or with a cache every position so far
    d_model     width of the residual stream, the x that every block reads and adds to
    n_heads     heads that ask, each d_head wide
    n_kv_heads  heads that answer, each for n_shared = n_heads / n_kv_heads of those that ask
    d_ffn       hidden width of the feed-forward part
    vocab_size  token types
    n_rows      rows of a mask: batch_size, or 1 when all sequences see alike
    width       features of what is normed: d_model or d_head
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfs_baseline.config import BaselineConfig
from tfs_core.models import AutogradModel, check_input_ids, parameter_dtype

EXPLICIT_UP_TO = 512
"""With `attention: auto`, the longest row for which a CPU takes the explicit form (benchmarks/attention_forms.py)."""


class BlockCache:
    """What one block remembers while generating: the key and the value of every position so far."""

    def __init__(self, empty: Tensor) -> None:
        self.keys = empty.clone()  # [batch_size, n_kv_heads, max_seq_len, d_head]
        self.values = empty.clone()  # [batch_size, n_kv_heads, max_seq_len, d_head]

    def write(self, keys: Tensor, values: Tensor, positions: Tensor | slice) -> None:
        """Put keys and values [batch_size, n_kv_heads, seq_len, d_head] in the slots of their positions."""
        if isinstance(positions, slice):
            self.keys[:, :, positions] = keys
            self.values[:, :, positions] = values
        else:
            rows = torch.arange(len(positions), device=positions.device)[:, None]  # [batch_size, 1]
            self.keys[rows, :, positions] = keys.transpose(1, 2)
            self.values[rows, :, positions] = values.transpose(1, 2)


class Sight(NamedTuple):
    """What all blocks share while ids are read: where these stand, and what each may look at."""

    positions: Tensor | slice
    """Each sequence's own [batch_size, seq_len], or a slice when all have the same, one after the other."""

    rotation: tuple[Tensor, Tensor] | None
    """What `rotate` turns by; None with learned positions."""

    n_keys: int
    """How many slots of a cache are looked at."""

    mask: Tensor | None
    """What is added to the scores; None for plain causality, which the fused form knows by itself."""

    fused: bool
    """Which form attention takes."""


class RMSNorm(nn.Module):
    """Each position rescaled to a mean square of 1; nothing is centered, nothing is added.

    Instead of LayerNorm. Zhang & Sennrich (2019), "Root Mean Square Layer Normalization",
    https://arxiv.org/abs/1910.07467. Worth: one walk over x less, where it has a kernel of its own. On a
    CPU only LayerNorm has one: it costs 0.01 nats at equal FLOPs, no more than seeds differ, 0.04 at equal seconds.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return x / sqrt(mean(x * x) + epsilon) * weight [..., width], in float32 or wider."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # [..., width]
        return F.rms_norm(wide, self.weight.shape, self.weight, self.epsilon)


def build_norm(config: BaselineConfig) -> nn.Module:
    """Return the norm that stands before each part of a block."""
    if config.norm == "layer":
        return nn.LayerNorm(config.d_model, eps=config.norm_epsilon)
    return RMSNorm(config.d_model, config.norm_epsilon)


class Rotation(nn.Module):
    """Positions as angles: pairs of features are pointers that turn as the position grows, each pair slower.

    Instead of a table of learned positions. Su et al. (2021), "RoFormer: Enhanced Transformer with Rotary Position
    Embedding", https://arxiv.org/abs/2104.09864. Worth: 0.6 nats at equal FLOPs and at equal seconds: the most of all.

    A query and a key then meet at the angle between them: attention sees distances instead of places.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        # In the precision of the parameters, bfloat16 or not: it could not tell position 256 from 257.
        dtype = parameter_dtype(config)
        exponents = torch.arange(0, config.head_width, 2, dtype=dtype) / config.head_width  # [d_head//2]
        frequencies = 1.0 / config.rope_theta**exponents  # [d_head//2]
        positions = torch.arange(config.max_seq_len, dtype=dtype)  # [max_seq_len]
        angles = torch.outer(positions, frequencies)  # [max_seq_len, d_head//2]
        # Feature i is paired with feature i + d_head / 2. The signs are for `rotate`.
        cosines = torch.cat([angles.cos(), angles.cos()], dim=-1)  # [max_seq_len, d_head]
        sines = torch.cat([-angles.sin(), angles.sin()], dim=-1)  # [max_seq_len, d_head]
        self.register_buffer("cosines", cosines, persistent=False)  # they follow from the configuration: not saved
        self.register_buffer("sines", sines, persistent=False)

    def forward(self, positions: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return the cosines and the sines at these positions, each [..., seq_len, 1, d_head]: alike for all heads."""
        cosines, sines = self.get_buffer("cosines"), self.get_buffer("sines")  # each [max_seq_len, d_head]
        return cosines[positions].unsqueeze(-2), sines[positions].unsqueeze(-2)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Return x [batch_size, seq_len, heads, d_head], every pair of features (a, b) turned by its position's angle.

    That is (a * cos - b * sin, b * cos + a * sin): each feature, and its partner half a head away.
    """
    cosines, sines = rotation  # each [..., seq_len, 1, d_head]
    partners = x.roll(x.shape[-1] // 2, dims=-1)  # [batch_size, seq_len, ..., d_head]
    return torch.addcmul(x * cosines, partners, sines)


class Attention(nn.Module):
    """Each position asks a question of itself and of all before it, and takes a weighted mean of what they offer.

    No part has a bias, instead of all of them. Chowdhery et al. (2022), "PaLM", https://arxiv.org/abs/2204.02311.
    Worth: a tenth of a step's time; 0.03 nats the other way at equal FLOPs, which the time makes up for.

    Fewer heads answer than ask, instead of as many. Ainslie et al. (2023), "GQA: Training Generalized Multi-Query
    Transformer Models from Multi-Head Checkpoints", https://arxiv.org/abs/2305.13245. Worth: half the
    cache, and 0.03 nats at equal FLOPs and at equal seconds, though a step with all heads answering learns 0.02 more.

    Queries and keys are normed head by head. Henry et al. (2020), "Query-Key Normalization for Transformers",
    https://arxiv.org/abs/2010.04245; with a gain, as in Dehghani et al. (2023), "Scaling Vision Transformers to 22
    Billion Parameters", https://arxiv.org/abs/2302.05442. Worth: 0.05 nats at equal FLOPs, 0.02 at equal seconds, since
    it takes a twentieth of a step.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.d_head = config.head_width
        self.query = nn.Linear(config.d_model, config.n_heads * self.d_head, bias=False)
        self.key = nn.Linear(config.d_model, config.heads_that_answer * self.d_head, bias=False)
        self.value = nn.Linear(config.d_model, config.heads_that_answer * self.d_head, bias=False)
        self.query_norm = RMSNorm(self.d_head, config.norm_epsilon) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(self.d_head, config.norm_epsilon) if config.qk_norm else nn.Identity()
        self.output = nn.Linear(config.n_heads * self.d_head, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, sight: Sight, cache: BlockCache | None = None) -> Tensor:
        """Return what the heads gathered, as wide as x [batch_size, seq_len, d_model].

        With a cache, the keys and values of x go into it, and all that it holds up to there is looked at.
        """
        # 1. What each position asks for, how it answers to others' questions, and what it offers, head by head.
        queries = self.query(x).unflatten(-1, (-1, self.d_head))  # [batch_size, seq_len, n_heads, d_head]
        keys = self.key(x).unflatten(-1, (-1, self.d_head))  # [batch_size, seq_len, n_kv_heads, d_head]
        values = self.value(x).unflatten(-1, (-1, self.d_head))  # [batch_size, seq_len, n_kv_heads, d_head]

        # 2. Questions and answers of one length, turned to where they stand.
        queries = self.query_norm(queries)  # [batch_size, seq_len, n_heads, d_head]
        keys = self.key_norm(keys)  # [batch_size, seq_len, n_kv_heads, d_head]
        if sight.rotation is not None:
            queries = rotate(queries, sight.rotation)  # [batch_size, seq_len, n_heads, d_head]
            keys = rotate(keys, sight.rotation)  # [batch_size, seq_len, n_kv_heads, d_head]

        # 3. Norm and rotation are in float32. What is multiplied is in the compute type, which the values have.
        queries = queries.to(values.dtype).transpose(1, 2)  # [batch_size, n_heads, seq_len, d_head]
        keys = keys.to(values.dtype).transpose(1, 2)  # [batch_size, n_kv_heads, seq_len, d_head]
        values = values.transpose(1, 2)  # [batch_size, n_kv_heads, seq_len, d_head]
        if cache is not None:
            cache.write(keys, values, sight.positions)
            keys = cache.keys[:, :, : sight.n_keys]  # [batch_size, n_kv_heads, n_keys, d_head]
            values = cache.values[:, :, : sight.n_keys]  # [batch_size, n_kv_heads, n_keys, d_head]

        # 4. The heads side by side again, and a last projection that mixes them.
        if sight.fused or sight.mask is None:
            gathered = self.attend_fused(queries, keys, values, sight.mask)  # [batch_size, n_heads, seq_len, d_head]
        else:
            gathered = self.attend(queries, keys, values, sight.mask)  # [batch_size, n_heads, seq_len, d_head]
        joined = gathered.transpose(1, 2).flatten(2)  # [batch_size, seq_len, n_heads*d_head]
        output = self.output(joined)  # [batch_size, seq_len, d_model]
        return self.dropout(output)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Return softmax(queries @ keys^T / sqrt(d_head) + mask) @ values: the formula.

        Heads that ask the same head are stacked, one's positions after the other's: its keys are not copied for them.
        One call scales, adds the mask and multiplies, which saves two walks over the scores, forward and backward.
        """
        stacked = queries.reshape(-1, mask.shape[-2], self.d_head)  # [batch_size*n_kv_heads, n_shared*seq_len, d_head]
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)  # each [batch_size*n_kv_heads, n_keys, d_head]
        mask = mask.expand(len(queries), len(keys) // len(queries), -1, -1)
        mask = mask.flatten(0, 1)  # [batch_size*n_kv_heads, n_shared*seq_len, n_keys]
        attention_scores = torch.baddbmm(
            mask, stacked, keys.transpose(-2, -1), alpha=1 / math.sqrt(self.d_head)
        )  # [batch_size*n_kv_heads, n_shared*seq_len, n_keys]
        # A score of -inf becomes a weight of exactly 0. Inside, a softmax in bfloat16 computes in float32.
        attention_weights = attention_scores.softmax(dim=-1)  # [batch_size*n_kv_heads, n_shared*seq_len, n_keys]
        attention_weights = self.dropout(attention_weights)  # [batch_size*n_kv_heads, n_shared*seq_len, n_keys]
        gathered = attention_weights @ values  # [batch_size*n_kv_heads, n_shared*seq_len, d_head]
        return gathered.reshape(queries.shape)

    def attend_fused(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return what `attend` does from one kernel, which works in tiles and never holds all the weights at once.

        Dao et al. (2022), "FlashAttention", https://arxiv.org/abs/2205.14135. Without a mask it skips the tiles that
        causality hides, half of the work.
        """
        if queries.shape[-2] == 1 and mask is None:  # one new token sees everything; its heads are stacked as above
            stacked = queries.reshape(*keys.shape[:2], -1, self.d_head)  # [batch_size, n_kv_heads, n_shared, d_head]
            return F.scaled_dot_product_attention(stacked, keys, values).reshape(queries.shape)
        if mask is not None:
            mask = mask[:, :, : queries.shape[-2]]  # [n_rows, 1, seq_len, n_keys]
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=keys.shape[1] < queries.shape[1]
        )


class SwiGLU(nn.Module):
    """Each position by itself: expanded to d_ffn features, each opened or shut by a gate, contracted again.

    Instead of GELU. Shazeer (2020), "GLU Variants Improve Transformer", https://arxiv.org/abs/2002.05202.
    Worth: 0.14 nats at equal FLOPs and at equal seconds.

    Three matrices instead of two: with d_ffn = 8/3 * d_model instead of 4 * d_model they have as many parameters.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.hidden_width, bias=False)
        self.expand = nn.Linear(config.d_model, config.hidden_width, bias=False)
        self.contract = nn.Linear(config.hidden_width, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return contract(silu(gate(x)) * expand(x)) [batch_size, seq_len, d_model]; silu(a) is a * sigmoid(a)."""
        gate = F.silu(self.gate(x))  # [batch_size, seq_len, d_ffn]
        hidden = gate * self.expand(x)  # [batch_size, seq_len, d_ffn]
        output = self.contract(hidden)  # [batch_size, seq_len, d_model]
        return self.dropout(output)


class FeedForward(nn.Module):
    """What SwiGLU replaces: each position by itself, expanded to d_ffn features, bent by GELU, contracted again."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.d_model, config.hidden_width, bias=False)
        self.contract = nn.Linear(config.hidden_width, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return contract(gelu(expand(x))) [batch_size, seq_len, d_model]."""
        activated = F.gelu(self.expand(x))  # [batch_size, seq_len, d_ffn]
        output = self.contract(activated)  # [batch_size, seq_len, d_model]
        return self.dropout(output)


class Block(nn.Module):
    """Attention moves information between positions, the feed-forward part works on it; both only add to x."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = build_norm(config)
        self.feed_forward = SwiGLU(config) if config.feed_forward == "swiglu" else FeedForward(config)

    def forward(self, x: Tensor, sight: Sight, cache: BlockCache | None = None) -> Tensor:
        """Return x with both parts' contributions added [batch_size, seq_len, d_model]; x itself is left alone."""
        x = x + self.attention(self.attention_norm(x), sight, cache)  # [batch_size, seq_len, d_model]
        x = x + self.feed_forward(self.feed_forward_norm(x))  # [batch_size, seq_len, d_model]
        return x


class Transformer(AutogradModel):
    """The whole: embeddings, blocks, and scores for the next token at every position."""

    config: BaselineConfig
    takes_document_ids: Literal[True] = True

    def __init__(self, config: BaselineConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        with torch.random.fork_rng(devices=[]):  # PyTorch's own initial values must not move its global random state
            self.token_embedding = nn.Embedding(vocab_size, config.d_model)
            if config.positions == "learned":
                self.position_embedding = nn.Embedding(config.max_seq_len, config.d_model)
            else:
                self.rotation = Rotation(config)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
            self.final_norm = build_norm(config)
            # Tied: the token table serves both ends. Press & Wolf (2016), "Using the Output Embedding to Improve
            # Language Models", https://arxiv.org/abs/1608.05859. Worth: a seventh fewer parameters in a small
            # model, for 0.015 nats.
            if not config.tied:
                self.unembedding = nn.Linear(config.d_model, vocab_size, bias=False)
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
            elif name.endswith("norm.bias"):
                parameter.fill_(0.0)
            elif name.endswith(("attention.output.weight", "feed_forward.contract.weight")):
                parameter.normal_(0.0, 0.02 / math.sqrt(2 * n_blocks), generator=generator)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)

    def forward(self, input_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of the token after each of `input_ids`.

        With `document_ids` [batch_size, seq_len] a position sees earlier positions of its own document only.
        Raises ValueError for ids outside the vocabulary and for more than max_seq_len of them.
        """
        return self.unembed(self.features(input_ids, document_ids))

    def features(self, input_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return x at the top of the transformer [batch_size, seq_len, d_model], from which logits are made."""
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        seq_len = input_ids.shape[-1]
        slots = torch.arange(seq_len, device=input_ids.device)  # [seq_len]
        visible = (slots <= slots[:, None])[None]  # [1, seq_len, seq_len]
        if document_ids is not None:
            visible = visible & (document_ids[:, None] == document_ids[..., None])  # [batch_size, seq_len, seq_len]
        fused = self.is_fused(seq_len, seq_len)
        mask = None if fused and document_ids is None else self.mask(visible)  # [..., n_shared*seq_len, n_keys]
        return self.read(input_ids, self.sight(slice(0, seq_len), seq_len, mask, fused))

    def make_cache(self, batch_size: int) -> list[BlockCache]:
        """Return an empty cache, one for each block. Slots hold zeros: a hidden NaN times a weight of 0 is a NaN."""
        config = self.config
        sizes = (batch_size, config.heads_that_answer, config.max_seq_len, config.head_width)
        empty = torch.zeros(
            sizes, dtype=self.compute_dtype(), device=self.token_embedding.weight.device
        )  # [batch_size, n_kv_heads, max_seq_len, d_head]
        return [BlockCache(empty) for _ in self.blocks]

    def forward_with_cache(self, input_ids: Tensor, positions: Tensor, cache: list[BlockCache]) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of new ids at `positions` [batch_size, seq_len].

        Their keys and values are written to the cache; everything at or before a position is visible to it.
        """
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        # 1. When all sequences are at the same place, a slice of the cache is written: quicker than slot by slot.
        if torch.compiler.is_compiling():  # no value can be asked for: all slots are seen, but for those to come
            together, first, n_keys = False, 0, self.config.max_seq_len
        else:
            listed = positions.tolist()
            first, n_keys = listed[0][0], max(map(max, listed)) + 1
            if n_keys > self.config.max_seq_len:
                raise ValueError(f"position {n_keys - 1} is outside the model's context of {self.config.max_seq_len}")
            together = all(row == list(range(first, n_keys)) for row in listed)

        # 2. A single new token sees all there is, and the fused form needs no mask to know.
        fused = self.is_fused(input_ids.shape[-1], n_keys)
        if together and fused and input_ids.shape[-1] == 1:
            mask = None
        else:
            slots = torch.arange(n_keys, device=positions.device)  # [n_keys]
            mask = self.mask(slots <= positions[..., None])  # [n_rows, 1, n_shared*seq_len, n_keys]
        sight = self.sight(slice(first, n_keys) if together else positions, n_keys, mask, fused)
        return self.unembed(self.read(input_ids, sight, cache))

    def is_fused(self, seq_len: int, n_keys: int) -> bool:
        """Return which form attention takes; see `attention` in config.py."""
        if self.training and self.config.dropout > 0:
            return False  # the fused form cannot drop on a CPU, and elsewhere draws another mask
        if self.config.attention == "auto":
            on_cpu = self.token_embedding.weight.device.type == "cpu"
            if on_cpu and seq_len == 1:
                return not torch.compiler.is_compiling()  # which makes one loop of the explicit form
            return not on_cpu or n_keys > EXPLICIT_UP_TO
        return self.config.attention == "fused"

    def compute_dtype(self) -> torch.dtype:
        """Return what is multiplied in."""
        return torch.bfloat16 if self.config.dtype == "bfloat16" else self.token_embedding.weight.dtype

    def mask(self, visible: Tensor) -> Tensor:
        """Return what to add to scores so that only keys remain that are `visible` [n_rows, seq_len, n_keys].

        The rows are repeated for the heads that `attend` stacks [n_rows, 1, n_shared*seq_len, n_keys].
        """
        zeros = torch.zeros(visible.shape, dtype=self.compute_dtype(), device=visible.device)
        hidden = zeros.masked_fill(~visible, -math.inf)  # [n_rows, seq_len, n_keys]
        return hidden.repeat(1, self.config.n_heads // self.config.heads_that_answer, 1)[:, None]

    def sight(self, positions: Tensor | slice, n_keys: int, mask: Tensor | None, fused: bool) -> Sight:
        """Return what the blocks need to know, the angles of the positions looked up."""
        rotation = self.rotation(positions) if self.config.positions == "rotary" else None
        return Sight(positions, rotation, n_keys, mask, fused)

    def read(self, input_ids: Tensor, sight: Sight, cache: list[BlockCache] | None = None) -> Tensor:
        """Return x [batch_size, seq_len, d_model] of ids at their positions, from the bottom to the top."""
        # 1. What the token is. Where it stands is for attention to see, unless positions are learned.
        x = self.token_embedding(input_ids)  # [batch_size, seq_len, d_model]
        if self.config.positions == "learned":
            x = x + self.position_embedding.weight[sight.positions]  # [batch_size, seq_len, d_model]
        x = self.dropout(x)  # [batch_size, seq_len, d_model]

        # 2. Every block reads x and adds to it.
        for index, block in enumerate(self.blocks):
            x = block(x, sight, None if cache is None else cache[index])  # [batch_size, seq_len, d_model]
        return self.final_norm(x)  # [batch_size, seq_len, d_model]

    def unembed(self, features: Tensor) -> Tensor:
        """Return the logits [..., vocab_size] of x [..., d_model]: a token's is how well x matches its embedding."""
        table = self.token_embedding if self.config.tied else self.unembedding
        return F.linear(features, table.weight)

    def flops_per_token(self, seq_len: int) -> float:
        """Return the operations of training on one token: 2 a weight and token forward, and twice that backward.

        Looking up an embedding multiplies nothing; a tied token table counts as the output projection that it also is.
        Scores and weighted means are 2 * seq_len * n_heads * d_head each, in every block.
        """
        config = self.config
        matrices = sum(parameter.numel() for parameter in self.blocks.parameters() if parameter.dim() == 2)
        matrices += self.vocab_size * config.d_model
        attention = 4 * config.n_blocks * seq_len * config.n_heads * config.head_width
        return float(3 * (2 * matrices + attention))
