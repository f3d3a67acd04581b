"""A model in place of another with the same parameter names and the same function: the hand-written one, say."""

import dataclasses

from tfs_core.config import config_from_mapping, resolved
from tfs_core.config.schema import Choice, RunConfig, is_local_model
from tfs_core.contracts import LanguageModel
from tfs_core.errors import ConfigError
from tfs_core.registry import get_registry
from tfs_core.training.components import build_model


def with_model(config: RunConfig, name: str) -> RunConfig:
    """Return the configuration with another model, which keeps those of the options that it knows."""
    config_class = get_registry().find("model", name).load_config_class()
    known = {field.name for field in dataclasses.fields(config_class)} if config_class else set()
    values = resolved(config)
    options = {key: value for key, value in values["model"].items() if key in known}
    return config_from_mapping({**values, "model": {"name": name, **options}}, source="the run's configuration")


def check_mirror(before: Choice, now: Choice, model: LanguageModel) -> None:
    """Raise ConfigError unless `model`, which is what `now` chose, is the model of before or mirrors it."""
    old_name, new_name = _bare_name(before), _bare_name(now)
    if new_name == old_name or model.mirrors == old_name:
        return
    if build_model(before, vocab_size=model.vocab_size, seed=0).mirrors != new_name:
        raise ConfigError(
            f"the weights are those of the model '{old_name}', which '{new_name}' does not mirror: they would mean "
            "something else to it. Leave --model out."
        )


def _bare_name(choice: Choice) -> str:
    return choice.name if is_local_model(choice.name) else get_registry().find("model", choice.name).component.name
