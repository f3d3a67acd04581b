"""Settings that a run on a stream accepts and refuses."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from tfs_streaming.batching import StreamBatches

from tfs_core.contracts import BatchSettings
from tfs_core.errors import ConfigError


class Documents:
    """A source without streaming."""

    def splits(self) -> Sequence[str]:
        return ("train", "validation")

    def documents(self, split: str) -> Iterator[str]:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return "documents"


class Stream(Documents):
    """A source that streams."""

    batching = "streaming"

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        raise NotImplementedError

    def pinned_options(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


SETTINGS = BatchSettings(
    batching="packed",
    dataset="my-set",
    num_epochs=None,
    max_length=8,
    batch_size=2,
    gradient_accumulation_steps=1,
    seed=1,
    document_masks=False,
    subset_size=None,
    shard_tokens=1000,
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_epochs": 1}, "training.num_epochs: the data set 'my-set' streams, so it has no known length"),
        ({"batching": "padded"}, "data.batching: the data set 'my-set' streams, and a stream is always packed"),
        ({"subset_size": 9}, "data.subset_size: the data set 'my-set' streams, and training reads only as much"),
    ],
)
def test_setting_that_a_stream_cannot_obey_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StreamBatches.check(replace(SETTINGS, **change), source=Stream())  # type: ignore[arg-type]


def test_all_settings_that_a_stream_cannot_obey_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        StreamBatches.check(replace(SETTINGS, num_epochs=1, batching="padded", subset_size=9), source=Stream())
    assert [line.split(":")[0] for line in str(raised.value).splitlines()] == [
        "training.num_epochs",
        "data.batching",
        "data.subset_size",
    ]


@pytest.mark.parametrize("batching", ["packed", "streaming"])
def test_stream_is_packed_under_either_name(batching: str) -> None:
    StreamBatches.check(replace(SETTINGS, batching=batching), source=Stream())


def test_streaming_of_a_set_that_does_not_stream_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.batching: 'streaming' .* 'my-set' does not\. Remove the setting"):
        StreamBatches.check(replace(SETTINGS, batching="streaming"), source=Documents())
