"""A component selected by kind, name and options, as in a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfs_core.config import load_local_model
from tfs_core.config.document import Document, Place
from tfs_core.config.schema import is_local_model
from tfs_core.config.validation import chosen_component
from tfs_core.registry import get_registry


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A component under check: its factory and its options."""

    kind: str
    name: str
    factory: Callable[..., Any]
    config: Any  # an instance of the component's own configuration class, None when it has none


def chosen(kind: str, name: str, options: Mapping[str, Any] | None = None) -> Chosen:
    """Return the component of a kind by its name (a model also by its file: `./my_model.py:MyModel`).

    Raises ConfigError when an option is wrong, PluginError when there is no such component.
    """
    values = {"name": name, **(options or {})}
    document = Document(values, places={(): Place(source=f"options of {kind} '{name}'", base=Path.cwd())})
    choice = chosen_component(kind, values, document)
    if kind == "model" and is_local_model(choice.name):
        factory, config = load_local_model(choice, allowed=True)
    else:
        factory, config = get_registry().find(kind, choice.name).load_factory(), choice.options
    return Chosen(kind=kind, name=name, factory=factory, config=config)
