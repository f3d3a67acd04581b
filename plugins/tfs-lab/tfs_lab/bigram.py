"""A logger that computes a reference value for a run: the bits per byte of a smoothed bigram model.

The probability of b after a is counted in the training tokens and smoothed with the frequency of b:

    p(b | a) = (count(a, b) + strength * p(b)) / (count(a) + strength)

MacKay & Peto (1995), "A hierarchical Dirichlet language model", https://doi.org/10.1017/S1351324900000218.
The strength is the one of `STRENGTHS` with the lowest loss on the last tenth of the training tokens, given the counts
of the first nine tenths.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfs_core.contracts import RunContext, RunLogger
from tfs_core.data.store import TokenSplit, open_store

MOST_TOKENS = 1 << 21
"""The maximum number of tokens used from each split: enough for a reference value, read in a fraction of a second."""

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
TABLE_CELLS = 1 << 22
"""The largest vocab_size**2 for a dense table of counts. Above it, a sorted list of the occurring pairs is stored."""

Tokens = NDArray[np.int64]


def build(config: None, *, run: RunContext) -> RunLogger:  # noqa: ARG001 (it has no options)
    """Record `bigram_bits_per_byte` in run.json when the run starts, and return a logger that does nothing.

    A value that is not finite is recorded as null. A resumed run keeps the value recorded before.
    """
    store, tokenizer = None if run.tokens is None else open_store(run.tokens, identity={}), run.tokenizer
    if store is not None and tokenizer is not None and run.info.get("bigram_bits_per_byte") is None:
        vocab_size, byte_lengths = tokenizer.vocab_size, tokenizer.byte_lengths()
        bits = bigram_bits_per_byte(store.train, store.validation, vocab_size, byte_lengths)
        run.record(bigram_bits_per_byte=bits if math.isfinite(bits) else None)
    return RunLogger()


def bigram_bits_per_byte(
    train: TokenSplit, validation: TokenSplit, vocab_size: int, byte_lengths: NDArray[np.int64]
) -> float:
    """Return the bits per byte of a bigram model of the training tokens on the validation text.

    Bits per byte are the loss summed over all targets, in bits, divided by the number of bytes. As in training,
    end-of-text tokens are targets too. `byte_lengths` [vocab_size] is the length of each id in bytes. The first
    `MOST_TOKENS` tokens of each split are used. Returns infinity when the validation tokens contain no byte of text.
    """
    train_tokens, validation_tokens = _first_tokens(train), _first_tokens(validation)
    tenth = max(len(train_tokens) // 10, 1)
    first_part = _Bigram(train_tokens[:-tenth], vocab_size)
    best = int(np.argmin(first_part.nats(train_tokens[-tenth - 1 :], STRENGTHS)))
    nats = _Bigram(train_tokens, vocab_size).nats(validation_tokens, STRENGTHS[best : best + 1])[0]
    n_bytes = int(byte_lengths[validation_tokens[1:]].sum())
    return nats / math.log(2) / n_bytes if n_bytes else math.inf


def _first_tokens(split: TokenSplit) -> Tokens:
    """Return the first `MOST_TOKENS` tokens of a split, with an end-of-text token before them as the first context."""
    return np.concatenate([split.tokens[-1:], split.tokens[:MOST_TOKENS]]).astype(np.int64)


class _Bigram:
    """The bigram counts of a token sequence; its first token serves as a context only."""

    def __init__(self, tokens: Tokens, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._contexts = np.bincount(tokens[:-1], minlength=vocab_size)
        singles = np.bincount(tokens[1:], minlength=vocab_size)
        self._unigram = (singles + 1) / (len(tokens) - 1 + vocab_size)
        pairs = self._pairs(tokens)
        self._pair_counts: NDArray[Any]
        if vocab_size**2 <= TABLE_CELLS:
            self._known_pairs = None
            self._pair_counts = np.bincount(pairs, minlength=vocab_size**2)
        else:
            self._known_pairs, self._pair_counts = np.unique(pairs, return_counts=True)

    def nats(self, tokens: Tokens, strengths: Sequence[float]) -> list[float]:
        """Return, for each strength, the sum of -log p (nats) over all tokens but the first."""
        pair_counts = self._count(self._pairs(tokens))
        unigram = self._unigram[tokens[1:]]
        contexts = self._contexts[tokens[:-1]]
        return [float(np.log((contexts + s) / (pair_counts + s * unigram)).sum()) for s in strengths]

    def _pairs(self, tokens: Tokens) -> Tokens:
        return tokens[:-1] * self._vocab_size + tokens[1:]

    def _count(self, pairs: Tokens) -> NDArray[Any]:
        """Return the count of each pair [n_pairs]; 0 for a pair that does not occur."""
        if self._known_pairs is None:
            return np.asarray(self._pair_counts[pairs])
        if not len(self._known_pairs):
            return np.zeros(len(pairs), dtype=np.int64)
        unique_pairs, inverse = np.unique(pairs, return_inverse=True)
        places = np.minimum(np.searchsorted(self._known_pairs, unique_pairs), len(self._known_pairs) - 1)
        counts = np.where(self._known_pairs[places] == unique_pairs, self._pair_counts[places], 0)
        return np.asarray(counts[inverse])
