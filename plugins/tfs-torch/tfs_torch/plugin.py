"""The component of this plugin. Imports no torch."""

from tfs_core import Component, hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_models() -> list[Component]:
    """Return the one model of this plugin."""
    return [
        Component(
            name="torch",
            summary="GPT-2's transformer in PyTorch, in one readable file",
            factory="tfs_torch.key_value_cache:CachedTransformer",
            config="tfs_torch.config:TorchConfig",
        )
    ]
