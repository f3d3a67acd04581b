"""What this plugin offers. Imports nothing heavy."""

from tfs_core import Component, hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_components() -> list[Component]:
    """Offer the batching of sources that stream."""
    return [
        Component(
            kind="batching",
            name="streaming",
            summary="packed rows of a data set that arrives while the run trains, a few shards of it on the disk",
            factory="tfs_streaming.batching:StreamBatches",
        )
    ]
