"""Components of the plugin: two commands, a logger, and a kind of component. No heavy imports."""

from collections.abc import Iterable

from tfs_core.component import Component, Kind
from tfs_core.hookspecs import hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_commands() -> Iterable[Component]:
    return [
        Component(
            name="generate",
            summary="Continue a prompt with a trained model",
            factory="tfs_generate.generate:generate",
        ),
        Component(name="chat", summary="Chat with a trained model", factory="tfs_generate.chat:chat"),
    ]


@hookimpl
def tfs_loggers() -> Iterable[Component]:
    return [
        Component(
            name="samples",
            summary="Continuations of fixed prompts after each validation (the section `samples`)",
            factory="tfs_generate.samples:build",
            config="tfs_core.config.schema:SamplesConfig",
        )
    ]


@hookimpl
def tfs_kinds() -> Iterable[Kind]:
    return [
        Kind(
            name="token-step",
            keywords=("model", "name", "report"),
            protocol="tfs_generate.token_step:TokenStep",
        )
    ]
