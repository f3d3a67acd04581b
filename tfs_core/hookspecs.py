"""Every way to extend tfs. Each hook takes nothing and returns the `Component`s that a plugin offers.

`tfs_components` takes components of any kind; the hooks above it, one a kind, are older and stay. `tfs_kinds` declares
kinds of a plugin's own.

When: once in a process, the first time a command or `tfs_core.run` looks a component up; commands also for
`tfs --help`. Each plugin is called by itself, so that one that fails takes nobody with it, and the order among
plugins means nothing. Installed is not active: a run uses what its configuration names.

What the factories are called with is in `docs/writing-a-plugin.md`; what they must return, in `contracts.py`.
"""

# mypy: disable-error-code="empty-body"
# A hook specification has no body: pluggy reads its name and its arguments, and nobody calls it.

from collections.abc import Iterable

import pluggy

from tfs_core.component import Component, Kind

PROJECT = "tfs"
ENTRY_POINT_GROUP = "tfs.plugins"
PLUGIN_API = 1
"""A plugin module states the version it was written for: `TFS_PLUGIN_API = 1`."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def tfs_models() -> Iterable[Component]:
    """Return the models, chosen by `model.name`: `build(config, *, vocab_size, generator) -> LanguageModel`."""


@hookspec
def tfs_datasets() -> Iterable[Component]:
    """Return the data sets, chosen by `data.dataset`: `build(config, *, assets, offline) -> DatasetSource`."""


@hookspec
def tfs_tokenizers() -> Iterable[Component]:
    """Return the tokenizers, chosen by `data.tokenizer`.

    `build(config, *, assets, offline, documents) -> Tokenizer`, where `documents()` iterates over the training
    text for a tokenizer that trains on demand; and `loader`: `load(folder) -> Tokenizer`.
    """


@hookspec
def tfs_schedulers() -> Iterable[Component]:
    """Return the learning-rate schedules, chosen by `training.lr_decay`.

    `build(config, *, total_steps, warmup_steps, peak, floor) -> Schedule`.
    """


@hookspec
def tfs_optimizers() -> Iterable[Component]:
    """Return the optimizers, chosen by `training.optimizer`.

    `build(config, *, named_parameters, learning_rate, weight_decay) -> torch.optim.Optimizer`.
    """


@hookspec
def tfs_loggers() -> Iterable[Component]:
    """Return the loggers, chosen by `loggers`: `build(config, *, run) -> RunLogger`."""


@hookspec
def tfs_commands() -> Iterable[Component]:
    """Return the commands added to `tfs`: `factory` names a click command, imported when it is called."""


@hookspec
def tfs_components() -> Iterable[Component]:
    """Return components of any kind, the core's or one that a plugin declares; each says its `kind`.

    Besides the kinds of the hooks above the core has these two:

    batching: how tokens become batches, chosen by `data.batching` or named by the data set:
    `build(config, *, source, tokenizer, tokens, settings, ranks) -> Batching`.

    wrapper: something around a model's loss, chosen by `wrappers`, or by a setting of `runtime`:
    `build(config) -> Wrapper`.

    A component of a kind that no installed plugin declares is listed by `tfs plugins` and used by nobody.
    """


@hookspec
def tfs_kinds() -> Iterable[Kind]:
    """Return the kinds that this plugin declares; it builds their components with `Entry.build` of the registry."""
