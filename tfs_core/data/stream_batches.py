"""Batches of a stream: a pure function of (stream, seed, step, rank), though only a few shards of it are on disk.

A shard is a whole number of optimizer steps; its rows are packed windows of the stream, and come in a shuffled order
of its own. So a step's place is (shard, row), which is arithmetic, and a shard that is not on disk is made again.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfs_core.data.batches import Batch, Batches, Rows
from tfs_core.data.encoder import Progress
from tfs_core.data.permutation import Permutation
from tfs_core.data.shards import ShardFolder, StreamPlace
from tfs_core.data.spooler import Spooler, TokenStream
from tfs_core.data.store import TokenSplit

WAIT_SECONDS = 0.5
"""`ready` waits so long at a time, so that whoever asks may do something else in between."""


class StreamBatches:
    """The batches of a run that trains on a stream, for one of its ranks; what `Batches` is for a token store."""

    def __init__(
        self,
        stream: TokenStream,
        *,
        shard_tokens: int,
        max_length: int,
        batch_size: int,
        accumulation: int = 1,
        seed: int,
        document_masks: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """A shard has `shard_tokens`, or a few fewer: as many as a whole number of steps takes."""
        self.rows_per_step = batch_size * accumulation * world_size
        """Rows in an optimizer step, all parts and ranks together."""
        self.steps_per_shard = max(1, shard_tokens // (self.rows_per_step * max_length))
        self.tokens_per_shard = self.steps_per_shard * self.rows_per_step * max_length
        self._stream = stream
        self._max_length = max_length
        self._batch_size = batch_size
        self._accumulation = accumulation
        self._document_masks = document_masks
        self._rank = rank
        self._world_size = world_size
        rows = self.steps_per_shard * self.rows_per_step
        self._permutation = lru_cache(maxsize=2)(lambda shard: Permutation(rows, seed=seed, epoch=shard))
        self._rows_of = lru_cache(maxsize=1)(self._open)
        self._spooler: Spooler | None = None
        self._report: Progress = lambda _line: None
        self._told_of: int | None = None

    @contextmanager
    def spooled(
        self,
        folder: Path,
        *,
        step: int,
        state: Mapping[str, Any] | None,
        needed_steps: Callable[[], list[int]],
        report: Progress,
    ) -> Iterator[None]:
        """Make the shards from a step on, in a folder; within the block there are batches.

        `state` is, or holds, what `state(step)` returned; None for step 0. Shards that `needed_steps()` read stay.
        """
        shards = ShardFolder(folder, identity={"stream": self._stream.fingerprint}, size=self.tokens_per_shard)

        def needed() -> set[int]:
            return {self.shard(step) for step in needed_steps()}

        place = StreamPlace() if state is None else StreamPlace.from_json(state["stream"]["start"])
        self._report = report
        self._spooler = Spooler(self._stream, shards, size=self.tokens_per_shard, needed=needed, report=report)
        self._spooler.start(self.shard(step), place)
        try:
            yield
        finally:
            self._rows_of.cache_clear()
            self._spooler.close()

    def ready(self, step: int) -> bool:
        """Return whether a step's shard is on disk, waiting for it a little; raises DataError when it cannot be had."""
        shard = self.shard(step)
        if self._spooling.wait(shard, seconds=0.0):
            return True
        if self._told_of != shard:
            self._report(f"waiting for data: {self.tokens_per_shard:,} tokens of the stream from step {step + 1} on")
            self._told_of = shard
        return self._spooling.wait(shard, seconds=WAIT_SECONDS)

    def step(self, step: int) -> list[Batch]:
        """Return the parts, as many as `accumulation`, of optimizer step 0, 1, 2, ... for this rank.

        Waits until they can be had; steps are asked for in order. Raises DataError.
        """
        while not self.ready(step):
            pass
        rows = self._rows_of(self.shard(step))
        return [rows.batch(self.row_numbers(step, part)) for part in range(self._accumulation)]

    def shard(self, step: int) -> int:
        """Return the number of the shard that a step reads."""
        return step // self.steps_per_shard

    def row_numbers(self, step: int, part: int) -> NDArray[np.int64]:
        """Return which rows of its shard make up a part of a step for this rank: int64 [batch_size]."""
        first = step % self.steps_per_shard * self.rows_per_step
        first += (part * self._world_size + self._rank) * self._batch_size
        places = np.arange(first, first + self._batch_size)
        return np.asarray(self._permutation(self.shard(step))(places))

    def epoch(self, step: int) -> int:
        """Return how many readings of the whole source were complete where a step's shard begins."""
        return self._spooling.start_of(self.shard(step)).epoch

    @property
    def valid_targets_per_row(self) -> float:
        """Valid targets in a row: each is full."""
        return self._max_length

    def steps_for_tokens(self, n: int) -> int:
        """Return the steps after which n valid targets are reached, all ranks together."""
        return -(-n // (self.rows_per_step * self._max_length))

    def state(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint writes down to go on with a step: its shard, and where in the stream that begins."""
        shard = self.shard(step)
        return {"stream": {"shard": shard, "start": self._spooling.start_of(shard).to_json()}}

    @property
    def _spooling(self) -> Spooler:
        assert self._spooler is not None, "a stream has batches only within its `spooled` block"
        return self._spooler

    def _open(self, shard: int) -> Rows:
        opened = self._spooling.open(shard)
        # Packed rows go by the tokens alone; nobody asks which of them are whole documents, or how many bytes they are.
        split = TokenSplit(opened.tokens, np.zeros(1, dtype=np.int64), 0)
        return Rows(
            split,
            batching="packed",
            max_length=self._max_length,
            end_of_text_id=self._stream.tokenizer.end_of_text_id,
            document_masks=self._document_masks,
            token_before=opened.token_before,
        )


TrainingBatches = Batches | StreamBatches
"""What a run trains on: a store that is there, or a stream."""
