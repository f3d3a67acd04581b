"""Components of the plugin. No heavy imports."""

from tfs_core import Component, hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_models() -> list[Component]:
    """Return the model of this plugin."""
    return [
        Component(
            name="speedrun",
            summary="a small transformer that learns characters in seconds on a CPU",
            factory="tfs_speedrun.model:Speedrun",
            config="tfs_speedrun.config:SpeedrunConfig",
        )
    ]


@hookimpl
def tfs_optimizers() -> list[Component]:
    """Return the optimizer of this plugin, designed for that model."""
    return [
        Component(
            name="speedrun",
            summary="Muon for hidden matrices, plain gradient descent for n-gram tables, AdamW for the rest",
            factory="tfs_speedrun.optimizer:build",
            config="tfs_speedrun.config:SpeedrunOptimizerConfig",
        )
    ]
