"""A configuration as plain values and as YAML, with all defaults filled in; differences of two configurations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple

from tfs_core.config.document import Key, dotted, write_yaml
from tfs_core.config.relations import without_effect
from tfs_core.config.schema import Choice, RunConfig


def plain(value: Any) -> Any:
    """Return a value of a configuration as JSON values: dataclasses as mappings, tuples as lists, paths as text."""
    if isinstance(value, Choice):
        return {"name": value.name, **(plain(value.options) or {})}
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    return value


def flat(value: Any, key: Key = ()) -> dict[str, Any]:
    """Flatten plain values to {dotted name: value}. Mappings and lists of mappings are flattened recursively."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {dotted(key): value}
    return {name: item for part, inner in value.items() for name, item in flat(inner, (*key, part)).items()}


def resolved(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as JSON values in the order of the schema, with all defaults filled in.

    Options of a component are next to its name. Settings without effect, such as the temperature of samples without
    prompts, are left out when they have their default, because a configuration must not set
    them. The result loads as an equal RunConfig.
    """
    values: dict[str, Any] = plain(config)
    for name in without_effect(flat(values)):
        section, setting = name.split(".")
        if values[section][setting] == getattr(type(getattr(config, section)), setting):  # its default
            del values[section][setting]
    if config.data.batching.options is None:
        values["data"]["batching"] = config.data.batching.name  # as in earlier versions, so that runs can be compared
    if not config.wrappers:
        del values["wrappers"]
    return values


def to_yaml(config: RunConfig) -> str:
    """Return `resolved` as YAML that loads as an equal configuration; text that looks like a number is quoted."""
    return write_yaml(resolved(config))


class Difference(NamedTuple):
    """A setting with different values in two configurations."""

    key: str
    first: Any
    """The plain value in the first configuration; None when it does not have the setting."""

    second: Any


def config_differences(first: RunConfig, second: RunConfig) -> list[Difference]:
    """Return the settings in which two resolved configurations differ, in the order of the schema."""
    one, other = flat(resolved(first)), flat(resolved(second))
    return [
        Difference(name, one.get(name), other.get(name))
        for name in one | other
        if name not in one or name not in other or one[name] != other[name]
    ]
