"""The component of this plugin. Imports no torch."""

from tfs_core import Component, hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_models() -> list[Component]:
    """Return the one model of this plugin."""
    return [
        Component(
            name="baseline",
            summary="what you would really train: RMSNorm, rotary positions, SwiGLU, grouped queries, QK-norm",
            factory="tfs_baseline.key_value_cache:CachedTransformer",
            config="tfs_baseline.config:BaselineConfig",
        )
    ]
