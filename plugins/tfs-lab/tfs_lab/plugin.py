"""What this plugin offers. Imports nothing heavy."""

from tfs_core import Component, hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_commands() -> list[Component]:
    """Return the commands for checking models, plugins and configurations."""
    return [
        Component(
            name="check",
            summary="Prove a model right: gradients, causality, padding, saving, resuming, parity with its mirror.",
            factory="tfs_lab.check:check",
        ),
        Component(
            name="plugins check",
            summary="Import all that a plugin refers to, and say what is wrong.",
            factory="tfs_lab.commands:plugins_check",
        ),
        Component(
            name="config schema",
            summary="Print the JSON schema of a configuration, for an editor.",
            factory="tfs_lab.commands:config_schema",
        ),
    ]


@hookimpl
def tfs_loggers() -> list[Component]:
    """Return the yardstick, which every run has where this plugin is installed."""
    summary = "The yardstick of console and dashboard: bits per byte of a model that counts pairs of tokens"
    return [Component(name="bigram", summary=summary, factory="tfs_lab.bigram:build")]


@hookimpl
def tfs_components() -> list[Component]:
    """Return what scripts of the original tools import from `tfs_core.training`."""
    return [
        Component(
            kind="script",
            name="checkpoint-manager",
            summary="Checkpoints for a training loop of your own",
            factory="tfs_lab.own_loop:CheckpointManager",
        ),
        Component(
            kind="script",
            name="training-logger",
            summary="A log for a training loop of your own",
            factory="tfs_lab.own_loop:TrainingLogger",
        ),
    ]
