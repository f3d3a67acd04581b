"""Hook specifications for plugins. A hook takes no arguments and returns the `Component`s of a plugin.

`tfs_components` accepts components of any kind. The hooks above it, one per kind, are older and remain supported.
`tfs_kinds` declares new kinds of components.

Hooks are called once per process, at the first lookup of a component by a command, `tfs --help` or `tfs_core.run`.
Each plugin is called separately, so a failing plugin does not affect the others. The order of the plugins has no
meaning. An installed component is inactive until a configuration names it.

The arguments of the factories are listed in `docs/writing-a-plugin.md`; their results are specified in `contracts.py`.
"""

# mypy: disable-error-code="empty-body"
# A hook specification has no body: pluggy reads its name and its arguments, and never calls it.

from collections.abc import Iterable

import pluggy

from tfs_core.component import Component, Kind

PROJECT = "tfs"
ENTRY_POINT_GROUP = "tfs.plugins"
PLUGIN_API = 1
"""Version of the plugin interface. A plugin module states the version it was written for: `TFS_PLUGIN_API = 1`."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def tfs_models() -> Iterable[Component]:
    """Return models, chosen by `model.name`: `build(config, *, vocab_size, generator) -> LanguageModel`."""


@hookspec
def tfs_datasets() -> Iterable[Component]:
    """Return data sets, chosen by `data.dataset`: `build(config, *, assets, offline) -> DatasetSource`."""


@hookspec
def tfs_tokenizers() -> Iterable[Component]:
    """Return tokenizers, chosen by `data.tokenizer`.

    The factory is `build(config, *, assets, offline, documents) -> Tokenizer`, where `documents()` iterates over the
    training text, for tokenizers that are trained when first used. The loader is `load(folder) -> Tokenizer`.
    """


@hookspec
def tfs_schedulers() -> Iterable[Component]:
    """Return learning-rate schedules, chosen by `training.lr_decay`.

    `build(config, *, total_steps, warmup_steps, peak, floor) -> Schedule`.
    """


@hookspec
def tfs_optimizers() -> Iterable[Component]:
    """Return optimizers, chosen by `training.optimizer`.

    `build(config, *, named_parameters, learning_rate, weight_decay) -> torch.optim.Optimizer`.
    """


@hookspec
def tfs_loggers() -> Iterable[Component]:
    """Return loggers, chosen by `loggers`: `build(config, *, run) -> RunLogger`."""


@hookspec
def tfs_commands() -> Iterable[Component]:
    """Return commands for `tfs`: `factory` refers to a click command, which is imported when it is called."""


@hookspec
def tfs_components() -> Iterable[Component]:
    """Return components of any kind that the core or a plugin declares. Each component sets its `kind`.

    Besides the kinds of the hooks above, the core uses two more:

    batching: the conversion of tokens to batches, chosen by `data.batching` or by a streaming data set:
    `build(config, *, source, tokenizer, tokens, settings, ranks) -> Batching`.

    wrapper: a change to the module that computes the loss, chosen by `wrappers` or by a setting of `runtime`:
    `build(config) -> Wrapper`.

    A component of a kind that no installed plugin declares is listed by `tfs plugins` but cannot be used.
    """


@hookspec
def tfs_kinds() -> Iterable[Kind]:
    """Return the kinds that this plugin declares. The plugin builds their components itself, with `Entry.build`."""
