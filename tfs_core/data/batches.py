"""Batches as a pure function of (token store, seed, step, rank): there is no state to save, and a resume is immediate.

    packed   all documents are concatenated, with end of text before the first and after each; a row is a window of
             `max_length` tokens. Every stored token is a target exactly once per epoch. Attention crosses document
             boundaries, unless document masks are enabled.
    padded   a row is a document, truncated at `max_length`, and padded to the longest row of its batch.

The inputs of a row are its targets shifted by one position: the first input is the token before the first target (end
of text at the start of a document). The steps go through the rows epoch by epoch, each epoch in a new random order. No
row is dropped or repeated: a batch at the end of an epoch is completed with the first rows of the next epoch.

Packed windows move from epoch to epoch: the tokens are read as a ring, from an offset that is a hash of (seed, epoch),
0 in the first epoch. So a token has other tokens before it in its window each time, and every token is still a target
exactly once per epoch. docs/experiments.md has the gain.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tfs_core.contracts import IGNORED_TARGET, Batch, DocumentRef
from tfs_core.data.permutation import Permutation
from tfs_core.data.store import TokenSplit, read_ahead

BatchingName = Literal["packed", "padded"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a split, numbered in the order of the text; a row number determines the targets of the row."""

    split: TokenSplit
    batching: BatchingName
    max_length: int
    end_of_text_id: int
    document_masks: bool = False

    token_before: int | None = None
    """The first input of the first row; None for end of text."""

    def __len__(self) -> int:
        return self.split.documents if self.batching == "padded" else -(-self.split.n_tokens // self.max_length)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of valid targets of each row: int64, shape of `rows`."""
        if self.batching == "padded":
            left = self.split.offsets[rows + 1] - self.split.offsets[rows]
        else:
            left = self.split.n_tokens - rows * self.max_length
        return np.asarray(np.minimum(left, self.max_length))

    def starts(self, rows: NDArray[np.int64], offsets: NDArray[np.int64] | int = 0) -> NDArray[np.int64]:
        """Return the index of each row's first target in the tokens: int64, shape of `rows`.

        `offsets` is the distance in tokens that each packed row is moved by.
        """
        if self.batching == "padded":
            return np.asarray(self.split.offsets[rows])
        return np.asarray((rows * self.max_length + offsets) % self.split.n_tokens)

    def read_ahead(self, rows: NDArray[np.int64], offsets: NDArray[np.int64] | int = 0) -> None:
        """Ask the operating system to prefetch the pages of these rows [batch_size], asynchronously."""
        if self.batching == "padded":
            read_ahead(self.split.offsets, rows, rows + 2)
        starts = self.starts(rows, offsets)
        stops = np.minimum(starts + self.lengths(rows), self.split.n_tokens)
        read_ahead(self.split.tokens, np.maximum(starts - 1, 0), stops)

    def batch(self, rows: NDArray[np.int64], offsets: NDArray[np.int64] | int = 0) -> Batch:
        """Return a batch of rows [batch_size, seq_len]: seq_len is max_length if packed, the longest row if padded.

        The tokens are a ring: a packed row that is moved past the last token continues with the first one.
        """
        lengths, starts = self.lengths(rows), self.starts(rows, offsets)
        seq_len = int(lengths.max()) if self.batching == "padded" else self.max_length
        input_ids = np.full((len(rows), seq_len), self.end_of_text_id, dtype=np.int64)
        target_ids = np.full((len(rows), seq_len), IGNORED_TARGET, dtype=np.int64)
        for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            targets = self.split.tokens[start : start + length]
            if len(targets) < length:  # the end of the ring; its last token is an end of text
                targets = np.concatenate([targets, self.split.tokens[: length - len(targets)]])
            target_ids[i, :length] = targets
            input_ids[i, 1:length] = targets[:-1]
            if start > 0:
                input_ids[i, 0] = self.split.tokens[start - 1]
            elif self.token_before is not None:
                input_ids[i, 0] = self.token_before
        # An input of end of text is the start of a document, so a cumulative count numbers the documents of a row.
        document_ids = (input_ids == self.end_of_text_id).cumsum(axis=1) if self.document_masks else None
        return Batch(
            torch.from_numpy(input_ids),
            torch.from_numpy(target_ids),
            int(lengths.sum()),
            None if document_ids is None else torch.from_numpy(document_ids),
        )

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Iterate over all rows once, in the order of the text. The last batch may have fewer rows."""
        for first in range(0, len(self), batch_size):
            yield self.batch(np.arange(first, min(first + batch_size, len(self))))


class Batches:
    """The batches of a token store for one rank; `tfs_core.builtin.batchings` makes components from this class."""

    def __init__(
        self, rows: Rows, *, batch_size: int, accumulation: int = 1, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._rows = rows
        self.rows = len(rows)
        """Rows in an epoch."""
        self.rows_per_step = batch_size * accumulation * world_size
        """Rows in an optimizer step, over all micro-batches and ranks."""
        self._batch_size = batch_size
        self._accumulation = accumulation
        self._rank = rank
        self._world_size = world_size
        self._permutation = lru_cache(maxsize=4)(lambda epoch: Permutation(self.rows, seed=seed, epoch=epoch))
        self._offset = lru_cache(maxsize=4)(self._find_offset)
        self._seed = seed
        self._windows_move = rows.batching == "packed"
        self._rows_at = lru_cache(maxsize=2 * accumulation)(self._find_rows)  # of the current and the prefetched step

    def open(
        self, folder: Path, *, step: int, state: Mapping[str, Any] | None, report: Callable[[str], None]
    ) -> AbstractContextManager[None]:
        """Return a no-op context: all data is on the disk. A run of a tfs whose windows did not move keeps them."""
        if state is not None:
            self._windows_move = bool(state.get("windows_move", False))
            self._offset.cache_clear()
        return nullcontext()

    def ready(self, step: int) -> bool:
        """Return True: all data is on the disk."""
        return True

    def state(self, step: int) -> dict[str, Any]:
        """Return whether packed windows move, which they did not in earlier versions. The step determines the rest."""
        return {"windows_move": True} if self._windows_move else {}

    def trial(self) -> Batch:
        """Return the first micro-batch of the first step."""
        return self.step(0)[0]

    def step(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of optimizer step 0, 1, 2, ...; prefetch those of the next step."""
        parts = [
            self._rows.batch(self.row_numbers(step, part), self._offsets(step, part))
            for part in range(self._accumulation)
        ]
        for part in range(self._accumulation):
            self._rows.read_ahead(self.row_numbers(step + 1, part), self._offsets(step + 1, part))
        return parts

    def row_numbers(self, step: int, part: int) -> NDArray[np.int64]:
        """Return the row numbers of micro-batch `part` of a step for this rank: int64 [batch_size]."""
        first = self._first_place(step, part)
        return self._rows_at(first, first + self._batch_size)

    def _offsets(self, step: int, part: int) -> NDArray[np.int64]:
        """Return the number of tokens that each row of a micro-batch is moved by: int64 [batch_size]."""
        first = self._first_place(step, part)
        return np.array([self._offset(place // self.rows) for place in range(first, first + self._batch_size)])

    def _first_place(self, step: int, part: int) -> int:
        """Return the position of a micro-batch's first row in the infinite sequence of shuffled epochs."""
        return step * self.rows_per_step + (part * self._world_size + self._rank) * self._batch_size

    def epoch(self, step: int) -> int:
        """Return the number of complete epochs before the first row of this step."""
        return step * self.rows_per_step // self.rows

    def epochs(self, steps: int) -> float:
        """Return the length of `steps` optimizer steps in epochs."""
        return steps * self.rows_per_step / self.rows

    def documents(self, step: int) -> list[DocumentRef]:
        """Return the parts of documents that this rank reads in a step, in the order of its rows."""
        parts = range(self._accumulation)
        rows = np.concatenate([self.row_numbers(step, part) for part in parts])
        offsets = np.concatenate([self._offsets(step, part) for part in parts])
        starts, lengths = self._rows.starts(rows, offsets), self._rows.lengths(rows)
        split, refs = self._rows.split, []
        for start, left in zip(starts.tolist(), lengths.tolist(), strict=True):
            while left > 0:
                document = int(np.searchsorted(split.offsets, start, side="right")) - 1
                begins, ends = map(int, split.offsets[document : document + 2])
                stop = min(start + left, ends)
                refs.append(DocumentRef((document,), start - begins, stop - begins))
                start, left = stop % split.n_tokens, left - (stop - start)
        return refs

    @cached_property
    def valid_targets_per_epoch(self) -> int:
        """Valid targets in an epoch: all stored tokens if packed, at most `max_length` per document if padded."""
        return int(self._rows.lengths(np.arange(self.rows)).sum())

    @property
    def valid_targets_per_row(self) -> float:
        """Mean number of valid targets in a row, over an epoch."""
        return self.valid_targets_per_epoch / self.rows

    def total_steps(self, *, epochs: int | None, tokens: int | None) -> int:
        """Return the steps in `epochs` epochs or `tokens` valid targets, rounded up; one of the two is given."""
        if epochs is not None:
            return self.steps_for_epochs(epochs)
        assert tokens is not None, "a run's length is given in steps, epochs or tokens"
        return self.steps_for_tokens(tokens)

    def steps_for_epochs(self, n: int) -> int:
        """Return the number of steps in n epochs, rounded up."""
        return -(-n * self.rows // self.rows_per_step)

    def steps_for_tokens(self, n: int) -> int:
        """Return the number of steps after which n valid targets are reached, over all ranks."""
        epochs = (n - 1) // self.valid_targets_per_epoch
        reached, row = epochs * self.valid_targets_per_epoch, epochs * self.rows
        while reached < n:
            stop = min(row + (1 << 16), (epochs + 1) * self.rows)
            so_far = reached + np.cumsum(self._rows.lengths(self._rows_at(row, stop)))
            taken = min(int(np.searchsorted(so_far, n)) + 1, len(so_far))
            reached, row = int(so_far[taken - 1]), row + taken
        return -(-row // self.rows_per_step)

    def _find_rows(self, first: int, stop: int) -> NDArray[np.int64]:
        """Return the row numbers at positions first ... stop - 1 of the infinite sequence of shuffled epochs."""
        pieces = []
        while first < stop:
            epoch, place = divmod(first, self.rows)
            n = min(stop - first, self.rows - place)
            pieces.append(self._permutation(epoch)(np.arange(place, place + n)))
            first += n
        return np.concatenate(pieces)

    def _find_offset(self, epoch: int) -> int:
        """Return the number of tokens that the windows of an epoch are moved by."""
        if epoch == 0 or not self._windows_move:
            return 0
        digest = hashlib.blake2b(f"offset {self._seed} {epoch}".encode("ascii"), digest_size=8).digest()
        return int.from_bytes(digest, "little") % self._rows.split.n_tokens
