"""What this plugin offers: the optimizer `muon`. Imports nothing heavy."""

from collections.abc import Iterable

from tfs_core.component import Component
from tfs_core.hookspecs import hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_optimizers() -> Iterable[Component]:
    return [
        Component(
            name="muon",
            summary="momentum whose update is orthogonalized, for hidden matrices; AdamW for the rest",
            factory="tfs_muon.muon:build",
            config="tfs_muon.config:MuonConfig",
        )
    ]
