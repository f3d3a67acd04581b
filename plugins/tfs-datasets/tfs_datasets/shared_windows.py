"""Overlap of the validation text with the training text, also where only parts of documents are equal.

A window is `WINDOW` consecutive tokens. Windows are compared by a hash that is vectorized over all positions of an
array: the hash of a window is computed from the hashes of its two halves, recursively down to single tokens.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tfs_core.data.store import TokenSplit

WINDOW = 32
"""Tokens per window, a power of two: one or two sentences, so that common phrases are not counted."""

MOST_WINDOWS = 1 << 15
"""Maximum number of validation windows to compare, evenly spaced. The measured share has an error of half a percent."""

MOST_TRAINING_TOKENS = 50_000_000
"""Maximum number of training tokens to search, from the beginning. Searching them takes about seven seconds."""

_CHUNK = 1 << 20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, with well-mixed bits (2**64 divided by the golden ratio)


def shared_windows(train: TokenSplit, validation: TokenSplit) -> tuple[int, int]:
    """Return (number of validation windows found anywhere in the training tokens, number compared)."""
    starts = np.arange(0, validation.n_tokens - WINDOW + 1, WINDOW)
    starts = starts[:: -(-len(starts) // MOST_WINDOWS) or 1]
    if not len(starts):
        return 0, 0
    wanted = np.concatenate([window_hashes(validation.tokens[start : start + WINDOW]) for start in starts.tolist()])
    different, which = np.unique(wanted, return_inverse=True)
    found = np.zeros(len(different), dtype=bool)
    for tokens in _chunks(train.tokens[:MOST_TRAINING_TOKENS]):
        hashes = window_hashes(tokens)
        indices = np.searchsorted(different, hashes).clip(max=len(different) - 1)
        found[indices[different[indices] == hashes]] = True
    return int(found[which].sum()), len(starts)


def _chunks(tokens: NDArray[np.unsignedinteger]) -> Iterator[NDArray[np.unsignedinteger]]:
    """Iterate over overlapping chunks, so that every window is complete in one of them."""
    for start in range(0, len(tokens) - WINDOW + 1, _CHUNK):
        yield tokens[start : start + _CHUNK + WINDOW - 1]


def window_hashes(tokens: NDArray[np.unsignedinteger]) -> NDArray[np.uint64]:
    """Return the hash of the window that begins at each token: uint64 [len(tokens) - WINDOW + 1]."""
    hashes = (tokens.astype(np.uint64) + np.uint64(1)) * _FACTOR
    length, factor = 1, _FACTOR
    while length < WINDOW:
        hashes = _mixed(hashes[:-length] * factor + hashes[length:])
        length, factor = 2 * length, np.uint64(int(factor) ** 2 % 2**64)
    return hashes


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the hashes with the upper bits mixed into the lower ones; the mapping is one-to-one."""
    return np.asarray(hashes ^ (hashes >> np.uint64(29)))
