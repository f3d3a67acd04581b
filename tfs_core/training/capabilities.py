"""What a configuration asks of its model beyond the contract: seen to where the model can, refused where it cannot."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from tfs_core.config.schema import RunConfig
from tfs_core.contracts import LanguageModel, SupportsDocumentMasks, SupportsFeatures
from tfs_core.errors import ConfigError
from tfs_core.models import AutogradModel


def check_document_masks(model: LanguageModel, config: RunConfig) -> None:
    """Raise ConfigError when documents are to be kept apart in a row, and the model cannot."""
    if config.data.document_masks and not isinstance(model, SupportsDocumentMasks):
        raise ConfigError(
            f"data.document_masks: the model '{config.model.name}' has no document masks: its attention crosses from "
            "document to document. Take a model that has them, or keep documents apart with data.batching=padded."
        )


def save_memory(model: LanguageModel, config: RunConfig) -> None:
    """Have the model hold less at once, as `runtime` says. Raises ConfigError when it cannot."""
    chunk, name = config.runtime.loss_chunk, config.model.name
    if isinstance(model, AutogradModel):
        model.loss_chunk = chunk
    if isinstance(chunk, int) and not (isinstance(model, AutogradModel) and isinstance(model, SupportsFeatures)):
        raise ConfigError(
            f"runtime.loss_chunk: the model '{name}' makes its logits in one step, so all of them exist at once. "
            "Leave it out, or take a model with `features` and `unembed`."
        )
    if config.runtime.activation_checkpointing:
        items = list(_outermost_items(model)) if isinstance(model, AutogradModel) else []
        if not items:
            raise ConfigError(
                f"runtime.activation_checkpointing: the model '{name}' has no nn.ModuleList under autograd, whose "
                "items could be computed again. Leave it out."
            )
        for item in items:
            # On the instance, so that the item stays what it is: its class, its hooks, the names of its parameters.
            item.forward = partial(_recomputed, item, item.forward)


def _outermost_items(module: nn.Module) -> Iterator[nn.Module]:
    """Iterate over the items of every nn.ModuleList, but for those inside another's items."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _outermost_items(child)


def _recomputed(item: nn.Module, forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Return `forward(...)`; in training, its inputs are all that is kept of it, and backward computes it again.

    With the random state of the first time, so that dropout drops the same. Chen et al. (2016), "Training Deep Nets
    with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174
    """
    if not item.training:
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, **named)
