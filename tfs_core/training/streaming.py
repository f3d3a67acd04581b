"""A run that trains on a stream: what it may be asked for, and its batches."""

from collections.abc import Iterator
from dataclasses import replace

from tfs_core.config.schema import Choice, DataConfig, RunConfig
from tfs_core.contracts import DatasetSource, SupportsStreaming, Tokenizer
from tfs_core.data.documents import Division
from tfs_core.data.prepare import PreparedData
from tfs_core.data.spooler import TokenStream
from tfs_core.data.stream_batches import StreamBatches
from tfs_core.errors import ConfigError


def check_for_stream(config: RunConfig, source: DatasetSource) -> None:
    """Raise ConfigError for settings that a stream cannot obey, or that only a stream has."""
    name, data = config.data.dataset.name, config.data
    if not isinstance(source, SupportsStreaming):
        if data.shard_tokens != DataConfig.shard_tokens:
            raise ConfigError(f"data.shard_tokens has no effect: the data set '{name}' does not stream. Leave it out.")
        return
    if problems := [problem.format(stream=f"the data set '{name}' streams") for problem in _problems(config)]:
        raise ConfigError("\n".join(problems))


def _problems(config: RunConfig) -> Iterator[str]:
    data = config.data
    if config.training.num_epochs is not None:
        yield (
            "training.num_epochs: {stream}, and how long an epoch of it is nobody knows before its end. Say "
            "training.max_steps or training.max_tokens."
        )
    if data.batching != "packed":
        yield "data.batching: {stream}, and a stream is packed. Leave it out, or the streaming."
    if data.subset_size is not None:
        yield "data.subset_size: {stream}, and is read as far as training goes. Leave it out, or the streaming."


def pin_version(config: RunConfig, source: DatasetSource) -> RunConfig:
    """Return the configuration, which names the version of a stream that the run reads."""
    if not isinstance(source, SupportsStreaming):
        return config
    dataset = Choice(config.data.dataset.name, source.pinned_options())
    return replace(config, data=replace(config.data, dataset=dataset))


def stream_batches(config: RunConfig, source: DatasetSource, tokenizer: Tokenizer, data: PreparedData) -> StreamBatches:
    """Return the batches of a run on a source that streams, of which `data` is the beginning.

    They are there once something spools them.
    """
    division = data.info.get("division")
    return StreamBatches(
        TokenStream(source, tokenizer, division=None if division is None else Division.from_json(division)),
        shard_tokens=config.data.shard_tokens,
        max_length=config.data.max_length,
        batch_size=config.training.batch_size,
        accumulation=config.training.gradient_accumulation_steps,
        seed=config.seed,
        document_masks=config.data.document_masks,
    )
