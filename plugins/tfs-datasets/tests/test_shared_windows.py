"""Parts of the validation text that occur in the training text are found at any position."""

import numpy as np
import pytest
from numpy.typing import NDArray
from tfs_datasets import shared_windows as module
from tfs_datasets.shared_windows import WINDOW, shared_windows, window_hashes

from tfs_core.data.store import TokenSplit


def split_of(tokens: NDArray[np.int64]) -> TokenSplit:
    return TokenSplit(tokens.astype(np.uint16), np.array([0, len(tokens)]), len(tokens))


def random_tokens(seed: int, n: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 50_000, n)


def test_text_that_is_not_shared_is_not_found() -> None:
    assert shared_windows(split_of(random_tokens(1, 50_000)), split_of(random_tokens(2, 3_200))) == (0, 100)


@pytest.mark.parametrize("position", [0, 7, 12_345, 46_800])
def test_shared_part_is_found_at_any_position(position: int) -> None:
    train, validation = random_tokens(1, 50_000), random_tokens(2, 3_200)
    train[position : position + 10 * WINDOW] = validation[5 * WINDOW : 15 * WINDOW]
    assert shared_windows(split_of(train), split_of(validation)) == (10, 100)


def test_window_across_two_chunks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 100)
    train, validation = random_tokens(1, 1_000), random_tokens(2, WINDOW)
    train[90 : 90 + WINDOW] = validation
    assert shared_windows(split_of(train), split_of(validation)) == (1, 1)


def test_many_windows_are_compared_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WINDOWS", 40)
    tokens = split_of(random_tokens(1, 100 * WINDOW))
    assert shared_windows(tokens, tokens) == (34, 34)


def test_text_shorter_than_a_window_is_not_compared() -> None:
    assert shared_windows(split_of(random_tokens(1, 100)), split_of(random_tokens(2, WINDOW - 1))) == (0, 0)


def test_hash_of_a_window_follows_from_its_tokens_and_their_order() -> None:
    tokens = random_tokens(3, 1_000).astype(np.uint16)
    hashes = window_hashes(tokens)
    assert len(hashes) == len(tokens) - WINDOW + 1
    assert len(np.unique(hashes)) == len(hashes)
    assert window_hashes(tokens[500 : 500 + WINDOW])[0] == hashes[500]
    assert window_hashes(np.sort(tokens[500 : 500 + WINDOW]))[0] != hashes[500]
