"""What this plugin offers. Imports nothing heavy."""

from collections.abc import Iterable

from tfs_core.component import Component
from tfs_core.hookspecs import hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_components() -> Iterable[Component]:
    """Offer three wrappers, and the compiled step of `tfs generate --compile`."""
    return [
        Component(
            kind="wrapper",
            name="compile",
            summary="The loss compiled by torch.compile (runtime.compile).",
            factory="tfs_speed.compiling:build",
        ),
        Component(
            kind="wrapper",
            name="activation-checkpointing",
            summary="Blocks computed again in the backward pass: less memory (runtime.activation_checkpointing).",
            factory="tfs_speed.recompute:build",
        ),
        Component(
            kind="wrapper",
            name="kernels",
            summary="The faster exact kernel of float32 products, measured on this CPU (runtime.matmul: auto).",
            factory="tfs_speed.kernels:build",
        ),
        Component(
            kind="token-step",
            name="compiled",
            summary="The step that writes one token, compiled (tfs generate --compile).",
            factory="tfs_speed.token_step:build",
        ),
    ]
