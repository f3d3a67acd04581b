import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Lt

from tfs_core.config.documentation import field_docs, in_words
from tfs_core.config.schema import Choice, DataConfig, RunConfig, RuntimeConfig, SamplesConfig, TrainingConfig
from tfs_core.contracts import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Wide(ModelConfig):
    """A class with a field of its own."""

    width: int = 8
    """How wide,
    over two lines."""

    silent: bool = False

    max_seq_len: int = 16
    """Ours, not the parent's | with a bar."""


def test_field_docs_are_the_strings_under_the_fields_inherited_ones_included() -> None:
    docs = field_docs(Wide)
    assert docs["width"] == "How wide, over two lines."
    assert docs["dtype"].startswith("Number format of the computation.")
    assert docs["max_seq_len"] == "Ours, not the parent's | with a bar."
    assert "silent" not in docs


def test_field_docs_of_a_class_without_source_are_empty() -> None:
    made: dict[str, Any] = {}
    exec("from dataclasses import dataclass\n@dataclass\nclass Made:\n    a: int = 1\n    'what'\n", made)
    assert field_docs(made["Made"]) == {}


@pytest.mark.parametrize("section", [RunConfig, DataConfig, TrainingConfig, SamplesConfig, RuntimeConfig, ModelConfig])
def test_every_setting_of_the_core_is_explained(section: type) -> None:
    assert field_docs(section).keys() == {field.name for field in dataclasses.fields(section)}


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "a whole number, or null"),
        (None | Literal["a", "b"], "'a' or 'b', or null"),
        (Literal["a", "b", 3], "'a', 'b' or 3"),
        (Annotated[float, Ge(0), Lt(1)], "a number of at least 0 and below 1"),
        (Annotated[int, "anything"], "a whole number"),
        (tuple[int, ...], "a list, each item a whole number"),
        (list[str | None], "a list, each item text, or null"),
        (tuple[float, int], "a list of 2: a number, a whole number"),
        (dict[str, bool], "a mapping, each value true or false"),
        (Choice | None, "a component, or null"),
        (complex, None),
        (list[complex], None),
        (int | complex, None),
    ],
)
def test_type_in_words(hint: Any, words: str | None) -> None:
    assert in_words(hint) == words
