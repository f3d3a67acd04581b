"""Components of the plugin. No heavy imports."""

from tfs_core import Component, hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_commands() -> list[Component]:
    """Return the commands for checking models, plugins and configurations."""
    return [
        Component(
            name="check",
            summary="Verify a model: gradients, causality, padding, saving, resuming, parity with its mirror.",
            factory="tfs_lab.check:check",
        ),
        Component(
            name="plugins check",
            summary="Import everything that a plugin refers to, and report problems.",
            factory="tfs_lab.commands:plugins_check",
        ),
        Component(
            name="config schema",
            summary="Print the JSON schema of a configuration, for an editor.",
            factory="tfs_lab.commands:config_schema",
        ),
        Component(
            name="replay",
            summary="Repeat a step whose loss or gradient was not finite, and show where its numbers go wrong.",
            factory="tfs_lab.replay:replay",
        ),
        Component(
            name="verify-resume",
            summary="Prove that interrupted and resumed runs equal an uninterrupted one bit for bit.",
            factory="tfs_lab.verify_resume:verify_resume",
        ),
        Component(
            name="doctor",
            summary="Show the state of the installation, its problems, and what to do about them.",
            factory="tfs_lab.doctor:doctor",
        ),
    ]


@hookimpl
def tfs_loggers() -> list[Component]:
    """Return the loggers that every run has when this plugin is installed."""
    return [
        Component(
            name="bigram",
            summary="The bits per byte of a bigram model, as a reference value in console and dashboard",
            factory="tfs_lab.bigram:build",
        ),
        Component(
            name="spikes",
            summary="An event for each spike of the loss: a value far above the recent ones",
            factory="tfs_lab.spikes:Spikes",
            config="tfs_lab.spikes:SpikesConfig",
        ),
    ]


@hookimpl
def tfs_components() -> list[Component]:
    """Return the classes that scripts of the original tools import from `tfs_core.training`."""
    return [
        Component(
            kind="script",
            name="checkpoint-manager",
            summary="Checkpoints for your own training loop",
            factory="tfs_lab.own_loop:CheckpointManager",
        ),
        Component(
            kind="script",
            name="training-logger",
            summary="A log for your own training loop",
            factory="tfs_lab.own_loop:TrainingLogger",
        ),
    ]
