"""Components of the plugin: the optimizer `muon`. No heavy imports."""

from collections.abc import Iterable

from tfs_core.component import Component
from tfs_core.hookspecs import hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_optimizers() -> Iterable[Component]:
    return [
        Component(
            name="muon",
            summary="Muon (orthogonalized momentum) for hidden matrices, AdamW for all other parameters",
            factory="tfs_muon.muon:build",
            config="tfs_muon.config:MuonConfig",
        )
    ]
