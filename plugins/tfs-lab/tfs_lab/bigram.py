"""A logger that computes a yardstick: a model that knows which token follows which, and nothing else.

The probability of b after a is counted in the training tokens, and leans on b's own frequency where a is rare:

    p(b | a) = (count(a, b) + strength * p(b)) / (count(a) + strength)

MacKay & Peto (1995), "A hierarchical Dirichlet language model", https://doi.org/10.1017/S1351324900000218.
The strength is the one of a few that does best on a tenth of the tokens, when the other nine are counted.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfs_core.contracts import RunContext, RunLogger
from tfs_core.data.store import TokenSplit, open_store

MOST_TOKENS = 1 << 21
"""More are not counted, and not measured: enough for a yardstick, and read in a fraction of a second."""

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
TABLE_CELLS = 1 << 22
"""Up to so many pairs of ids a table holds all counts; beyond, only pairs that occur are held, sorted."""

Tokens = NDArray[np.int64]


def build(config: None, *, run: RunContext) -> RunLogger:  # noqa: ARG001 (it has no options)
    """Return a logger that is told nothing more: its number is in run.json, from the beginning of the run on."""
    store, tokenizer = None if run.tokens is None else open_store(run.tokens, identity={}), run.tokenizer
    if store is not None and tokenizer is not None and run.info.get("bigram_bits_per_byte") is None:
        vocab_size, byte_lengths = tokenizer.vocab_size, tokenizer.byte_lengths()
        bits = bigram_bits_per_byte(store.train, store.validation, vocab_size, byte_lengths)
        run.record(bigram_bits_per_byte=bits if math.isfinite(bits) else None)
    return RunLogger()


def bigram_bits_per_byte(
    train: TokenSplit, validation: TokenSplit, vocab_size: int, byte_lengths: NDArray[np.int64]
) -> float:
    """Return the bits per byte of validation text: nats of all its targets, end of text included, as in training.

    At most `MOST_TOKENS` from the beginning of each split are used. Infinite if no byte of text is among them.
    """
    counted, measured = _beginning(train), _beginning(validation)
    tenth = max(len(counted) // 10, 1)
    tried = _Bigram(counted[:-tenth], vocab_size)
    best = int(np.argmin(tried.nats(counted[-tenth - 1 :], STRENGTHS)))
    nats = _Bigram(counted, vocab_size).nats(measured, STRENGTHS[best : best + 1])[0]
    n_bytes = int(byte_lengths[measured[1:]].sum())
    return nats / math.log(2) / n_bytes if n_bytes else math.inf


def _beginning(split: TokenSplit) -> Tokens:
    """Return the end of text that stands before the first document, and the tokens from there on."""
    return np.concatenate([split.tokens[-1:], split.tokens[:MOST_TOKENS]]).astype(np.int64)


class _Bigram:
    """The counts of a text, the first token of which is a context only."""

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
        """Return, for each strength, the surprise at every token but the first, added up."""
        together = self._count(self._pairs(tokens))
        alone = self._unigram[tokens[1:]]
        contexts = self._contexts[tokens[:-1]]
        return [float(np.log((contexts + strength) / (together + strength * alone)).sum()) for strength in strengths]

    def _pairs(self, tokens: Tokens) -> Tokens:
        return tokens[:-1] * self._vocab_size + tokens[1:]

    def _count(self, pairs: Tokens) -> NDArray[Any]:
        """Return how often each of the pairs was counted."""
        if self._known_pairs is None:
            return np.asarray(self._pair_counts[pairs])
        if not len(self._known_pairs):
            return np.zeros(len(pairs), dtype=np.int64)
        asked, place_of_asked = np.unique(pairs, return_inverse=True)
        places = np.minimum(np.searchsorted(self._known_pairs, asked), len(self._known_pairs) - 1)
        counts = np.where(self._known_pairs[places] == asked, self._pair_counts[places], 0)
        return np.asarray(counts[place_of_asked])
