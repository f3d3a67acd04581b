"""The batching components `packed` and `padded`; `tfs_core.data.batches` computes their batches."""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import ClassVar

from tfs_core.config.schema import DataConfig
from tfs_core.contracts import Batch, BatchSettings, DatasetSource, Ranks, Tokenizer
from tfs_core.data.batches import Batches, BatchingName, Rows
from tfs_core.data.store import TokenSplit, TokenStore
from tfs_core.errors import ConfigError

_log = logging.getLogger(__name__)


class _StoreBatching(Batches):
    """Base of both components: builds `Batches` from the configuration, and adds the validation batches."""

    batching: ClassVar[BatchingName]
    lengths_vary: ClassVar[bool]
    begins_with_end_of_text: ClassVar[bool]

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
        if settings.batch_size % ranks.size:
            raise ConfigError(
                f"training.batch_size: {settings.batch_size} rows cannot be shared evenly by {ranks.size} processes. "
                f"Make it a multiple of {ranks.size}."
            )

        def rows(split: TokenSplit) -> Rows:
            return Rows(
                split=split,
                batching=self.batching,
                max_length=settings.max_length,
                end_of_text_id=tokenizer.end_of_text_id,
                document_masks=settings.document_masks,
            )

        super().__init__(
            rows(tokens.train),
            batch_size=settings.batch_size // ranks.size,
            accumulation=settings.gradient_accumulation_steps,
            seed=settings.seed,
            rank=ranks.rank,
            world_size=ranks.size,
        )
        self._validation_rows = rows(tokens.validation)
        self._validation_batch_size = settings.batch_size

    @staticmethod
    def check(settings: BatchSettings, *, source: DatasetSource) -> None:
        """Log a warning for a setting that applies to streaming data sets only."""
        if settings.shard_tokens != DataConfig.shard_tokens:
            _log.warning("data.shard_tokens has no effect: the data set '%s' does not stream", settings.dataset)

    def validation(self) -> Iterator[Batch]:
        """Iterate over this rank's validation batches (every world_size-th one), in the order of the text."""
        batches = self._validation_rows.in_order(self._validation_batch_size)
        return islice(batches, self._rank, None, self._world_size)


class Packed(_StoreBatching):
    """The component `packed`: windows of fixed length over the concatenated documents."""

    batching = "packed"
    lengths_vary = begins_with_end_of_text = False


class Padded(_StoreBatching):
    """The component `padded`: one document per row, padded to the longest row of its batch."""

    batching = "padded"
    lengths_vary = begins_with_end_of_text = True
