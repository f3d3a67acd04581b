"""A modern transformer: tfs_torch/model.py (read it first) with changes that became standard since GPT-2.

    x = token embedding
    n_blocks times:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))
    logits = norm(x) @ token embedding transposed

The classes and their order are those of tfs_torch/model.py, so `diff` shows the differences. The docstring of each
change names the part that it replaces, the paper, and its worth: the loss without the change minus the loss with it,
for equal FLOPs and for equal seconds of training. `python plugins/tfs-baseline/ablation.py` measures the worth, and the
README has the table. With its default options the model is the same function as Hugging Face's Qwen3, and with
`qk_norm: false` the same as Llama.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence
    n_keys      positions with a key and a value: seq_len here; with a key/value cache, earlier ones too
    d_model     width of the residual stream, the x that every block reads and adds to
    n_heads     query heads, each d_head wide
    n_kv_heads  key/value heads, each of which serves n_shared = n_heads / n_kv_heads query heads
    d_ffn       hidden width of the feed-forward part
    vocab_size  token types
    n_rows      rows of a mask: batch_size, or 1 when it is the same for all sequences
    width       features that are normalized: d_model or d_head
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Dropout, Embedding, Identity, LayerNorm, Linear, Module, ModuleList, Parameter

from tfs_baseline.config import BaselineConfig
from tfs_core.models import AutogradModel, check_input_ids, parameter_dtype

EXPLICIT_UP_TO = 512
"""With `attention: auto`, the longest row for which a CPU takes the explicit form (benchmarks/attention_forms.py)."""


class Shared(NamedTuple):
    """The inputs of attention that are the same in every block, computed once."""

    rotation: tuple[Tensor, Tensor] | None
    """The cosines and sines that `rotate` needs, each [..., seq_len, 1, d_head]; None with learned positions."""

    mask: Tensor | None
    """Added to the scores: -inf where a key is hidden. [n_rows, 1, n_shared*seq_len, n_keys], or None if the fused form
    needs no mask."""

    fused: bool
    """True for the fused form of attention, False for the explicit form."""


def merge_heads(heads: Tensor) -> Tensor:
    """Return the heads [batch_size, n_heads, seq_len, d_head] concatenated [batch_size, seq_len, n_heads*d_head]."""
    separated = heads.transpose(1, 2)  # [batch_size, seq_len, n_heads, d_head]
    return separated.flatten(2)


class RMSNorm(Module):
    """The features of every position rescaled to a mean square of 1, and a gain; no mean is subtracted, no bias added.

    Instead of LayerNorm. Zhang & Sennrich (2019), "Root Mean Square Layer Normalization",
    https://arxiv.org/abs/1910.07467. Worth: -0.01 nats at equal FLOPs, which is within the spread of the seeds, and
    -0.04 at equal seconds: on a CPU PyTorch has one kernel for LayerNorm and computes RMSNorm in several.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return x / sqrt(mean(x * x) + epsilon) * weight [..., width], in float32 or wider."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # [..., width]
        return F.rms_norm(wide, self.weight.shape, self.weight, self.epsilon)


def build_norm(config: BaselineConfig) -> Module:
    """Return the norm that stands before each part of a block."""
    if config.norm == "layer":
        return LayerNorm(config.d_model, eps=config.norm_epsilon)
    return RMSNorm(config.d_model, config.norm_epsilon)


class Rotation(Module):
    """Rotary positions: each pair of features is rotated by an angle that is proportional to the position.

    Instead of a table of learned positions. Su et al. (2021), "RoFormer: Enhanced Transformer with Rotary Position
    Embedding", https://arxiv.org/abs/2104.09864. Worth: 0.6 nats at equal FLOPs and at equal seconds, the most of all.

    The dot product of a rotated query and a rotated key depends on the difference of their angles, so the scores depend
    on the distance between two positions and not on where they are. Each pair has a frequency of its own.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        # In the precision of the parameters: bfloat16 cannot represent position 257.
        dtype = parameter_dtype(config)
        exponents = torch.arange(0, config.head_width, 2, dtype=dtype) / config.head_width  # [d_head//2]
        frequencies = 1.0 / config.rope_theta**exponents  # [d_head//2]
        positions = torch.arange(config.max_seq_len, dtype=dtype)  # [max_seq_len]
        angles = torch.outer(positions, frequencies)  # [max_seq_len, d_head//2]
        # Feature i is paired with feature i + d_head / 2. The signs are for `rotate`.
        cosines = torch.cat([angles.cos(), angles.cos()], dim=-1)  # [max_seq_len, d_head]
        sines = torch.cat([-angles.sin(), angles.sin()], dim=-1)  # [max_seq_len, d_head]
        self.register_buffer("cosines", cosines, persistent=False)  # not saved: computed from the options
        self.register_buffer("sines", sines, persistent=False)

    def forward(self, positions: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of these positions, each [..., seq_len, 1, d_head]: the same for all heads.

        `positions` is a slice or int64 [..., seq_len].
        """
        cosines, sines = self.get_buffer("cosines"), self.get_buffer("sines")  # each [max_seq_len, d_head]
        return cosines[positions].unsqueeze(-2), sines[positions].unsqueeze(-2)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Return x [batch_size, seq_len, heads, d_head], each pair of features (a, b) rotated by the angle of its position.

    The rotated pair is (a * cos - b * sin, b * cos + a * sin). The two features of a pair are half a head apart.
    `rotation` is (cosines, sines), each [..., seq_len, 1, d_head].
    """
    cosines, sines = rotation  # each [..., seq_len, 1, d_head]
    partners = x.roll(x.shape[-1] // 2, dims=-1)  # [batch_size, seq_len, ..., d_head]
    return torch.addcmul(x * cosines, partners, sines)


class Attention(Module):
    """Each position reads from itself and from earlier positions, in several heads at once.

    No biases, here and in all other parts, instead of biases everywhere. Chowdhery et al. (2022), "PaLM",
    https://arxiv.org/abs/2204.02311. Worth: -0.03 nats at equal FLOPs, and 0.02 at equal seconds, because a step takes
    8 per cent less time.

    Grouped-query attention: fewer key/value heads than query heads, instead of as many. Ainslie et al. (2023), "GQA:
    Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", https://arxiv.org/abs/2305.13245.
    Worth: 0.03 nats at equal FLOPs and at equal seconds, and half the key/value cache.

    QK-norm: queries and keys are normalized, head by head. Henry et al. (2020), "Query-Key Normalization for
    Transformers", https://arxiv.org/abs/2010.04245; with a gain, as in Dehghani et al. (2023), "Scaling Vision
    Transformers to 22 Billion Parameters", https://arxiv.org/abs/2302.05442. Worth: 0.05 nats at equal FLOPs, and 0.02
    at equal seconds, because QK-norm takes a twentieth of a step.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.d_head = config.head_width
        self.query = Linear(config.d_model, config.n_heads * self.d_head, bias=False)
        self.key = Linear(config.d_model, config.kv_heads * self.d_head, bias=False)
        self.value = Linear(config.d_model, config.kv_heads * self.d_head, bias=False)
        self.query_norm = RMSNorm(self.d_head, config.norm_epsilon) if config.qk_norm else Identity()
        self.key_norm = RMSNorm(self.d_head, config.norm_epsilon) if config.qk_norm else Identity()
        self.output = Linear(config.n_heads * self.d_head, config.d_model, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """Return the contribution to the residual stream [batch_size, seq_len, d_model], given the normalized stream x.

        `shared` holds the rotation and the mask.
        """
        # 1. A position searches with its query, is found by its key, and passes on its value
        queries, keys, values = self.project(x, shared.rotation)

        # 2. Each position gets a weighted sum of the values, head by head
        attend = self.attend_fused if shared.fused else self.attend
        gathered = attend(queries, keys, values, shared.mask)  # [batch_size, n_heads, seq_len, d_head]

        # 3. The output projection mixes the heads
        output = self.output(merge_heads(gathered))  # [batch_size, seq_len, d_model]
        return self.dropout(output)

    def project(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [batch_size, n_heads, seq_len, d_head], and keys and values, which have n_kv_heads heads.

        x is [batch_size, seq_len, d_model]; `rotation` is that of `Shared`.
        """
        # 1. Each head gets d_head features of its own
        queries = self.query(x).unflatten(-1, (-1, self.d_head))  # [batch_size, seq_len, n_heads, d_head]
        keys = self.key(x).unflatten(-1, (-1, self.d_head))  # [batch_size, seq_len, n_kv_heads, d_head]
        values = self.value(x).unflatten(-1, (-1, self.d_head))  # [batch_size, seq_len, n_kv_heads, d_head]

        # 2. Queries and keys normalized, and rotated by the angles of their positions
        queries = self.query_norm(queries)  # [batch_size, seq_len, n_heads, d_head]
        keys = self.key_norm(keys)  # [batch_size, seq_len, n_kv_heads, d_head]
        if rotation is not None:
            queries = rotate(queries, rotation)  # [batch_size, seq_len, n_heads, d_head]
            keys = rotate(keys, rotation)  # [batch_size, seq_len, n_kv_heads, d_head]

        # 3. Norm and rotation are in float32; the products are computed in the type of the values
        queries = queries.to(values.dtype).transpose(1, 2)  # [batch_size, n_heads, seq_len, d_head]
        keys = keys.to(values.dtype).transpose(1, 2)  # [batch_size, n_kv_heads, seq_len, d_head]
        return queries, keys, values.transpose(1, 2)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return softmax(queries @ keys^T / sqrt(d_head) + mask) @ values [batch_size, n_heads, seq_len, d_head].

        Queries have the shape of the result, keys and values are [batch_size, n_kv_heads, n_keys, d_head], and the mask
        is [n_rows, 1, n_shared*seq_len, n_keys]. The queries of the n_shared heads that share a key/value head are
        concatenated along the positions, so that their keys need not be copied. One call multiplies, scales and adds
        the mask, which saves two passes over the scores forward, and two backward.
        """
        assert mask is not None, "the explicit form needs a mask"
        # 1. Query heads that share a key/value head, concatenated; the mask for each of them
        stacked = queries.reshape(-1, mask.shape[-2], self.d_head)  # [batch_size*n_kv_heads, n_shared*seq_len, d_head]
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)  # each [batch_size*n_kv_heads, n_keys, d_head]
        mask = mask.expand(len(queries), len(keys) // len(queries), -1, -1)
        mask = mask.flatten(0, 1)  # [batch_size*n_kv_heads, n_shared*seq_len, n_keys]

        # 2. and 3. How well does each query match each key? Later positions are hidden
        attention_scores = torch.baddbmm(
            mask, stacked, keys.mT, alpha=1 / math.sqrt(self.d_head)
        )  # [batch_size*n_kv_heads, n_shared*seq_len, n_keys]

        # 4. Scores become weights that sum to 1 over the keys (a softmax of bfloat16 computes in float32 inside)
        attention_weights = attention_scores.softmax(dim=-1)  # [batch_size*n_kv_heads, n_shared*seq_len, n_keys]

        # 5. In training some of the weights are dropped
        kept_weights = self.dropout(attention_weights)  # [batch_size*n_kv_heads, n_shared*seq_len, n_keys]

        # 6. Each query gets the weighted sum of the values
        gathered = kept_weights @ values  # [batch_size*n_kv_heads, n_shared*seq_len, d_head]
        return gathered.reshape(queries.shape)

    def attend_fused(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return the same as `attend`, computed by one kernel in tiles, which never stores all attention weights.

        Arguments and result have the shapes of `attend`: the mask is [n_rows, 1, n_shared*seq_len, n_keys].

        Dao et al. (2022), "FlashAttention", https://arxiv.org/abs/2205.14135. Without a mask, `is_causal` skips the
        tiles that causality hides, half of the work.
        """
        if mask is not None:
            mask = mask[:, :, : queries.shape[-2]]  # [n_rows, 1, seq_len, n_keys]
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=keys.shape[1] < queries.shape[1]
        )


class SwiGLU(Module):
    """Linear layers, d_model -> d_ffn -> d_model, with a gate on the d_ffn features; every position separately.

    Instead of GELU. Shazeer (2020), "GLU Variants Improve Transformer", https://arxiv.org/abs/2002.05202.
    Worth: 0.14 nats at equal FLOPs and at equal seconds.

    Three matrices instead of two: with d_ffn = 8/3 * d_model instead of 4 * d_model they have as many parameters.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.gate = Linear(config.d_model, config.hidden_width, bias=False)
        self.expand = Linear(config.d_model, config.hidden_width, bias=False)
        self.contract = Linear(config.hidden_width, config.d_model, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return contract(silu(gate(x)) * expand(x)) [batch_size, seq_len, d_model]; silu(a) is a * sigmoid(a)."""
        gate = F.silu(self.gate(x))  # [batch_size, seq_len, d_ffn]
        hidden = gate * self.expand(x)  # [batch_size, seq_len, d_ffn]
        output = self.contract(hidden)  # [batch_size, seq_len, d_model]
        return self.dropout(output)


class FeedForward(Module):
    """Two linear layers, d_model -> d_ffn -> d_model, with a nonlinearity between them; every position separately.

    SwiGLU replaces it.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.expand = Linear(config.d_model, config.hidden_width, bias=False)
        self.contract = Linear(config.hidden_width, config.d_model, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return contract(gelu(expand(x))) [batch_size, seq_len, d_model]."""
        hidden = self.expand(x)  # [batch_size, seq_len, d_ffn]
        activated = F.gelu(hidden)  # [batch_size, seq_len, d_ffn]
        output = self.contract(activated)  # [batch_size, seq_len, d_model]
        return self.dropout(output)


class Block(Module):
    """Attention moves information between positions, the feed-forward part processes it; both only add to x."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = build_norm(config)
        self.feed_forward = SwiGLU(config) if config.feed_forward == "swiglu" else FeedForward(config)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """Return x with the contributions of both parts added [batch_size, seq_len, d_model].

        x has the same shape; the other argument is that of `Attention.forward`.
        """
        # 1. x + attention(norm(x))
        normalized = self.attention_norm(x)  # [batch_size, seq_len, d_model]
        branch = self.attention(normalized, shared)  # [batch_size, seq_len, d_model]
        x = x + branch  # [batch_size, seq_len, d_model]

        # 2. x + feed_forward(norm(x))
        normalized = self.feed_forward_norm(x)  # [batch_size, seq_len, d_model]
        branch = self.feed_forward(normalized)  # [batch_size, seq_len, d_model]
        x = x + branch  # [batch_size, seq_len, d_model]
        return x


class Transformer(AutogradModel):
    """The whole: embeddings, blocks, and the logits of the next token at every position."""

    config: BaselineConfig
    takes_document_ids: Literal[True] = True

    def __init__(self, config: BaselineConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        with torch.random.fork_rng(devices=[]):  # PyTorch's initial values must not change the global random state
            self.token_embedding = Embedding(vocab_size, config.d_model)
            if config.positions == "learned":
                self.position_embedding = Embedding(config.max_seq_len, config.d_model)
            else:
                self.rotation = Rotation(config)
            self.dropout = Dropout(config.dropout)
            self.blocks = ModuleList(Block(config) for _ in range(config.n_blocks))
            self.final_norm = build_norm(config)
            # Untied: an output projection of its own, instead of the token table. Press & Wolf (2017), "Using the
            # Output Embedding to Improve Language Models", https://arxiv.org/abs/1608.05859. Worth: 0.015 nats, for a
            # seventh more parameters in a small model; off by default.
            if not config.tied:
                self.unembedding = Linear(config.d_model, vocab_size, bias=False)
        self.initialize(config.n_blocks, generator)

    @torch.no_grad()
    def initialize(self, n_blocks: int, generator: torch.Generator) -> None:
        """Initialize every parameter as in GPT-2, in the order of `named_parameters`.

        Each block adds to x twice. The sum of 2 * n_blocks independent terms grows like the root of their number, so
        the matrices that write to x are drawn smaller by that factor: x ends at about the same size at any depth.
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

    def forward(self, input_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of the token after each of `input_ids`.

        `input_ids` are [batch_size, seq_len].
        With `document_ids` [batch_size, seq_len] a position sees earlier positions of its own document only.
        Raises ValueError for ids outside the vocabulary and for more than max_seq_len of them.
        """
        return self.unembed(self.features(input_ids, document_ids))

    def features(self, input_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the last x, normalized [batch_size, seq_len, d_model]. Each block reads x and adds to it.

        Takes the arguments of `forward`, and raises ValueError as it does.
        """
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        seq_len = input_ids.shape[-1]
        positions = torch.arange(seq_len, device=input_ids.device)  # [seq_len]
        visible = (positions <= positions[:, None])[None]  # [1, seq_len, seq_len]
        if document_ids is not None:
            visible = visible & (document_ids[:, None] == document_ids[..., None])  # [batch_size, seq_len, seq_len]
        fused = self.is_fused(seq_len, seq_len)
        mask = None if fused and document_ids is None else self.mask(visible)  # [n_rows, 1, n_shared*seq_len, n_keys]
        shared = self.share(slice(0, seq_len), mask, fused)
        x = self.embed(input_ids, slice(0, seq_len))  # [batch_size, seq_len, d_model]
        for block in self.blocks:
            x = block(x, shared)  # [batch_size, seq_len, d_model]
        return self.final_norm(x)

    def embed(self, input_ids: Tensor, positions: Tensor | slice) -> Tensor:
        """Return the first x [batch_size, seq_len, d_model]: token embedding, plus position embedding if learned.

        `input_ids` are [batch_size, seq_len], `positions` a slice or [batch_size, seq_len].
        """
        x = self.token_embedding(input_ids)  # [batch_size, seq_len, d_model]
        if self.config.positions == "learned":
            position_vectors = self.position_embedding.weight[positions]  # [..., seq_len, d_model]
            x = x + position_vectors  # [batch_size, seq_len, d_model]
        return self.dropout(x)

    def unembed(self, features: Tensor) -> Tensor:
        """Return the logits [..., vocab_size]: how well the features [..., d_model] match the vector of each token."""
        table = self.token_embedding if self.config.tied else self.unembedding
        return F.linear(features, table.weight)

    def share(self, positions: Tensor | slice, mask: Tensor | None, fused: bool) -> Shared:
        """Return the inputs that all blocks share. The rotation is for `positions`; None if they are learned.

        `positions` is a slice or [batch_size, seq_len], the mask [n_rows, 1, n_shared*seq_len, n_keys].
        """
        rotation = self.rotation(positions) if self.config.positions == "rotary" else None
        return Shared(rotation, mask, fused)

    def mask(self, visible: Tensor) -> Tensor:
        """Return the mask that hides all keys but those that are `visible` [n_rows, seq_len, n_keys].

        Its rows are repeated for the query heads that `attend` concatenates: [n_rows, 1, n_shared*seq_len, n_keys].
        """
        zeros = torch.zeros(visible.shape, dtype=self.compute_dtype(), device=visible.device)
        hidden = zeros.masked_fill(~visible, -math.inf)  # [n_rows, seq_len, n_keys]
        return hidden.repeat(1, self.config.n_heads // self.config.kv_heads, 1)[:, None]

    def is_fused(self, seq_len: int, n_keys: int) -> bool:
        """Return whether attention uses the fused kernel; see `attention` in config.py."""
        if self.training and self.config.dropout > 0:
            return False  # the two forms draw different masks
        if self.config.attention == "auto":
            on_cpu = self.token_embedding.weight.device.type == "cpu"
            if on_cpu and seq_len == 1:
                return not torch.compiler.is_compiling()  # torch.compile generates one loop from the explicit form
            return not on_cpu or n_keys > EXPLICIT_UP_TO
        return self.config.attention == "fused"

    def compute_dtype(self) -> torch.dtype:
        """Return the type that matrix products are computed in."""
        return torch.bfloat16 if self.config.dtype == "bfloat16" else self.token_embedding.weight.dtype

    def flops_per_token(self, seq_len: int) -> float:
        """Return the FLOPs of training on one token: 2 for each weight in the forward pass, and twice that backward.

        An embedding look-up multiplies nothing; a tied token table is counted once, as the output projection.
        Scores and weighted sums are 2 * seq_len * n_heads * d_head each, in every block.
        """
        config = self.config
        matrices = sum(p.numel() for p in self.blocks.parameters() if p.dim() == 2) + self.vocab_size * config.d_model
        attention = 4 * config.n_blocks * seq_len * config.n_heads * config.head_width
        return 3.0 * (2 * matrices + attention)
