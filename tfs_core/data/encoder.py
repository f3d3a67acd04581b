"""Pieces of text become tokens in a store: several batches are encoded at once, and written in the order of the text.

The encoders are threads: what encodes fast does so outside Python's lock, and threads need no text to be copied to
them. How many there are decides nothing but the time it takes: batches are cut and written the same way.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tfs_core.contracts import Tokenizer
from tfs_core.data.documents import Piece
from tfs_core.data.store import saying_why_not
from tfs_core.errors import DataError

BATCH_CHARACTERS = 1 << 19
BATCH_PIECES = 1 << 12
"""The text, and the pieces of it, that are handed to the tokenizer at once, at most."""

MOST_THREADS = 8
"""One thread reads and writes for all: it could not feed more."""

PROGRESS_SECONDS = 2.0
"""How often progress is reported."""

Progress = Callable[[str], None]
"""Told how the preparation goes, a line of text now and then."""

Batch = list[tuple[str, Piece]]
"""Pieces, each with the split it belongs to."""


class TokenWriter(Protocol):
    """Where the tokens of a split go."""

    folder: Path
    documents: int
    n_bytes: int

    def add_block(self, tokens: NDArray[Any], document_ends: NDArray[np.int64], n_bytes: int) -> None:
        """Append the tokens of many documents, end of text included: `document_ends` are the places behind those."""
        ...


@dataclass(frozen=True)
class _Block:
    """What goes to one split of the store, of one batch."""

    tokens: NDArray[np.int64]  # end of text included, where a document ends
    document_ends: NDArray[np.int64]  # where in `tokens` documents end: behind their end of text
    n_bytes: int  # of text


class Encoder:
    """Encodes pieces in batches of bounded size and hands the tokens to the writers, one of each split."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        writers: Mapping[str, TokenWriter],
        report: Progress,
        *,
        threads: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._end_of_text = np.array([tokenizer.end_of_text_id], dtype=np.int64)
        self._writers = writers
        self._report = report
        self._threads = threads or min(os.cpu_count() or 1, MOST_THREADS)
        self._empty_documents = 0
        self._started_at = self._reported_at = time.monotonic()

    def write_all(self, pieces: Iterable[tuple[str, Piece]]) -> int:
        """Write every piece to its split and return how many empty documents were left out."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="encoder")
        waiting: deque[Future[dict[str, _Block]]] = deque()
        try:
            for batch in self._batches(pieces):
                waiting.append(pool.submit(self._encoded, batch))
                if len(waiting) > self._threads:  # one is ready for whoever is done first
                    self._write(waiting.popleft().result())
            while waiting:
                self._write(waiting.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)
        self._tell()
        return self._empty_documents

    def _batches(self, pieces: Iterable[tuple[str, Piece]]) -> Iterator[Batch]:
        batch: Batch = []
        characters = 0
        for split, piece in pieces:
            if piece.is_empty_document:
                self._empty_documents += 1
                continue
            batch.append((split, piece))
            characters += len(piece.text)
            if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_PIECES:
                yield batch
                batch, characters = [], 0
        if batch:
            yield batch

    def _encoded(self, batch: Batch) -> dict[str, _Block]:
        """Return what a batch adds to each split. Runs in a thread of the pool."""
        encoded = self._tokenizer.encode_batch([piece.text for _, piece in batch])
        parts: dict[str, list[Any]] = {split: [] for split in self._writers}
        ends: dict[str, list[int]] = {split: [] for split in self._writers}
        lengths = dict.fromkeys(self._writers, 0)
        n_bytes = dict.fromkeys(self._writers, 0)
        for (split, piece), ids in zip(batch, encoded, strict=True):
            parts[split].append(ids if isinstance(ids, np.ndarray) else np.array(ids, dtype=np.int64))
            lengths[split] += len(ids)
            n_bytes[split] += len(piece.text) if piece.text.isascii() else len(piece.text.encode("utf-8"))
            if piece.ends:
                parts[split].append(self._end_of_text)
                lengths[split] += 1
                ends[split].append(lengths[split])
        return {
            split: _Block(
                tokens=self._checked(parts[split], n_ends=len(ends[split])),
                document_ends=np.array(ends[split], dtype=np.int64),
                n_bytes=n_bytes[split],
            )
            for split in self._writers
            if parts[split]
        }

    def _checked(self, parts: list[Any], *, n_ends: int) -> NDArray[np.int64]:
        """Return the parts in a row, `n_ends` of them end of text. Raises DataError for an id that no text may give."""
        tokens = np.concatenate(parts, dtype=np.int64, casting="unsafe")
        end_of_text, vocab_size = self._tokenizer.end_of_text_id, self._tokenizer.vocab_size
        ends_found = np.count_nonzero(tokens == end_of_text)
        if len(tokens) and (ends_found != n_ends or tokens.min() < 0 or tokens.max() >= vocab_size):
            raise DataError(
                f"{type(self._tokenizer).__name__} gave an id that text cannot have: negative, not below its "
                f"vocab_size of {vocab_size}, or {end_of_text}, its end of text. That is a mistake in the tokenizer."
            )
        return tokens

    def _write(self, blocks: Mapping[str, _Block]) -> None:
        for split, block in blocks.items():
            with saying_why_not(self._writers[split].folder):
                self._writers[split].add_block(block.tokens, block.document_ends, block.n_bytes)
        if time.monotonic() - self._reported_at >= PROGRESS_SECONDS:
            self._tell()

    def _tell(self) -> None:
        """Report documents, bytes and speed so far."""
        self._reported_at = time.monotonic()
        documents = sum(writer.documents for writer in self._writers.values())
        megabytes = sum(writer.n_bytes for writer in self._writers.values()) / 1e6
        speed = megabytes / max(self._reported_at - self._started_at, 1e-9)
        self._report(f"{documents:,} documents, {megabytes:,.1f} MB of text into tokens, {speed:,.1f} MB/s")
