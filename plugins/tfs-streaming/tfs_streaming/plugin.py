"""Components of the plugin. No heavy imports."""

from tfs_core import Component, hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_components() -> list[Component]:
    """Return the batching for data sets that stream."""
    return [
        Component(
            kind="batching",
            name="streaming",
            summary="packed rows of a data set that is read while the run trains, with a few shards of it on disk",
            factory="tfs_streaming.batching:StreamBatches",
        )
    ]
