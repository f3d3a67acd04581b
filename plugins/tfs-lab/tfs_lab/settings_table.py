"""Tables of settings for `docs/configuration.md` and the READMEs of plugins, generated from the code."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_type_hints

from tfs_core.config.documentation import field_docs, in_words
from tfs_core.config.resolved import plain


def settings_table(cls: type) -> str:
    """Return a Markdown table of a configuration class: each setting with its values, default and documentation."""
    hints, docs = get_type_hints(cls, include_extras=True), field_docs(cls)
    rows = [("setting", "value", "default", "description"), ("---", "---", "---", "---")]
    for field in dataclasses.fields(cls):
        words = in_words(hints[field.name]) or "settings of its own"
        rows.append((f"`{field.name}`", words, _default(field), docs.get(field.name, "")))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _default(field: dataclasses.Field[Any]) -> str:
    """Return the default of a field in YAML notation; `required` when it has none."""
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if default is dataclasses.MISSING:
        return "required"
    value = plain(default)
    if isinstance(value, dict):
        return f"`{value['name']}`" if "name" in value else "the defaults"
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = [item["name"] for item in value]
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`".replace('"', "")
