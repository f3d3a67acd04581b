"""Declarations of a plugin: `Component`s, with lazy references to their implementations, and `Kind`s of components."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of component. The core declares `CORE_KINDS`; a plugin declares its own with the hook `tfs_kinds`."""

    name: str
    """The value of `Component.kind`: lower-case letters, digits and `-`, beginning with a letter."""

    keywords: tuple[str, ...] | None
    """Keyword arguments of a factory of this kind, after its options. None if the factory is not called but is itself
    the object, such as a click command."""

    protocol: str | None = None
    """`"package.module:Class"`: the protocol that the factory's result must satisfy."""


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
    Kind(name="script", keywords=None),  # functions that `tfs_core.training` exports for scripts of the original tools
)
"""The kinds that the core declares."""

HOOKS = {f"tfs_{kind}s": kind for kind in ("model", "dataset", "tokenizer", "scheduler", "optimizer", "logger")}
HOOKS["tfs_commands"] = "command"
"""Hook -> kind, for the hooks whose components are all of one kind. `Component.kind` is optional in these hooks."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """A model, data set, command or other component that a plugin provides.

    References are strings, `"package.module:attribute"`, and are imported when the component is used. This keeps
    `tfs --help` fast with many plugins installed.
    """

    name: str
    """Name in configurations: lower-case letters, digits, `-`, `_` and `.`, beginning with a letter. To add a
    subcommand to a group of the core or of another plugin, put the group's name first: `plugins check`."""

    summary: str
    """One line for `tfs plugins` and `tfs --help`."""

    factory: str
    """Function or class that builds the component; `docs/writing-a-plugin.md` lists the arguments for each kind.
    For a command: the click command."""

    kind: str | None = None
    """Name of its kind. Required in the hook `tfs_components`; the other hooks imply it."""

    config: str | None = None
    """Frozen dataclass with its options, each with a docstring below it. None if it has no options."""

    loader: str | None = None
    """Only for tokenizers, and required for them: `load(folder)` returns the tokenizer that `save(folder)` wrote."""

    path_option: str | None = None
    """The option that is set when a configuration has a path instead of a name: for a component `file` with
    `path_option="path"`, `tokenizer: ./x` means `{name: file, path: ./x}`. If several components of a kind have a
    `path_option`, `path_suffixes` decide, and then the order of the registry."""

    path_suffixes: tuple[str, ...] = ()
    """Suffixes of the paths that `path_option` is for, such as `(".csv", ".tsv")`; () for all others."""
