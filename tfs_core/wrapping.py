"""Wrappers around a model's loss, in the order of their stages (`contracts.Wrapper`)."""

from collections.abc import Iterable

from torch import nn

from tfs_core.config.implied import implied_name
from tfs_core.config.schema import Choice, RunConfig
from tfs_core.contracts import WrapContext, Wrapper
from tfs_core.errors import PluginError
from tfs_core.plugins import as_plugin_error
from tfs_core.registry import get_registry

STAGES = ("adapt", "checkpoint", "tune", "compile", "parallel")


def wrapper_choices(config: RunConfig) -> list[Choice]:
    """Return the wrappers of a run: those of `wrappers`, and those that settings of `runtime` select."""
    runtime = config.runtime
    names = {
        "activation-checkpointing": runtime.activation_checkpointing,
        "compile": runtime.compile,
        "kernels": runtime.matmul == "auto" and implied_name("wrapper", "kernels") is not None,
    }
    chosen = {choice.name.rpartition("/")[2] for choice in config.wrappers}
    implied = [implied_name("wrapper", name) or name for name, is_on in names.items() if is_on and name not in chosen]
    return [*config.wrappers, *map(Choice, implied)]


def build_wrappers(choices: Iterable[Choice]) -> list[Wrapper]:
    """Build the wrappers, in the order in which they are applied. Raises PluginError for an invalid one."""
    wrappers: list[Wrapper] = []
    for choice in choices:
        entry = get_registry().find("wrapper", choice.name)
        wrapper = entry.build(choice.options)
        if not isinstance(wrapper, Wrapper) or wrapper.stage not in STAGES:
            raise PluginError(f"{entry}: it needs `wrap`, `changes_weights` and a `stage`: {', '.join(STAGES)}")
        wrappers.append(wrapper)
    return sorted(wrappers, key=lambda wrapper: STAGES.index(wrapper.stage))


def wrapped(loss: nn.Module, wrappers: Iterable[Wrapper], *, context: WrapContext) -> nn.Module:
    """Return the loss with all wrappers applied. Raises PluginError when a wrapper fails."""
    for wrapper in wrappers:
        with as_plugin_error(f"the wrapper {type(wrapper).__name__} cannot wrap this model"):
            loss = wrapper.wrap(loss, context=context)
            if not isinstance(loss, nn.Module):
                raise TypeError(f"its `wrap` returned {loss!r:.80}, which is no torch.nn.Module")
    return loss
