"""The registry: looks up the components of all installed plugins by kind and name."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tfs_core.component import Component
from tfs_core.errors import PluginError
from tfs_core.plugins import CORE, Plugin, as_plugin_error, canonical, describe, did_you_mean, discover, load_reference
from tfs_core.terminal import escape_control_characters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tfs_core.contracts import Tokenizer


@dataclass(frozen=True)
class Entry:
    """A component and the distribution that provides it. References are imported lazily, by the `load_` methods."""

    kind: str
    component: Component
    distribution: str
    version: str

    @property
    def qualified_name(self) -> str:
        """Return the unambiguous name, such as `tfs-torch/torch`."""
        return f"{self.distribution}/{self.component.name}"

    def load_factory(self) -> Callable[..., Any]:
        """Import and return the factory (of a command: the click command). Raises PluginError."""
        factory: Callable[..., Any] = self._load("factory", self.component.factory)
        if not callable(factory):
            raise PluginError(f"{self}: its factory '{self.component.factory}' cannot be called")
        return factory

    def load_config_class(self) -> type | None:
        """Import and return the frozen dataclass of the component's options, or None. Raises PluginError."""
        if self.component.config is None:
            return None
        config = self._load("config", self.component.config)
        if not (isinstance(config, type) and is_dataclass(config) and config.__dataclass_params__.frozen):  # type: ignore[attr-defined]
            raise PluginError(f"{self}: its config '{self.component.config}' is not a frozen dataclass")
        return config

    def build(self, options: Any, **keywords: Any) -> Any:
        """Call the factory with the options and the keyword arguments of its kind, and return the result.

        `options=None` stands for the default options, as when a component is chosen in Python by name only. Raises
        PluginError, with the component's name, when the factory returns None or raises an exception other than a
        TfsError.
        """
        factory, config_class = self.load_factory(), self.load_config_class()
        with as_plugin_error(f"{self} cannot be built"):
            if options is None and config_class is not None:
                options = config_class()
            built = factory(options, **keywords)
        if built is None:
            raise PluginError(f"{self}: its factory '{self.component.factory}' returned None")
        return built

    def load_loader(self) -> Callable[[Path], Tokenizer]:
        """Import and return the function that loads a saved tokenizer from its folder. Raises PluginError."""
        if self.component.loader is None:
            raise PluginError(f"{self} has no loader")
        loader: Callable[[Path], Tokenizer] = self._load("loader", self.component.loader)
        return loader

    def _load(self, role: str, reference: str) -> Any:
        try:
            return load_reference(reference)
        except (Exception, SystemExit) as error:
            advice = "TFS_DEBUG=1 shows where."
            own = reference.partition(":")[0].partition(".")[0]
            if isinstance(error, ModuleNotFoundError) and (error.name or own).partition(".")[0] != own:
                advice = f"Install the missing package into {sys.prefix}, the environment of tfs."
            raise PluginError(
                f"{self}: its {role} '{reference}' cannot be imported: {describe(error)}. {advice}"
            ) from error

    def __str__(self) -> str:
        return f"{self.kind} '{self.component.name}' of {self.distribution}"


class Registry:
    """The installed plugins, their components, and the kinds of components that they declare."""

    def __init__(self, plugins: list[Plugin]) -> None:
        self.plugins = plugins
        self.kinds = {kind.name: kind for plugin in plugins for kind in plugin.kinds}
        self._entries = [
            Entry(kind, component, plugin.distribution, plugin.version)
            for plugin in plugins
            for kind, component in plugin.components
        ]
        self._warned = False

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Return the components of a kind, or of all kinds: the core's first, then in the order of distributions."""
        return [entry for entry in self._entries if kind in (None, entry.kind)]

    def find(self, kind: str, name: str) -> Entry:
        """Return the component of a kind with the name `name` or `distribution/name`.

        A name of the core's own means the core's component. Raises PluginError when two other distributions have the
        name, and when there is none; the message then suggests the nearest name and lists the installed components and
        the broken plugins. The first call logs a warning for each broken plugin.
        """
        self._warn_once()
        distribution, slash, bare = name.rpartition("/")
        exact = f"{canonical(distribution)}/{bare}" if slash else name
        found = [entry for entry in self.entries(kind) if exact in (entry.component.name, entry.qualified_name)]
        if len(found) == 1 or (found and found[0].distribution == CORE):
            return found[0]
        if found:
            choices = " or ".join(f"'{entry.qualified_name}'" for entry in found)
            raise PluginError(f"{kind} '{name}' is in more than one distribution: write {choices}")
        raise PluginError(self._not_found_message(kind, name, bare))

    def owners(self, kind: str, name: str) -> list[str]:
        """Return the distributions that have a component of that kind and (bare) name."""
        return [entry.distribution for entry in self.entries(kind) if entry.component.name == name]

    def for_path(self, kind: str, path: str) -> tuple[str, str] | None:
        """Return (component name, option name) to use for a path given instead of a name; None if there are none.

        The first component with a suffix of the path, or of all files in the folder, comes before the first one without
        suffixes.
        """
        found = [(one, one.path_option) for one in (entry.component for entry in self.entries(kind)) if one.path_option]
        files = [PurePath(file.lower()).suffixes[-2:] for file in _files(path)]  # such as .jsonl.gz
        fitting = [(one.name, option) for one, option in found if all(set(one.path_suffixes) & set(s) for s in files)]
        others = [(one.name, option) for one, option in found if not one.path_suffixes]
        return next(iter(fitting + others), None)

    def _not_found_message(self, kind: str, name: str, bare: str) -> str:
        entries = self.entries(kind)
        names = {entry.component.name for entry in entries} | {entry.qualified_name for entry in entries}
        parts = [f"there is no {kind} '{name}'.{did_you_mean(name, names)}"]
        if elsewhere := [str(entry) for entry in self.entries() if entry.component.name == bare]:
            parts.append(f"There is: {', '.join(elsewhere)}.")
        parts.append(f"Installed: {', '.join(entry.component.name for entry in entries) or 'none'}.")
        parts += [f"{plugin.distribution} is {plugin.state}: {reason}." for plugin, reason in self.broken()]
        parts.append(f"Plugins are looked for in {sys.prefix}; `tfs plugins` lists them and shows how to install one.")
        return " ".join(parts)

    def broken(self) -> list[tuple[Plugin, str]]:
        """Return the plugins that are disabled or have problems, each with the first reason."""
        return [
            (plugin, plugin.disabled_by or plugin.problems[0].rstrip("."))
            for plugin in self.plugins
            if plugin.disabled_by or plugin.problems
        ]

    def _warn_once(self) -> None:
        warned, self._warned = self._warned, True
        for plugin, reason in self.broken():
            if not warned and not plugin.disabled_by:
                import logging  # lazy: the import takes a tenth of the time of `tfs --help`

                message = f"plugin {plugin.distribution} is {plugin.state}: {reason} (see `tfs plugins`)"
                logging.getLogger(__name__).warning(escape_control_characters(message))


def _files(path: str) -> list[str]:
    """Return the names of all files in a folder but hidden ones, or the path itself if there are none."""
    names = []
    for _, folders, found in os.walk(path):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        names += [name for name in found if not name.startswith(".")]
    return names or [path]


@cache
def get_registry() -> Registry:
    """Return the registry of this process. The first call discovers the plugins."""
    return Registry(discover())
