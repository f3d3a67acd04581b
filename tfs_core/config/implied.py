"""Components that a setting stands for, which no configuration names: they may not be installed."""

from tfs_core.config.schema import RunConfig
from tfs_core.errors import ConfigError
from tfs_core.registry import get_registry


def check_implied(config: RunConfig) -> None:
    """Raise ConfigError for each setting whose component is in no plugin that is installed."""
    runtime, registry = config.runtime, get_registry()
    implied = [
        ("runtime.activation_checkpointing", runtime.activation_checkpointing, "wrapper", "activation-checkpointing"),
        ("runtime.compile", runtime.compile, "wrapper", "compile"),
        ("samples.prompts", bool(config.samples.prompts), "logger", "samples"),
    ]
    problems = [
        f"{setting} needs the {kind} '{name}', and no plugin that is installed has it. Leave the setting out, or "
        "install one that has it; `tfs plugins` says how."
        for setting, is_on, kind, name in implied
        if is_on and all(entry.component.name != name for entry in registry.entries(kind))
    ]
    if problems:
        broken = [f"{plugin.distribution} is {plugin.state}: {reason}." for plugin, reason in registry.broken()]
        raise ConfigError("\n".join([*problems, *broken]))
