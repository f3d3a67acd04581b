"""What a plugin hands to the core: `Component`s, which name what it brings without importing it, and `Kind`s."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of component. The core has those below; a plugin declares its own with the hook `tfs_kinds`."""

    name: str
    """What `Component.kind` says: lower-case letters, digits and `-`, beginning with a letter."""

    keywords: tuple[str, ...] | None
    """The keywords that a factory of this kind is called with, after its options; None when it is not called: the
    factory is then the thing itself, as a click command is."""

    protocol: str | None = None
    """`"package.module:Class"`: the protocol that what a factory returns must satisfy."""


CORE_KINDS = (
    Kind(name="model", keywords=("vocab_size", "generator"), protocol="tfs_core.contracts:LanguageModel"),
    Kind(name="dataset", keywords=("assets", "offline"), protocol="tfs_core.contracts:DatasetSource"),
    Kind(name="tokenizer", keywords=("assets", "offline", "documents"), protocol="tfs_core.contracts:Tokenizer"),
    Kind(name="scheduler", keywords=("total_steps", "warmup_steps", "peak", "floor")),
    Kind(name="optimizer", keywords=("named_parameters", "learning_rate", "weight_decay")),
    Kind(name="logger", keywords=("run",), protocol="tfs_core.contracts:RunLogger"),
    Kind(
        name="batching",
        keywords=("source", "tokenizer", "tokens", "settings", "ranks"),
        protocol="tfs_core.contracts:Batching",
    ),
    Kind(name="wrapper", keywords=(), protocol="tfs_core.contracts:Wrapper"),
    Kind(name="command", keywords=None),
    Kind(name="script", keywords=None),  # what `tfs_core.training` hands to scripts of the original tools
)
"""The kinds of the core."""

HOOKS = {f"tfs_{kind}s": kind for kind in ("model", "dataset", "tokenizer", "scheduler", "optimizer", "logger")}
HOOKS["tfs_commands"] = "command"
"""Hooks that return components of one kind, which the components then need not name."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """Something of one kind that a plugin offers.

    The references are strings, `"package.module:attribute"`, imported when the component is used and never
    before: that keeps `tfs --help` fast with fifty plugins installed.
    """

    name: str
    """How a configuration names it: lower-case letters, digits, `-`, `_` and `.`, beginning with a letter. A command
    that joins another plugin's group, or the core's, is named after both: `plugins check`."""

    summary: str
    """One line for `tfs plugins` and `tfs --help`."""

    factory: str
    """What builds it; `docs/writing-a-plugin.md` lists how each kind is called. For a command: the click command."""

    kind: str | None = None
    """Which kind it is of; required from `tfs_components`, known from the hook everywhere else."""

    config: str | None = None
    """A frozen dataclass with its options, each with a default and a string under it; None when it has none."""

    loader: str | None = None
    """Tokenizers only, and required there: `load(folder)` gives back the tokenizer that `save(folder)` wrote."""

    path_option: str | None = None
    """The option that a path in the place of a name stands for: with `path`, `tokenizer: ./x` is short for
    `{name: file, path: ./x}`. One component of a kind has it, the first that is installed."""
