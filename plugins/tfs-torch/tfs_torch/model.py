"""The transformer in PyTorch, exactly GPT-2's function. Small parts come before the whole.

    x = token embedding + position embedding
    n_blocks times:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))
    logits = norm(x) @ token embedding transposed

Vaswani et al. (2017), "Attention Is All You Need", https://arxiv.org/abs/1706.03762
Radford et al. (2019), "Language Models are Unsupervised Multitask Learners" (GPT-2: the norm comes before each part),
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf

The classes, their order and their lines are those of tfs_custom/model.py, without the backward: autograd derives it.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence
    n_keys      positions with a key and a value: seq_len here; with a key/value cache, earlier ones too
    d_model     width of the residual stream, the x that every block reads and adds to
    n_heads     attention heads, each d_head = d_model / n_heads wide
    d_ffn       hidden width of the feed-forward part
    vocab_size  token types
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import GELU, Dropout, Embedding, LayerNorm, Linear, Module, ModuleList

from tfs_core.models import AutogradModel, check_input_ids
from tfs_torch.config import TorchConfig


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """Return x [batch_size, n_keys, d_model] cut into heads [batch_size, n_heads, n_keys, d_head], without copying."""
    separated = x.reshape(*x.shape[:2], n_heads, -1)  # [batch_size, n_keys, n_heads, d_head]
    return separated.transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """Return the heads [batch_size, n_heads, seq_len, d_head] concatenated again [batch_size, seq_len, d_model]."""
    separated = heads.transpose(1, 2)  # [batch_size, seq_len, n_heads, d_head]
    return separated.flatten(2)


class Attention(Module):
    """Each position reads from itself and from earlier positions, in several heads at once."""

    def __init__(self, config: TorchConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.fused = config.attention == "fused"
        self.query = Linear(config.d_model, config.d_model)
        self.key = Linear(config.d_model, config.d_model)
        self.value = Linear(config.d_model, config.d_model)
        self.output = Linear(config.d_model, config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Return the contribution to the residual stream [batch_size, seq_len, d_model], given the normalized stream x.

        `visible` is the causal mask [seq_len, seq_len].
        """
        # 1. A position searches with its query, is found by its key, and passes on its value
        queries = self.query(x)  # [batch_size, seq_len, d_model]
        keys = self.key(x)  # [batch_size, seq_len, d_model]
        values = self.value(x)  # [batch_size, seq_len, d_model]

        # 2. Each position gets a weighted sum of the values, head by head
        attend = self.attend_fused if self.is_fused() else self.attend
        gathered = attend(queries, keys, values, visible)  # [batch_size, seq_len, d_model]

        # 3. The output projection mixes the heads
        output = self.output(gathered)  # [batch_size, seq_len, d_model]
        return self.dropout(output)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """Return softmax(queries @ keys^T / sqrt(d_head)) @ values of each head [batch_size, seq_len, d_model].

        Queries are [batch_size, seq_len, d_model], keys and values [batch_size, n_keys, d_model]. `visible` is True
        where a query may read from a key, of a shape that broadcasts to [batch_size, n_heads, seq_len, n_keys]. The
        steps are those of tfs_custom/ops/attention.py.
        """
        # 1. Each head gets d_head features of its own
        head_queries = split_heads(queries, self.n_heads)  # [batch_size, n_heads, seq_len, d_head]
        head_keys = split_heads(keys, self.n_heads)  # [batch_size, n_heads, n_keys, d_head]
        head_values = split_heads(values, self.n_heads)  # [batch_size, n_heads, n_keys, d_head]

        # 2. How well does each query match each key? Unscaled, the variance of the scores would grow with d_head
        scale = 1.0 / math.sqrt(head_queries.shape[-1])
        scaled_queries = head_queries * scale  # [batch_size, n_heads, seq_len, d_head]
        attention_scores = scaled_queries @ head_keys.mT  # [batch_size, n_heads, seq_len, n_keys]

        # 3. Hide later positions, which do not exist yet when the model generates text
        visible_scores = attention_scores.masked_fill(~visible, -math.inf)  # [batch_size, n_heads, seq_len, n_keys]

        # 4. Scores become weights that sum to 1 over the keys (computed in float32 or wider: bfloat16 is too coarse)
        wide = torch.promote_types(visible_scores.dtype, torch.float32)
        attention_weights = visible_scores.softmax(dim=-1, dtype=wide)  # [batch_size, n_heads, seq_len, n_keys]

        # 5. In training some of the weights are dropped
        kept_weights = self.dropout(attention_weights)  # [batch_size, n_heads, seq_len, n_keys]

        # 6. Each query gets the weighted sum of the values, and the heads are concatenated again
        gathered = kept_weights @ head_values  # [batch_size, n_heads, seq_len, d_head]
        return merge_heads(gathered)

    def attend_fused(self, queries: Tensor, keys: Tensor, values: Tensor, _visible: Tensor) -> Tensor:
        """Return the same as `attend`, computed by one kernel in tiles, which never stores all attention weights.

        Queries, keys, values and the result are [batch_size, seq_len, d_model].

        Dao et al. (2022), "FlashAttention", https://arxiv.org/abs/2205.14135. It needs no mask: `is_causal` skips the
        tiles that causality hides, half of the work.
        """
        head_queries = split_heads(queries, self.n_heads)  # [batch_size, n_heads, seq_len, d_head]
        head_keys = split_heads(keys, self.n_heads)  # [batch_size, n_heads, n_keys, d_head]
        head_values = split_heads(values, self.n_heads)  # [batch_size, n_heads, n_keys, d_head]
        gathered = F.scaled_dot_product_attention(
            head_queries, head_keys, head_values, is_causal=True
        )  # [batch_size, n_heads, seq_len, d_head]
        return merge_heads(gathered)

    def is_fused(self) -> bool:
        """Return whether attention is fused. With dropout in training it is not: the two forms draw different masks."""
        return self.fused and not (self.training and self.dropout.p > 0)


class FeedForward(Module):
    """Two linear layers, d_model -> d_ffn -> d_model, with a nonlinearity between them; every position separately."""

    def __init__(self, config: TorchConfig) -> None:
        super().__init__()
        d_ffn = 4 * config.d_model if config.d_ffn is None else config.d_ffn
        self.expand = Linear(config.d_model, d_ffn)
        self.gelu = GELU(approximate="tanh" if config.gelu == "tanh" else "none")
        self.contract = Linear(d_ffn, config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return contract(gelu(expand(x))) [batch_size, seq_len, d_model]."""
        hidden = self.expand(x)  # [batch_size, seq_len, d_ffn]
        activated = self.gelu(hidden)  # [batch_size, seq_len, d_ffn]
        output = self.contract(activated)  # [batch_size, seq_len, d_model]
        return self.dropout(output)


class Block(Module):
    """Attention moves information between positions, the feed-forward part processes it; both only add to x."""

    def __init__(self, config: TorchConfig) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.feed_forward_norm = LayerNorm(config.d_model)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Return x with the contributions of both parts added [batch_size, seq_len, d_model].

        x has the same shape; the other argument is that of `Attention.forward`.
        """
        # 1. x + attention(norm(x))
        normalized = self.attention_norm(x)  # [batch_size, seq_len, d_model]
        branch = self.attention(normalized, visible)  # [batch_size, seq_len, d_model]
        x = x + branch  # [batch_size, seq_len, d_model]

        # 2. x + feed_forward(norm(x))
        normalized = self.feed_forward_norm(x)  # [batch_size, seq_len, d_model]
        branch = self.feed_forward(normalized)  # [batch_size, seq_len, d_model]
        x = x + branch  # [batch_size, seq_len, d_model]
        return x


class Transformer(AutogradModel):
    """The whole: embeddings, blocks, and the logits of the next token at every position."""

    config: TorchConfig

    def __init__(self, config: TorchConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        with torch.random.fork_rng(devices=[]):  # PyTorch's initial values must not change the global random state
            self.token_embedding = Embedding(vocab_size, config.d_model)
            self.position_embedding = Embedding(config.max_seq_len, config.d_model)
            self.dropout = Dropout(config.dropout)
            self.blocks = ModuleList(Block(config) for _ in range(config.n_blocks))
            self.final_norm = LayerNorm(config.d_model)
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

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of the token after each of `input_ids`.

        `input_ids` are [batch_size, seq_len].
        Raises ValueError for ids outside the vocabulary and for more than max_seq_len of them.
        """
        return self.unembed(self.features(input_ids))

    def features(self, input_ids: Tensor) -> Tensor:
        """Return the last x, normalized [batch_size, seq_len, d_model]. Each block reads x and adds to it.

        Takes the arguments of `forward`, and raises ValueError as it does.
        """
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        positions = torch.arange(input_ids.shape[-1], device=input_ids.device)  # [seq_len]
        visible = positions <= positions[:, None]  # [seq_len, seq_len]
        x = self.embed(input_ids, positions)  # [batch_size, seq_len, d_model]
        for block in self.blocks:
            x = block(x, visible)  # [batch_size, seq_len, d_model]
        return self.final_norm(x)

    def embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Return the first x [batch_size, seq_len, d_model]: token embedding plus position embedding.

        `input_ids` are [batch_size, seq_len], `positions` [..., seq_len].
        """
        token_vectors = self.token_embedding(input_ids)  # [batch_size, seq_len, d_model]
        position_vectors = self.position_embedding(positions)  # [..., seq_len, d_model]
        x = token_vectors + position_vectors  # [batch_size, seq_len, d_model]
        return self.dropout(x)

    def unembed(self, features: Tensor) -> Tensor:
        """Return the logits [..., vocab_size]: how well the features [..., d_model] match the vector of each token.

        The table of the token embedding is used a second time (tied).
        """
        return F.linear(features, self.token_embedding.weight)

    def flops_per_token(self, seq_len: int) -> float:
        """Return the FLOPs of training on one token: 2 for each weight in the forward pass, and twice that backward.

        An embedding look-up multiplies nothing; the token table is counted once, as the output projection. Scores and
        weighted sums are 2 * seq_len * d_model each, in every block.
        """
        positions = self.position_embedding.weight.numel()
        matrices = sum(p.numel() for _, p in self.named_parameters() if p.dim() == 2) - positions
        attention = 4 * self.config.n_blocks * seq_len * self.config.d_model
        return 3.0 * (2 * matrices + attention)
