"""Multithreaded encoding of text: batches of pieces are encoded concurrently, and returned in the order of the text.

Threads suffice, because fast tokenizers release Python's global interpreter lock, and they avoid copying text between
processes. The result does not depend on the number of threads.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfs_core.contracts import Tokenizer
from tfs_core.data.documents import Piece
from tfs_core.errors import DataError

BATCH_CHARACTERS = 1 << 19
BATCH_PIECES = 1 << 12
"""Limits on the characters and pieces in one call of the tokenizer."""

MAX_THREADS = 8
"""More threads would not help: a single thread reads and writes for all of them."""


@dataclass(frozen=True)
class Block:
    """Consecutive tokens [n_tokens] of a split, and the ends of its documents [documents]."""

    split: str
    tokens: NDArray[np.int64]  # with end of text after each document
    document_ends: NDArray[np.int64]  # index in `tokens` after each end of text
    n_bytes: int  # of the text, in UTF-8


def encode(pieces: Iterable[tuple[str, Piece]], tokenizer: Tokenizer, *, threads: int | None = None) -> Iterator[Block]:
    """Iterate over the tokens of pieces, given as (split, piece), in the order of each split.

    The default for `threads` is the number of processors, at most MAX_THREADS. Raises DataError for an invalid id.
    """
    threads = threads or min(os.cpu_count() or 1, MAX_THREADS)
    encoding: deque[Future[list[Block]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="encoder") as pool:
        for batch in _batches(pieces):
            encoding.append(pool.submit(_encode_batch, batch, tokenizer))
            if len(encoding) > threads:  # one batch per thread, and one waiting
                yield from encoding.popleft().result()
        while encoding:
            yield from encoding.popleft().result()


def _batches(pieces: Iterable[tuple[str, Piece]]) -> Iterator[list[tuple[str, Piece]]]:
    batch: list[tuple[str, Piece]] = []
    characters = 0
    for split, piece in pieces:
        batch.append((split, piece))
        characters += len(piece.text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_PIECES:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode_batch(batch: Sequence[tuple[str, Piece]], tokenizer: Tokenizer) -> list[Block]:
    """Return the tokens of a batch, one block per split."""
    encoded = tokenizer.encode_batch([piece.text for _, piece in batch])
    splits: dict[str, list[tuple[Piece, Any]]] = {}
    for (split, piece), ids in zip(batch, encoded, strict=True):
        splits.setdefault(split, []).append((piece, ids))
    return [_block(split, pieces, tokenizer) for split, pieces in splits.items()]


def _block(split: str, pieces: Sequence[tuple[Piece, Any]], tokenizer: Tokenizer) -> Block:
    """Return the concatenated ids of a split's pieces. Raises DataError for an invalid id."""
    end_of_text, vocab_size = tokenizer.end_of_text_id, tokenizer.vocab_size
    parts: list[Any] = []
    ends: list[int] = []
    length = 0
    for piece, ids in pieces:
        parts.append(ids)
        length += len(ids)
        if piece.ends:
            parts.append([end_of_text])
            length += 1
            ends.append(length)
    tokens = np.concatenate(parts, dtype=np.int64, casting="unsafe")
    ends_found = np.count_nonzero(tokens == end_of_text)
    if length and (ends_found != len(ends) or tokens.min() < 0 or tokens.max() >= vocab_size):
        raise DataError(
            f"{type(tokenizer).__name__} returned an invalid id for text: negative, not below its vocab_size of "
            f"{vocab_size}, or {end_of_text}, its end of text. This is a bug in the tokenizer."
        )
    return Block(split, tokens, np.array(ends, dtype=np.int64), sum(len(piece.text.encode()) for piece, _ in pieces))
