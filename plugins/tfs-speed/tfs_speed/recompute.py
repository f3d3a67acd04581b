"""`runtime.activation_checkpointing`: the activations of blocks are recomputed in the backward pass.

Only the inputs of each block stay in memory. The activations inside a block are recomputed, so they are in memory for
only one block at a time. This costs about a third more compute. The results of a run are bit-identical.

Chen et al. (2016), "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.utils.checkpoint import checkpoint

from tfs_core.contracts import WrapContext
from tfs_core.errors import ConfigError
from tfs_core.models import AutogradModel


class ActivationCheckpointing:
    """The wrapper `activation-checkpointing`: the items of every outermost nn.ModuleList are recomputed."""

    stage: Literal["checkpoint"] = "checkpoint"
    changes_weights = False

    def wrap(self, loss: nn.Module, *, context: WrapContext) -> nn.Module:
        """Make the model recompute its blocks, and return `loss`. Raises ConfigError if no block can be recomputed."""
        model = context.model
        blocks = list(_outermost_items(model)) if isinstance(model, AutogradModel) else []
        if not blocks:
            raise ConfigError(
                f"runtime.activation_checkpointing: the model '{context.model_name}' has no nn.ModuleList under "
                "autograd, whose items could be recomputed. Leave it out."
            )
        for block in blocks:
            # `forward` is replaced on the instance, because the alternatives fail: a module around the block renames
            # its parameters (also in checkpoints), hooks cannot run a forward pass again, and PyTorch's composable
            # `checkpoint`, made of hooks, cannot be compiled in one graph.
            block.forward = partial(_recomputed, block, block.forward)
        return loss


def build(config: None) -> ActivationCheckpointing:  # noqa: ARG001 (it has no options)
    """Return the wrapper; it has no options."""
    return ActivationCheckpointing()


def _outermost_items(module: nn.Module) -> Iterator[nn.Module]:
    """Iterate over the items of every nn.ModuleList, except those inside another list's items."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _outermost_items(child)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Return `forward(...)`; in training mode only its inputs are saved, and the backward pass recomputes it.

    The recomputation restores the random state, so that dropout drops the same elements.
    """
    if not block.training:
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, **named)
