"""`mixture`: weights, order of the documents, and refused configurations."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfs_datasets.config import MixtureConfig
from tfs_datasets.mixture import Mixture

from tfs_core.config import config_from_mapping, load_config, to_yaml
from tfs_core.contracts import SupportsPieces
from tfs_core.data.prepare import build_source
from tfs_core.errors import ConfigError, DataError


class Listed:
    """A data set of the given documents."""

    def __init__(self, *texts: str, validation: tuple[str, ...] = ()) -> None:
        self.texts = {"train": texts} | ({"validation": validation} if validation else {})

    def splits(self) -> tuple[str, ...]:
        return tuple(self.texts)

    def documents(self, split: str) -> Any:
        return iter(self.texts[split])

    def fingerprint(self) -> str:
        return str(self.texts)


def numbered(letter: str, n: int) -> Listed:
    return Listed(*(f"{letter}{i}" for i in range(n)))


def test_weight_is_how_often_an_epoch_shows_a_text() -> None:
    mixture = Mixture([(numbered("a", 3), 2.0), (numbered("b", 4), 1.0)])
    counted = Counter(mixture.documents("train"))
    assert counted == {"a0": 2, "a1": 2, "a2": 2, "b0": 1, "b1": 1, "b2": 1, "b3": 1}


def test_fraction_takes_that_share_of_the_documents_and_always_the_same() -> None:
    mixture = Mixture([(numbered("a", 2000), 1.25)])
    counted = Counter(mixture.documents("train"))
    assert len(counted) == 2000
    assert 400 < sum(times == 2 for times in counted.values()) < 600
    assert Counter(mixture.documents("train")) == counted


def test_beginning_is_mixed_by_the_weights() -> None:
    mixture = Mixture([(numbered("a", 100), 3.0), (numbered("b", 100), 1.0)])
    first = Counter(document[0] for document in islice(mixture.documents("train"), 40))
    assert first == {"a": 30, "b": 10}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from([1.0, 2.0, 3.0])), min_size=1, max_size=4))
def test_whole_weights_lose_and_add_nothing(sources: list[tuple[int, float]]) -> None:
    mixture = Mixture([(numbered(f"{place}-", n), weight) for place, (n, weight) in enumerate(sources)])
    expected: Counter[str] = Counter()
    for place, (n, weight) in enumerate(sources):
        expected.update({f"{place}-{i}": int(weight) for i in range(n)})
    assert Counter(mixture.documents("train")) == expected


def test_long_documents_come_in_pieces() -> None:
    long = "word " * 100_000
    mixture = Mixture([(Listed(long, "short"), 1.0), (Listed("b"), 1.0)])
    assert isinstance(mixture, SupportsPieces)
    pieces = list(mixture.pieces("train"))
    assert max(len(text) for text, _ in pieces) < 100_000
    assert list(mixture.documents("train")) == [long, "b", "short"]


def test_validation_is_every_sources_own_or_none() -> None:
    with_own, without = Listed("a", validation=("v", "w")), Listed("b")
    both = Mixture([(with_own, 2.0), (Listed("c", validation=("x",)), 0.5)])
    assert list(both.documents("validation")) == ["v", "w", "x"]
    assert Mixture([(with_own, 1.0), (without, 1.0)]).splits() == ("train",)


def test_weight_that_leaves_no_documents_is_refused() -> None:
    mixture = Mixture([(numbered("b", 5), 1.0), (Listed("the only one"), 1e-9)])
    with pytest.raises(DataError, match="a weight of 1e-09 leaves no documents"):
        list(mixture.documents("train"))


def test_fingerprint_changes_with_weights_and_sources() -> None:
    a, b = numbered("a", 3), numbered("b", 3)
    mixtures = [[(a, 1.0), (b, 1.0)], [(a, 2.0), (b, 1.0)], [(b, 1.0), (a, 1.0)], [(a, 1.0)]]
    assert len({Mixture(sources).fingerprint() for sources in mixtures}) == 4


def configuration(folder: Path, sources: object) -> dict[str, Any]:
    (folder / "a.txt").write_text("one two three", encoding="utf-8")
    dataset = {"name": "mixture", "sources": sources}
    return {
        "experiment_name": "x",
        "data": {"dataset": dataset, "tokenizer": "byte", "max_length": 8},
        "model": {"name": "torch", "max_seq_len": 8},
        "training": {"max_steps": 1},
    }


def test_mixture_is_configured_and_written_out_again(tmp_path: Path) -> None:
    sources = [{"dataset": {"name": "text", "path": "a.txt"}, "weight": 2.0}, {"dataset": "python-stdlib"}]
    config = config_from_mapping(configuration(tmp_path, sources), base=tmp_path)
    assert isinstance(config.data.dataset.options, MixtureConfig)
    (tmp_path / "again.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml") == config
    source = build_source(config.data.dataset, assets=tmp_path, offline=True)
    assert source.description.startswith("a mixture of 2 x text a.txt, 1 x the standard library")  # type: ignore[attr-defined]
    assert next(source.documents("train")) == "one two three"


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "sources must not be empty"),
        ([{"dataset": "python-stdlib", "weight": 0}], "weight"),
        ([{"dataset": "pyton-stdlib"}], "Did you mean 'python-stdlib'"),
        ([{"dataset": "python-stdlib", "wieght": 1.0}], "Did you mean 'weight'"),
    ],
)
def test_bad_mixture_is_refused_by_the_configuration(tmp_path: Path, sources: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_mapping(configuration(tmp_path, sources), base=tmp_path)
