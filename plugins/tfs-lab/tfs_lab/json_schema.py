"""The JSON schema of a configuration: editors use it to complete, document and validate the YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

from tfs_core.config.documentation import field_docs, is_list, is_mapping, is_section
from tfs_core.config.resolved import plain
from tfs_core.config.schema import COMPONENT_KINDS, Choice, RunConfig
from tfs_core.config.validation import type_adapter
from tfs_core.errors import PluginError
from tfs_core.registry import Entry, get_registry

Schema = dict[str, Any]


def json_schema() -> Schema:
    """Return the JSON schema (draft 2020-12) of a configuration for the installed plugins.

    A component is its name alone, or a mapping with its name and its options. Rules that involve several settings
    (n_heads must divide d_model) are left to `tfs config validate`.
    """
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A run of tfs", **_section(RunConfig)}
    schema["$defs"] = {kind: _choices(kind) for kind in COMPONENT_KINDS.values()}
    return schema


def _section(cls: type) -> Schema:
    """Return the schema of a dataclass: a mapping with these keys and no others."""
    hints, docs = get_type_hints(cls, include_extras=True), field_docs(cls)
    properties: dict[str, Schema] = {}
    required = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        schema = _value(hints[field.name], COMPONENT_KINDS.get(field.name, ""))
        if isinstance(default, Choice):  # a mapping without a name sets options of the default component
            entry = get_registry().find(COMPONENT_KINDS[field.name], default.name)
            schema = {"anyOf": [schema, _component(entry, required=[])]}
        if default is dataclasses.MISSING:
            required.append(field.name)
        elif not dataclasses.is_dataclass(default):
            schema["default"] = plain(default)
        properties[field.name] = {"description": docs.get(field.name, ""), **schema}
    return {
        "type": "object",
        "description": " ".join((cls.__doc__ or "").split()),
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _value(hint: Any, kind: str) -> Schema:
    if hint is Choice:
        return {"$ref": f"#/$defs/{kind}"}
    if is_section(hint):
        return _section(hint)
    if is_list(hint):
        return {"type": "array", "items": _value(get_args(hint)[0], kind)}
    if is_mapping(hint):
        return {"type": "object", "additionalProperties": _value(get_args(hint)[1], kind)}
    if get_origin(hint) is not None and any(map(is_section, get_args(hint))):
        return {"anyOf": [_value(arm, kind) for arm in get_args(hint)]}
    return type_adapter(hint).json_schema()


def _choices(kind: str) -> Schema:
    """Return the schema of a setting that selects an installed component of a kind."""
    alternatives = [_component(entry) for entry in get_registry().entries(kind)]
    names = [name for alternative in alternatives for name in alternative["properties"]["name"]["enum"]]
    schema: Schema = {"anyOf": [{"type": "string", "enum": names}, *alternatives]}
    if kind == "model":
        local = {"type": "string", "pattern": r"\.py:[A-Za-z_]\w*$", "description": "./my_model.py:MyModel"}
        schema["anyOf"] += [local, {"type": "object", "properties": {"name": local}, "required": ["name"]}]
    if get_registry().for_path(kind, ""):
        path = {"type": "string", "pattern": r"[/\\]|\.json$", "description": "a path, relative to this file"}
        schema["anyOf"].append(path)
    return schema


def _component(entry: Entry, *, required: Sequence[str] = ("name",)) -> Schema:
    """Return the schema of one component as a mapping; accepts any option when its class cannot be imported."""
    options: Schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    try:
        if config_class := entry.load_config_class():
            options = _section(config_class)
    except PluginError as error:
        options |= {"description": str(error), "additionalProperties": True}
    name = {"description": entry.component.summary, "enum": [entry.component.name, entry.qualified_name]}
    options["title"] = f"{entry.component.name} ({entry.distribution})"
    options["properties"] = {"name": name, **options["properties"]}
    options["required"] = [*required, *options["required"]]
    return options
