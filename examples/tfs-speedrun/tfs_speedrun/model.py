"""The transformer of the speed run. Read it from top to bottom: small parts come before the whole.

    x = norm(sum_k tap_k[token k places back])
    n_blocks times:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))
    logits = norm(x) @ head + sum_n table_n[the last n tokens]

What differs from GPT-2 is there because it learns more a second; the README says how much more each. Norms have no
gains, nothing has a bias, and what adds to x starts at zero, so that at first x passes through unchanged.

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

HASH_MULTIPLIER = 0x9E3779B1  # 2^32 divided by the golden ratio: what is near comes to lie far apart (Knuth)
HASH_MODULUS = 2**31 - 1  # a prime


def norm(x: Tensor) -> Tensor:
    """Return each position's features at mean 0 and variance 1, in the shape of x.

    Without gains, which the matrices that follow can hold. One kernel forward and one backward: faster on a CPU than
    the root-mean-square norm, which PyTorch puts together from several.
    Ba, Kiros & Hinton (2016), "Layer Normalization", https://arxiv.org/abs/1607.06450
    """
    return F.layer_norm(x, x.shape[-1:])


def tokens_back(input_ids: Tensor, places: int, *, absent: int) -> Tensor:
    """Return the id so many places before each position [batch_size, seq_len]; `absent` where there is none."""
    return F.pad(input_ids, (places, 0), value=absent)[:, : input_ids.shape[1]]


def hashed_contexts(input_ids: Tensor, n_context: int, *, n_rows: int, vocab_size: int) -> Tensor:
    """Return the row of an n-gram table [batch_size, seq_len] for the last `n_context` ids at every position.

    Where the table has a row for every context (those at the start of a sequence, which are short, included), each gets
    its own. Otherwise contexts share rows by chance, which costs little: most contexts are rare. (The products may
    pass the end of int64 and wrap around: a hash can bear that.)
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
    """Return x [n_tokens, n_features] with a share of each sequence's features at zero, the others grown.

    The same features at all positions of a sequence: drawing a number for each position takes longer than the products.
    Gal & Ghahramani (2016), "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks",
    https://arxiv.org/abs/1512.05287
    """
    by_sequence = x.unflatten(0, (-1, seq_len))  # [batch_size, seq_len, n_features]
    kept = F.dropout(torch.ones_like(by_sequence[:, :1]), share)  # [batch_size, 1, n_features]
    return (by_sequence * kept).flatten(0, 1)


class TokenTaps(nn.Module):
    """The first x: this token and those right before it, each looked up in a table of its own, and added.

    A convolution over the last n_taps tokens. Attention would have to learn to look one place back before it could
    learn anything from there; this knows where to look.
    So et al. (2021), "Primer", https://arxiv.org/abs/2109.08668 (short convolutions in a transformer)
    """

    def __init__(self, config: SpeedrunConfig, vocab_size: int) -> None:
        super().__init__()
        self.absent = vocab_size
        self.weight = Parameter(torch.zeros(config.n_taps, vocab_size + 1, config.d_model))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the sum of the looked up rows, at unit scale [batch_size, seq_len, d_model]."""
        x = F.embedding(input_ids, self.weight[0])  # [batch_size, seq_len, d_model]
        for places in range(1, len(self.weight)):
            earlier = tokens_back(input_ids, places, absent=self.absent)  # [batch_size, seq_len]
            x = x + F.embedding(earlier, self.weight[places])  # [batch_size, seq_len, d_model]
        return norm(x)


class Block(nn.Module):
    """Attention moves information between positions, the feed-forward part works on it; both only add to x."""

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

    def forward(self, x: Tensor, distance: Tensor, hidden_from: Tensor) -> Tensor:
        """Return x [n_tokens, d_model] with both parts' contributions added; x itself is left alone.

        `distance` [seq_len, seq_len] says how far back a key (last axis) is from a position (the axis before);
        `hidden_from` is -inf where it is later, and 0 elsewhere.
        """
        seq_len, d_model = distance.shape[0], x.shape[-1]
        d_head = d_model // self.n_heads

        # 1. What each position asks for, how it answers to others' questions, and what it offers: in one product.
        weight = torch.cat((self.query, self.key, self.value))  # [3*d_model, d_model]
        projected = F.linear(norm(x), weight)  # [n_tokens, 3*d_model]
        parts = projected.view(-1, seq_len, 3, self.n_heads, d_head)  # [batch_size, seq_len, 3, n_heads, d_head]
        parts = parts.permute(2, 0, 3, 1, 4).flatten(1, 2)  # [3, n_maps, seq_len, d_head]
        queries, keys, values = parts  # [n_maps, seq_len, d_head]

        # 2. Scores, to which each head adds what it thinks of the distance. No position is told where it stands.
        #    Raffel et al. (2020), "T5", https://arxiv.org/abs/1910.10683; Press et al. (2022), "ALiBi",
        #    https://arxiv.org/abs/2108.12409 (the initial slopes)
        bias = F.embedding(distance, self.distance_bias).permute(2, 0, 1)  # [n_heads, seq_len, seq_len]
        bias = bias + hidden_from  # [n_heads, seq_len, seq_len]
        bias = bias.repeat(parts.shape[1] // self.n_heads, 1, 1)  # [n_maps, seq_len, seq_len]
        scale = 1.0 / math.sqrt(d_head)
        scores = torch.baddbmm(bias, queries, keys.mT, alpha=scale)  # [n_maps, seq_len, seq_len]
        weights = scores.softmax(dim=-1)  # [n_maps, seq_len, seq_len]
        gathered = torch.bmm(weights.to(values.dtype), values)  # [n_maps, seq_len, d_head]
        gathered = gathered.unflatten(0, (-1, self.n_heads)).transpose(1, 2).reshape_as(x)  # [n_tokens, d_model]
        x = torch.addmm(x, gathered, self.output.mT)  # [n_tokens, d_model]

        # 3. Each position by itself, with the square of relu, written as a product: the gradient of torch's `square`
        #    takes a third longer.  So et al. (2021), "Primer", https://arxiv.org/abs/2109.08668
        hidden = F.relu(F.linear(norm(x), self.expand))  # [n_tokens, d_ffn]
        hidden = hidden * hidden  # [n_tokens, d_ffn]
        if self.training and self.dropout > 0:
            hidden = drop_features(hidden, self.dropout, seq_len=seq_len)  # [n_tokens, d_ffn]
        return torch.addmm(x, hidden, self.contract.mT)


class Speedrun(AutogradModel):
    """The whole: token taps, blocks, and scores for the next token from x and from the n-gram tables."""

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
        """Set every parameter that does not begin at zero, drawn in the order of `named_parameters`.

        `output`, `contract`, `head` and the n-gram tables do begin at zero: at first every token is as likely as any
        other. Of two heads, the one that follows begins four times as far-sighted.
        """
        for name, parameter in self.named_parameters():
            if name == "taps.weight":
                parameter.normal_(0.0, 0.5, generator=generator)
                parameter[0].mul_(2.0)  # the token itself says more than the ones before it
            elif name.endswith(("query", "key", "value", "expand")):
                parameter.normal_(0.0, 0.7 / math.sqrt(config.d_model), generator=generator)
            elif name.endswith("distance_bias"):
                slopes = 0.5 * 4.0 ** -torch.arange(config.n_heads, device=parameter.device)  # [n_heads]
                parameter.copy_(-torch.arange(config.max_seq_len)[:, None] * slopes)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of the token after each of `input_ids`.

        Raises ValueError for ids outside the vocabulary and for more than max_seq_len of them.
        """
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # [seq_len]
        ahead = positions[:, None] - positions  # [seq_len, seq_len]
        hidden_from = torch.zeros_like(ahead, dtype=self.head.dtype)  # [seq_len, seq_len]
        hidden_from = hidden_from.masked_fill(ahead < 0, -math.inf)  # [seq_len, seq_len]

        # 1. The last few tokens, added. From here on a position is a row of a matrix, whatever sequence it is of.
        x = self.taps(input_ids).flatten(0, 1)  # [n_tokens, d_model]
        if self.training and self.config.dropout > 0:
            x = drop_features(x, self.config.dropout, seq_len=len(positions))  # [n_tokens, d_model]

        # 2. Every block reads x and adds to it.
        for block in self.blocks:
            x = block(x, ahead.clamp(min=0), hidden_from)  # [n_tokens, d_model]

        # 3. What the network expects next, and what the tables remember to have followed the last tokens.
        logits = F.linear(norm(x), self.head)  # [n_tokens, vocab_size]
        for n_context, table in zip(self.ngram_contexts, self.ngram_tables, strict=True):
            rows = hashed_contexts(
                input_ids, n_context, n_rows=len(table), vocab_size=self.vocab_size
            )  # [batch_size, seq_len]
            logits = logits + F.embedding(rows.flatten(), table)  # [n_tokens, vocab_size]
        return logits.view(*input_ids.shape, self.vocab_size)

    def embedding_parameters(self) -> list[str]:
        """Return the names of the tables that are only looked up: taps and n-grams."""
        return [name for name, _ in self.named_parameters() if name.startswith(("taps.", "ngram_tables."))]
