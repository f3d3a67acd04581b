"""The transformer of the speed run. Small parts come before the whole.

    x = norm(sum_k tap_k[token k positions back])
    n_blocks times:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))
    logits = norm(x) @ head + sum_n table_n[the last n tokens]

The differences from GPT-2 reduce the loss in a given time; the README has the effect of each. Norms have no gains,
linear layers have no biases, and the output matrices of attention and feed-forward start at zero, so that blocks
initially leave x unchanged.

Shapes in this file
    batch_size  sequences in the batch
    seq_len     positions in each sequence
    n_tokens    all positions of the batch: batch_size * seq_len
    d_model     width of the residual stream, the x that every block reads and adds to
    n_heads     attention heads, each d_head = d_model / n_heads wide
    n_maps      attention maps of the batch: batch_size * n_heads
    d_ffn       hidden width of the feed-forward part
    n_features  d_model or d_ffn
    n_rows      rows of an n-gram table
    vocab_size  token types
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from tfs_core.models import AutogradModel, check_input_ids
from tfs_speedrun.config import SpeedrunConfig

HASH_MULTIPLIER = 0x9E3779B1  # 2^32 / golden ratio: spreads neighboring values (Knuth)
HASH_MODULUS = 2**31 - 1  # a prime


def norm(x: Tensor) -> Tensor:
    """Return x with each position's features normalized to mean 0 and variance 1, in the shape of x.

    There are no gains, because the matrices that follow can absorb them. PyTorch runs layer norm as one kernel forward
    and one backward. On a CPU this is faster than a root-mean-square norm, which takes several kernels.
    Ba, Kiros & Hinton (2016), "Layer Normalization", https://arxiv.org/abs/1607.06450
    """
    return F.layer_norm(x, x.shape[-1:])


def tokens_back(input_ids: Tensor, places: int, *, absent: int) -> Tensor:
    """Return the ids `places` positions earlier [batch_size, seq_len]; `absent` before the start of the sequence."""
    return F.pad(input_ids, (places, 0), value=absent)[:, : input_ids.shape[1]]


def hashed_contexts(input_ids: Tensor, n_context: int, *, n_rows: int, vocab_size: int) -> Tensor:
    """Return row numbers [batch_size, seq_len] of an n-gram table: each position's row for its last `n_context` ids.

    When the table has enough rows, every context has its own row, the shorter ones at the start of a sequence included.
    Otherwise contexts share rows by a hash, which costs little because most contexts are rare. (The products may
    overflow int64 and wrap around, which does not matter for a hash.)
    Mikolov et al. (2011), "Strategies for Training Large Scale Neural Network Language Models",
    https://doi.org/10.1109/ASRU.2011.6163930 (tables of hashed n-grams beside a network, trained together)
    """
    rows = torch.zeros_like(input_ids)  # [batch_size, seq_len]
    for places in range(n_context):
        earlier = tokens_back(input_ids, places, absent=vocab_size)  # [batch_size, seq_len]
        rows = rows * (vocab_size + 1) + earlier  # [batch_size, seq_len]
        if (vocab_size + 1) ** (places + 1) > n_rows:
            rows = rows * HASH_MULTIPLIER % HASH_MODULUS  # [batch_size, seq_len]
    return rows % n_rows


def drop_features(x: Tensor, share: float, *, seq_len: int) -> Tensor:
    """Return x [n_tokens, n_features] with dropout of whole features per sequence: a fraction `share` is set to zero.

    The other features are scaled up, as in dropout. All positions of a sequence share one mask, because drawing
    random numbers for each position takes longer than the matrix products.
    Gal & Ghahramani (2016), "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks",
    https://arxiv.org/abs/1512.05287
    """
    by_sequence = x.unflatten(0, (-1, seq_len))  # [batch_size, seq_len, n_features]
    kept = F.dropout(torch.ones_like(by_sequence[:, :1]), share)  # [batch_size, 1, n_features]
    return (by_sequence * kept).flatten(0, 1)


class TokenTaps(nn.Module):
    """The first x: the summed embeddings of the current token and of those right before it, each from its own table.

    It is a convolution over the last n_taps tokens. Without it, attention would first have to learn to attend
    to the previous position.
    So et al. (2021), "Primer", https://arxiv.org/abs/2109.08668 (short convolutions in a transformer)
    """

    def __init__(self, config: SpeedrunConfig, vocab_size: int) -> None:
        super().__init__()
        self.absent = vocab_size
        self.weight = Parameter(torch.zeros(config.n_taps, vocab_size + 1, config.d_model))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the normalized sum of the embeddings [batch_size, seq_len, d_model]."""
        x = F.embedding(input_ids, self.weight[0])  # [batch_size, seq_len, d_model]
        for places in range(1, len(self.weight)):
            earlier = tokens_back(input_ids, places, absent=self.absent)  # [batch_size, seq_len]
            x = x + F.embedding(earlier, self.weight[places])  # [batch_size, seq_len, d_model]
        return norm(x)


class Block(nn.Module):
    """A transformer block: attention between positions, then a feed-forward part per position; both add to x."""

    def __init__(self, config: SpeedrunConfig) -> None:
        super().__init__()
        d_model, d_ffn = config.d_model, config.d_ffn or 4 * config.d_model
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.query = Parameter(torch.zeros(d_model, d_model))
        self.key = Parameter(torch.zeros(d_model, d_model))
        self.value = Parameter(torch.zeros(d_model, d_model))
        self.output = Parameter(torch.zeros(d_model, d_model))
        self.distance_bias = Parameter(torch.zeros(config.max_seq_len, config.n_heads))
        self.expand = Parameter(torch.zeros(d_ffn, d_model))
        self.contract = Parameter(torch.zeros(d_model, d_ffn))

    def forward(self, x: Tensor, distance: Tensor, causal_mask: Tensor) -> Tensor:
        """Return x [n_tokens, d_model] plus the contributions of both parts; x itself is not modified.

        `distance` [seq_len, seq_len] is the number of positions from a query (first axis) back to a key (last axis).
        `causal_mask` [seq_len, seq_len] is -inf where the key is later than the query, and 0 elsewhere.
        """
        seq_len, d_model = distance.shape[0], x.shape[-1]
        d_head = d_model // self.n_heads

        # 1. Queries, keys and values of all heads, in one product
        weight = torch.cat((self.query, self.key, self.value))  # [3*d_model, d_model]
        projected = F.linear(norm(x), weight)  # [n_tokens, 3*d_model]
        parts = projected.view(-1, seq_len, 3, self.n_heads, d_head)  # [batch_size, seq_len, 3, n_heads, d_head]
        parts = parts.permute(2, 0, 3, 1, 4).flatten(1, 2)  # [3, n_maps, seq_len, d_head]
        queries, keys, values = parts  # [n_maps, seq_len, d_head]

        # 2. Scores, plus a learned bias of each head by distance. There are no absolute positions.
        #    Raffel et al. (2020), "T5", https://arxiv.org/abs/1910.10683; Press et al. (2022), "ALiBi",
        #    https://arxiv.org/abs/2108.12409 (the initial slopes)
        bias = F.embedding(distance, self.distance_bias).permute(2, 0, 1)  # [n_heads, seq_len, seq_len]
        bias = bias + causal_mask  # [n_heads, seq_len, seq_len]
        bias = bias.repeat(parts.shape[1] // self.n_heads, 1, 1)  # [n_maps, seq_len, seq_len]
        scale = 1.0 / math.sqrt(d_head)
        scores = torch.baddbmm(bias, queries, keys.mT, alpha=scale)  # [n_maps, seq_len, seq_len]
        weights = scores.softmax(dim=-1)  # [n_maps, seq_len, seq_len]
        gathered = torch.bmm(weights.to(values.dtype), values)  # [n_maps, seq_len, d_head]
        gathered = gathered.unflatten(0, (-1, self.n_heads)).transpose(1, 2).reshape_as(x)  # [n_tokens, d_model]
        x = torch.addmm(x, gathered, self.output.mT)  # [n_tokens, d_model]

        # 3. Each position by itself: ReLU squared, written as a product, because the gradient of torch's `square` takes
        #    a third longer.  So et al. (2021), "Primer", https://arxiv.org/abs/2109.08668
        hidden = F.relu(F.linear(norm(x), self.expand))  # [n_tokens, d_ffn]
        hidden = hidden * hidden  # [n_tokens, d_ffn]
        if self.training and self.dropout > 0:
            hidden = drop_features(hidden, self.dropout, seq_len=seq_len)  # [n_tokens, d_ffn]
        return torch.addmm(x, hidden, self.contract.mT)


class Speedrun(AutogradModel):
    """The whole model: token taps, blocks, and logits from x and from the n-gram tables."""

    def __init__(self, config: SpeedrunConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.taps = TokenTaps(config, vocab_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.head = Parameter(torch.zeros(vocab_size, config.d_model))
        self.ngram_contexts = config.ngram_contexts
        self.ngram_tables = nn.ParameterList(torch.zeros(n_rows, vocab_size) for n_rows in config.ngram_rows)
        self.initialize(config, generator)

    @torch.no_grad()
    def initialize(self, config: SpeedrunConfig, generator: torch.Generator) -> None:
        """Initialize the parameters that do not start at zero, in the order of `named_parameters`.

        `output`, `contract`, `head` and the n-gram tables start at zero, so that the initial predictions are uniform.
        `distance_bias` starts at -slope * distance. The slopes of the heads are 0.5, 0.5 / 4, 0.5 / 16, ...
        """
        for name, parameter in self.named_parameters():
            if name == "taps.weight":
                parameter.normal_(0.0, 0.5, generator=generator)
                parameter[0].mul_(2.0)  # the current token carries more information than earlier ones
            elif name.endswith(("query", "key", "value", "expand")):
                parameter.normal_(0.0, 0.7 / math.sqrt(config.d_model), generator=generator)
            elif name.endswith("distance_bias"):
                slopes = 0.5 * 4.0 ** -torch.arange(config.n_heads, device=parameter.device)  # [n_heads]
                parameter.copy_(-torch.arange(config.max_seq_len)[:, None] * slopes)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of the token after each of `input_ids`.

        Raises ValueError for ids outside the vocabulary and for sequences longer than max_seq_len.
        """
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # [seq_len]
        ahead = positions[:, None] - positions  # [seq_len, seq_len]
        causal_mask = torch.zeros_like(ahead, dtype=self.head.dtype)  # [seq_len, seq_len]
        causal_mask = causal_mask.masked_fill(ahead < 0, -math.inf)  # [seq_len, seq_len]

        # 1. The sum of the last few tokens. From here on, the positions of all sequences are the rows of one matrix.
        x = self.taps(input_ids).flatten(0, 1)  # [n_tokens, d_model]
        if self.training and self.config.dropout > 0:
            x = drop_features(x, self.config.dropout, seq_len=len(positions))  # [n_tokens, d_model]

        # 2. Every block reads x and adds to it
        for block in self.blocks:
            x = block(x, ahead.clamp(min=0), causal_mask)  # [n_tokens, d_model]

        # 3. The logits of the network, plus those of the n-gram tables
        logits = F.linear(norm(x), self.head)  # [n_tokens, vocab_size]
        for n_context, table in zip(self.ngram_contexts, self.ngram_tables, strict=True):
            rows = hashed_contexts(
                input_ids, n_context, n_rows=len(table), vocab_size=self.vocab_size
            )  # [batch_size, seq_len]
            logits = logits + F.embedding(rows.flatten(), table)  # [n_tokens, vocab_size]
        return logits.view(*input_ids.shape, self.vocab_size)

    def embedding_parameters(self) -> list[str]:
        """Return the names of the lookup tables: taps and n-grams."""
        return [name for name, _ in self.named_parameters() if name.startswith(("taps.", "ngram_tables."))]
