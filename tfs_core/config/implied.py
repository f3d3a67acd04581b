"""Check that components which are selected by a setting, not by name, are installed."""

from tfs_core.config.schema import RunConfig
from tfs_core.errors import ConfigError
from tfs_core.registry import get_registry


def check_required_components(config: RunConfig) -> None:
    """Raise ConfigError that lists the settings whose component no installed plugin provides."""
    runtime, registry = config.runtime, get_registry()
    implied = [
        ("runtime.activation_checkpointing", runtime.activation_checkpointing, "wrapper", "activation-checkpointing"),
        ("runtime.compile", runtime.compile, "wrapper", "compile"),
        ("samples.prompts", bool(config.samples.prompts), "logger", "samples"),
    ]
    problems = [
        f"{setting} needs the {kind} '{name}', and no installed plugin has it. Leave the setting out, or install a "
        "plugin that has it; `tfs plugins` shows how."
        for setting, is_on, kind, name in implied
        if is_on and all(entry.component.name != name for entry in registry.entries(kind))
    ]
    if problems:
        broken = [f"{plugin.distribution} is {plugin.state}: {reason}." for plugin, reason in registry.broken()]
        raise ConfigError("\n".join([*problems, *broken]))
