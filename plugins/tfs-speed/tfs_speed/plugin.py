"""Components of the plugin. No heavy imports."""

from collections.abc import Iterable

from tfs_core.component import Component
from tfs_core.hookspecs import hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_components() -> Iterable[Component]:
    """Return three wrappers, and the compiled step of `tfs generate --compile`."""
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
            summary="Blocks recomputed in the backward pass to save memory (runtime.activation_checkpointing).",
            factory="tfs_speed.recompute:build",
        ),
        Component(
            kind="wrapper",
            name="kernels",
            summary="The faster exact kernel of float32 matrix products, measured on this CPU (runtime.matmul: auto).",
            factory="tfs_speed.kernels:build",
        ),
        Component(
            kind="token-step",
            name="compiled",
            summary="The compiled step for one new token (tfs generate --compile).",
            factory="tfs_speed.token_step:build",
        ),
    ]
