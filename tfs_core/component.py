"""The one thing a plugin hands to the core: a `Component`, which names what it brings without importing it."""

from dataclasses import dataclass

KINDS = ("model", "dataset", "tokenizer", "scheduler", "optimizer", "logger", "command")
"""What can be registered. The hook of a kind is its plural: `tfs_models`, `tfs_datasets`, ..."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """A model, data set, tokenizer, scheduler, optimizer, logger or command that a plugin offers.

    The references are strings, `"package.module:attribute"`, imported when the component is used and never
    before: that keeps `tfs --help` fast with fifty plugins installed.
    """

    name: str
    """How a configuration names it: lower-case letters, digits, `-`, `_` and `.`, beginning with a letter."""

    summary: str
    """One line for `tfs plugins` and `tfs --help`."""

    factory: str
    """What builds it; `docs/writing-a-plugin.md` lists how each kind is called. For a command: the click command."""

    config: str | None = None
    """A frozen dataclass with its options, each with a default and a string under it; None when it has none."""

    loader: str | None = None
    """Tokenizers only, and required there: `load(folder)` gives back the tokenizer that `save(folder)` wrote."""

    path_option: str | None = None
    """The option that a path in the place of a name stands for: with `path`, `tokenizer: ./x` is short for
    `{name: file, path: ./x}`. One component of a kind has it, the first that is installed."""
