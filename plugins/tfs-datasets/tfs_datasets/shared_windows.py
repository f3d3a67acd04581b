"""How much of the validation text is trained on, where documents are not the same but parts of them are.

A window is so many tokens in a row. Windows are compared by a hash that can be computed for all places of an array at
once: the hash of a window is made of those of its two halves, and so on down to single tokens.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tfs_core.data.store import TokenSplit

WINDOW = 32
"""Tokens: a sentence or two, so that what everybody writes is not counted. A power of two."""

MOST_WINDOWS = 1 << 15
"""Of more validation windows so many are taken, evenly spaced: what share is found then errs by half a percent."""

MOST_TRAINING_TOKENS = 50_000_000
"""More are not looked through: that takes some seven seconds."""

_CHUNK = 1 << 20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, and its bits look random


def shared_windows(train: TokenSplit, validation: TokenSplit) -> tuple[int, int]:
    """Return how many of the validation windows compared are in the training tokens, anywhere, and how many were."""
    starts = np.arange(0, validation.n_tokens - WINDOW + 1, WINDOW)
    starts = starts[:: -(-len(starts) // MOST_WINDOWS) or 1]
    if not len(starts):
        return 0, 0
    wanted = np.concatenate([window_hashes(validation.tokens[start : start + WINDOW]) for start in starts.tolist()])
    different, which = np.unique(wanted, return_inverse=True)
    found = np.zeros(len(different), dtype=bool)
    for tokens in _chunks(train.tokens[:MOST_TRAINING_TOKENS]):
        hashes = window_hashes(tokens)
        places = np.searchsorted(different, hashes).clip(max=len(different) - 1)
        found[places[different[places] == hashes]] = True
    return int(found[which].sum()), len(starts)


def _chunks(tokens: NDArray[np.unsignedinteger]) -> Iterator[NDArray[np.unsignedinteger]]:
    """Iterate over pieces that overlap, so that every window is whole in one of them."""
    for start in range(0, len(tokens) - WINDOW + 1, _CHUNK):
        yield tokens[start : start + _CHUNK + WINDOW - 1]


def window_hashes(tokens: NDArray[np.unsignedinteger]) -> NDArray[np.uint64]:
    """Return a hash of the window that begins at each token: uint64 [len(tokens) - WINDOW + 1]."""
    hashes = (tokens.astype(np.uint64) + np.uint64(1)) * _FACTOR
    length, factor = 1, _FACTOR
    while length < WINDOW:
        hashes = _mixed(hashes[:-length] * factor + hashes[length:])
        length, factor = 2 * length, np.uint64(int(factor) ** 2 % 2**64)
    return hashes


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the hashes with their upper bits stirred into their lower ones, one to one."""
    return np.asarray(hashes ^ (hashes >> np.uint64(29)))
