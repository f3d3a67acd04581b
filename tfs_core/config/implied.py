"""Components which are selected by a setting, or used if they are installed, instead of being chosen by name."""

from tfs_core.config.schema import RunConfig
from tfs_core.errors import ConfigError
from tfs_core.registry import get_registry

USUAL_OWNERS = {
    "samples": "tfs-generate",
    "bigram": "tfs-lab",
    "spikes": "tfs-lab",
    "streaming": "tfs-streaming",
    "kernels": "tfs-speed",
    "compile": "tfs-speed",
    "activation-checkpointing": "tfs-speed",
}
"""Component -> the distribution that usually has it, and from which it is taken when several have it."""


def implied_name(kind: str, name: str) -> str | None:
    """Return the unambiguous name of an implied component, or None when no installed plugin has it."""
    owners = get_registry().owners(kind, name)
    usual = USUAL_OWNERS.get(name)
    return f"{usual}/{name}" if len(owners) > 1 and usual in owners else name if owners else None


def check_required_components(config: RunConfig) -> None:
    """Raise ConfigError that lists the settings whose component no installed plugin provides."""
    runtime, registry = config.runtime, get_registry()
    implied = [
        ("runtime.activation_checkpointing", runtime.activation_checkpointing, "wrapper", "activation-checkpointing"),
        ("runtime.compile", runtime.compile, "wrapper", "compile"),
        ("samples.prompts", bool(config.samples.prompts), "logger", "samples"),
    ]
    problems = [
        f"{setting} needs the {kind} '{name}', and no installed plugin has it. Leave the setting out, or install "
        f"{USUAL_OWNERS[name]}; `tfs plugins` shows how."
        for setting, is_on, kind, name in implied
        if is_on and implied_name(kind, name) is None
    ]
    if problems:
        broken = [f"{plugin.distribution} is {plugin.state}: {reason}." for plugin, reason in registry.broken()]
        raise ConfigError("\n".join([*problems, *broken]))
