"""What a run on a stream may be asked for, and what its configuration becomes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tfs_core.config import config_from_mapping
from tfs_core.config.schema import Choice, RunConfig
from tfs_core.errors import ConfigError
from tfs_core.training.streaming import check_for_stream, pin_version


@dataclass(frozen=True)
class Options:
    """The options of a data set that has versions."""

    revision: str = "main"


class Documents:
    """A source that is held."""

    def splits(self) -> Sequence[str]:
        return ("train", "validation")

    def documents(self, split: str) -> Iterator[str]:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return "documents"


class Stream(Documents):
    """A source that streams."""

    def __init__(self, *splits: str) -> None:
        self._splits = splits

    def splits(self) -> Sequence[str]:
        return self._splits

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        raise NotImplementedError

    def pinned_options(self) -> Options:
        return Options(revision="0123")

    def close(self) -> None:
        raise NotImplementedError


def config_with(*overrides: str) -> RunConfig:
    values: dict[str, Any] = {
        "experiment_name": "streamed",
        "data": {"dataset": "python-stdlib", "tokenizer": "byte", "max_length": 8},
        "model": {"name": "torch", "max_seq_len": 8},
        "training": {"max_steps": 4},
    }
    return config_from_mapping(values, overrides=overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.num_epochs=1", "training.num_epochs: the data set 'python-stdlib' streams, and how long an epoch"),
        ("data.batching=padded", "data.batching: the data set 'python-stdlib' streams, and a stream is packed"),
        ("data.subset_size=9", "data.subset_size: the data set 'python-stdlib' streams, and is read as far as"),
    ],
)
def test_setting_that_a_stream_cannot_obey_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_for_stream(config_with(override), Stream("train", "validation"))


def test_size_of_shards_without_a_stream_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.shard_tokens has no effect: the data set 'python-stdlib' does not"):
        check_for_stream(config_with("data.shard_tokens=1000"), Documents())
    check_for_stream(config_with("data.shard_tokens=1000"), Stream("train", "validation"))


def test_configuration_names_the_version_of_a_stream() -> None:
    config = config_with()
    pinned = pin_version(config, Stream("train"))
    assert pinned.data.dataset == Choice("python-stdlib", Options(revision="0123"))
    assert pin_version(config, Documents()) is config
