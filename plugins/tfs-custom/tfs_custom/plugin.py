"""Components of this plugin: the hand-written transformer and two hand-written optimizers. Imports no torch."""

from collections.abc import Iterable

from tfs_core.component import Component
from tfs_core.hookspecs import hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_models() -> Iterable[Component]:
    return [
        Component(
            name="custom",
            summary="GPT-2's function in plain tensors, every gradient derived by hand (mirrors torch)",
            factory="tfs_custom.key_value_cache:CachedTransformer",
            config="tfs_custom.config:CustomConfig",
        )
    ]


@hookimpl
def tfs_optimizers() -> Iterable[Component]:
    return [
        Component(
            name="adamw-by-hand",
            summary="AdamW with its update written out; the results of adamw",
            factory="tfs_custom.optimizers.adamw:build",
            config="tfs_custom.config:AdamWByHandConfig",
        ),
        Component(
            name="sgd-by-hand",
            summary="gradient descent with momentum, its update written out; the results of sgd",
            factory="tfs_custom.optimizers.sgd:build",
            config="tfs_custom.config:SGDByHandConfig",
        ),
    ]
