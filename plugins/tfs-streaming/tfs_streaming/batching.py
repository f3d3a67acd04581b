"""Batches of a stream: a pure function of (stream, seed, step, rank), with only a few shards on disk at a time.

A shard holds a whole number of optimizer steps. Its rows are packed windows of the stream, shuffled within the
shard. The shard and rows of a step are therefore computed without reading the stream. A deleted shard can be rebuilt.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfs_core.builtin.batchings import Packed
from tfs_core.checkpoint_folder import checkpoint_step, list_checkpoints
from tfs_core.contracts import Batch, BatchSettings, DatasetSource, DocumentRef, Ranks, SupportsStreaming, Tokenizer
from tfs_core.data.batches import Rows
from tfs_core.data.documents import Division
from tfs_core.data.permutation import Permutation
from tfs_core.data.store import TokenSplit, TokenStore
from tfs_core.errors import CheckpointError, ConfigError
from tfs_core.stored_json import difference
from tfs_streaming.shards import PLACE, ShardFolder, StreamPlace
from tfs_streaming.spooler import Spooler
from tfs_streaming.token_stream import TokenStream

WAIT_SECONDS = 0.5
"""Timeout of one call of `ready`, so that its caller can do other work between calls."""


class StreamBatches:
    """The batching `streaming`: packed rows of a data set that is read while the run trains."""

    lengths_vary = False
    begins_with_end_of_text = False

    def __init__(
        self,
        options: None,
        *,
        source: DatasetSource,
        tokenizer: Tokenizer,
        tokens: TokenStore,
        settings: BatchSettings,
        ranks: Ranks,
    ) -> None:
        """`tokens` holds the beginning of the stream and the validation split.

        A shard has `settings.shard_tokens` tokens, rounded down to a whole number of steps (at least one).
        """
        division = tokens.info.get("division")
        self._stream = TokenStream(
            source, tokenizer, division=None if division is None else Division.from_json(division)
        )
        self._beginning = Packed(
            options, source=source, tokenizer=tokenizer, tokens=tokens, settings=settings, ranks=ranks
        )
        self.rows_per_step = settings.batch_size * settings.gradient_accumulation_steps
        self.valid_targets_per_row = float(settings.max_length)
        self.steps_per_shard = max(1, settings.shard_tokens // (self.rows_per_step * settings.max_length))
        self.tokens_per_shard = self.steps_per_shard * self.rows_per_step * settings.max_length
        self._settings = settings
        self._ranks = ranks
        self._rows_of_rank = settings.batch_size // ranks.size
        rows = self.steps_per_shard * self.rows_per_step
        self._permutation = lru_cache(maxsize=2)(lambda shard: Permutation(rows, seed=settings.seed, epoch=shard))
        self._rows = lru_cache(maxsize=1)(self._open_shard)
        self._spooler: Spooler | None = None
        self._report: Callable[[str], None] = lambda _line: None
        self._reported: int | None = None  # the last shard that `ready` reported to be waiting for

    @staticmethod
    def check(settings: BatchSettings, *, source: DatasetSource) -> None:
        """Raise ConfigError for settings that do not apply to a stream, and for a source that cannot be streamed."""
        if not isinstance(source, SupportsStreaming):
            raise ConfigError(
                f"data.batching: 'streaming' needs a data set that streams, and '{settings.dataset}' does not. Remove "
                "the setting, or stream a data set of the Hub with its option `streaming: true`."
            )
        problems, stream = [], f"the data set '{settings.dataset}' streams"
        if settings.num_epochs is not None:
            problems.append(
                f"training.num_epochs: {stream}, so it has no known length and epochs cannot be counted. Set "
                "training.max_steps or training.max_tokens instead."
            )
        if settings.batching not in ("packed", "streaming"):
            problems.append(f"data.batching: {stream}, and a stream is always packed. Remove it, or the streaming.")
        if settings.subset_size is not None:
            problems.append(
                f"data.subset_size: {stream}, and training reads only as much as it needs. Remove it, or the streaming."
            )
        if problems:
            raise ConfigError("\n".join(problems))

    @contextmanager
    def open(
        self, folder: Path, *, step: int, state: Mapping[str, Any] | None, report: Callable[[str], None]
    ) -> Iterator[None]:
        """Write shards in the background, from the shard of `step` on, into `shards/` in the run's folder.

        `state` comes from the checkpoint of the resumed run (None for a new run). On exit, all shards are
        deleted except those that a checkpoint needs. Raises CheckpointError for a state of another shape.
        """
        shards = ShardFolder(
            folder / "shards",
            identity={"stream": self._stream.fingerprint},
            size=self.tokens_per_shard,
            vocab_size=self._stream.tokenizer.vocab_size,
        )

        def needed() -> set[int]:
            return {self.shard(checkpoint_step(path)) for path in list_checkpoints(folder / "checkpoints")}

        if state is not None and (problem := difference(state, {"stream": {"start": PLACE}})):
            raise CheckpointError(f"{folder}: the state of the stream in its checkpoint is damaged: {problem}")
        place = StreamPlace() if state is None else StreamPlace.from_json(state["stream"]["start"])
        self._report = report
        self._spooler = Spooler(self._stream, shards, size=self.tokens_per_shard, needed=needed, report=report)
        self._spooler.start(self.shard(step), place)
        try:
            yield
        finally:
            self._rows.cache_clear()
            self._spooler.close()

    def ready(self, step: int) -> bool:
        """Return whether the shard of a step is on disk, after waiting for at most `WAIT_SECONDS`.

        Raises DataError when reading the data set has failed.
        """
        shard = self.shard(step)
        if self._spooling.wait(shard, seconds=0.0):
            return True
        if self._reported != shard:
            self._report(f"waiting for data: {self.tokens_per_shard:,} tokens of the stream from step {step + 1} on")
            self._reported = shard
        return self._spooling.wait(shard, seconds=WAIT_SECONDS)

    def step(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of optimizer step 0, 1, 2, ...

        Blocks until the shard is ready. Steps must be requested in order. Raises DataError when reading the data set
        has failed.
        """
        while not self.ready(step):
            pass
        rows = self._rows(self.shard(step))
        return [rows.batch(self.row_numbers(step, part)) for part in range(self._settings.gradient_accumulation_steps)]

    def validation(self) -> Iterator[Batch]:
        """Iterate over this rank's part of the validation split, which is in the token store."""
        return self._beginning.validation()

    def trial(self) -> Batch:
        """Return a batch from the beginning of the stream."""
        return self._beginning.trial()

    def total_steps(self, *, epochs: int | None, tokens: int | None) -> int:
        """Return the number of steps that reach `tokens` valid targets, summed over all ranks."""
        assert epochs is None, "`check` has refused num_epochs"
        assert tokens is not None
        return -(-tokens // (self.rows_per_step * self._settings.max_length))

    def shard(self, step: int) -> int:
        """Return the number of the shard that a step reads."""
        return step // self.steps_per_shard

    def row_numbers(self, step: int, part: int) -> NDArray[np.int64]:
        """Return the row numbers, in the shard, of this rank's micro-batch `part`: int64 [batch_size / ranks]."""
        first = step % self.steps_per_shard * self.rows_per_step
        first += part * self._settings.batch_size + self._ranks.rank * self._rows_of_rank
        places = np.arange(first, first + self._rows_of_rank)
        return np.asarray(self._permutation(self.shard(step))(places))

    def documents(self, step: int) -> list[DocumentRef]:
        """Return the spans of documents that this rank reads in a step. A document's id is (shard, index in shard).

        A document that continues from the previous shard has index 0. Token positions count from the document's
        beginning, also when it is in an earlier shard.
        """
        shard = self.shard(step)
        rows, max_length = self._rows(shard), self._settings.max_length
        ends = np.flatnonzero(rows.split.tokens == rows.end_of_text_id) + 1
        earlier = 0 if rows.token_before == rows.end_of_text_id else self._spooling.start_of(shard).token
        bounds = [-earlier, *ends.tolist(), self.tokens_per_shard]  # document i is bounds[i] to bounds[i + 1]
        refs = []
        for part in range(self._settings.gradient_accumulation_steps):
            for start in (self.row_numbers(step, part) * max_length).tolist():
                position, stop = start, start + max_length
                document = int(np.searchsorted(ends, start, side="right"))
                while position < stop:
                    begins, ends_at = bounds[document : document + 2]
                    refs.append(DocumentRef((shard, document), position - begins, min(stop, ends_at) - begins))
                    position, document = ends_at, document + 1
        return refs

    def epoch(self, step: int) -> int:
        """Return the number of complete passes over the source at the beginning of the step's shard."""
        return self._spooling.start_of(self.shard(step)).epoch

    def epochs(self, steps: int) -> None:
        """Return None: the length of an epoch is unknown until its end."""

    def state(self, step: int) -> dict[str, Any]:
        """Return the shard of a step and its start position in the stream, where a resumed run starts to read."""
        shard = self.shard(step)
        return {"stream": {"shard": shard, "start": self._spooling.start_of(shard).to_json()}}

    @property
    def _spooling(self) -> Spooler:
        assert self._spooler is not None, "a stream has batches only within its `open` block"
        return self._spooler

    def _open_shard(self, number: int) -> Rows:
        shard = self._spooling.open(number)
        # Packed rows use only the tokens, so the document offsets and the number of bytes are left empty.
        split = TokenSplit(shard.tokens, np.zeros(1, dtype=np.int64), 0)
        return Rows(
            split=split,
            batching="packed",
            max_length=self._settings.max_length,
            end_of_text_id=self._stream.tokenizer.end_of_text_id,
            document_masks=self._settings.document_masks,
            token_before=shard.token_before,
        )
