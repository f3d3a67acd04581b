"""The tables of settings in the documentation: values, default and documentation of every field."""

from dataclasses import dataclass

from tfs_lab.settings_table import settings_table

from tfs_core.config.schema import RunConfig, TrainingConfig
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


def test_table_shows_value_default_and_explanation() -> None:
    rows = settings_table(Wide).splitlines()
    assert "| `width` | a whole number | `8` | How wide, over two lines. |" in rows
    assert "| `silent` | true or false | `false` |  |" in rows
    assert "| `max_seq_len` | a whole number | `16` | Ours, not the parent's \\| with a bar. |" in rows


def test_table_shows_required_settings_and_components() -> None:
    table = settings_table(RunConfig)
    assert "| `experiment_name` | text | required |" in table
    assert "| `loggers` | a list, each item a component | `[jsonl, console]` |" in table
    assert "| `lr_decay` | a component | `cosine` |" in settings_table(TrainingConfig)
