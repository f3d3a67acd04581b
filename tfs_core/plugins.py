"""Discovery of installed plugins, with isolation of broken ones.

A plugin is a module that an installed distribution declares as an entry point of the group `tfs.plugins`. It states
`TFS_PLUGIN_API = 1` and implements hooks of `tfs_core.hookspecs`. Each plugin is imported and called separately, so
every component and every error is assigned to its plugin. `tfs plugins` shows the errors that a `Plugin` recorded.

    TFS_PLUGINS=a,b           only these, by distribution or entry-point name; if empty, only the core's own
    TFS_DISABLE_PLUGINS=a,b   all but these
    TFS_STRICT_PLUGINS=1      raise errors instead of recording them (for a plugin author's CI)
"""

from __future__ import annotations

import importlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pluggy

import tfs_core
from tfs_core import hookspecs
from tfs_core.component import CORE_KINDS, HOOKS, Component, Kind
from tfs_core.errors import PluginError, TfsError

CORE = "tfs-core"
"""The distribution of the core's own components. They use the same hooks as other plugins, but no entry point."""

ALL_HOOKS = (*HOOKS, "tfs_components", "tfs_kinds")


@dataclass
class Plugin:
    """An entry point with its components and its errors."""

    distribution: str
    version: str
    name: str
    """Name of the entry point: the left side of its `=` in pyproject.toml."""

    reference: str
    """Module with the hooks: the right side of the `=`."""

    kinds: list[Kind] = field(default_factory=list)
    """The kinds of components that the plugin declares."""

    components: list[tuple[str, Component]] = field(default_factory=list)
    """(kind, component), in the order of `ALL_HOOKS`, then in the plugin's own order."""

    unused: list[str] = field(default_factory=list)
    """Messages about components that no installed plugin can use. They do not count as problems."""

    problems: list[str] = field(default_factory=list)
    """Error messages. The affected part of the plugin, or the whole plugin, cannot be used."""

    clashes: list[str] = field(default_factory=list)
    """Messages about names that another distribution also has. They need the prefix `distribution/`."""

    cause: BaseException | None = None
    """Exception behind the first problem, if the plugin's code raised one."""

    disabled_by: str | None = None
    """Name of the environment variable that disables the plugin, if any."""

    loaded: bool = False
    """True after the plugin was imported and its hooks were registered."""

    @property
    def state(self) -> str:
        """Return `ok`, `disabled`, `failed` (not usable at all) or `incomplete` (a part is not usable)."""
        if self.disabled_by:
            return "disabled"
        if not self.loaded:
            return "failed"
        return "incomplete" if self.problems else "ok"


def discover() -> list[Plugin]:
    """Return all plugins, the core's own first, the others sorted by (distribution, entry point).

    Raises PluginError for an unknown name in TFS_PLUGINS or TFS_DISABLE_PLUGINS, and for the first problem or clash if
    TFS_STRICT_PLUGINS is 1.
    """
    own = Plugin(CORE, tfs_core.__version__, "builtin", "tfs_core.builtin.plugin", kinds=list(CORE_KINDS))
    plugins = [own, *sorted(installed_plugins(), key=lambda plugin: (plugin.distribution, plugin.name))]
    _disable(plugins[1:])
    for plugin in plugins:
        if not plugin.disabled_by:
            _load(plugin)
    _resolve_conflicts(plugins)
    if os.environ.get("TFS_STRICT_PLUGINS", "") not in ("", "0"):
        for plugin in plugins:
            for message in [*plugin.problems, *plugin.clashes]:
                raise PluginError(f"{plugin.distribution}: {message}") from plugin.cause
    return plugins


def installed_plugins() -> Iterator[Plugin]:
    """Iterate over the entry points of the group, without importing them.

    `importlib.metadata.entry_points` is not used: it fails if the metadata of any distribution is damaged.
    """
    from importlib.metadata import distributions  # slow to import, and not needed for `tfs --version`

    seen = set()
    for distribution in distributions():
        try:
            if hookspecs.ENTRY_POINT_GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            points = distribution.entry_points.select(group=hookspecs.ENTRY_POINT_GROUP)
            name, version = canonical(distribution.name or "unknown"), distribution.version or "unknown"
        except Exception:  # damaged metadata
            continue
        if name not in seen:  # of several versions on sys.path, imports use the first
            seen.add(name)
            yield from (Plugin(name, version, point.name, point.value.partition("[")[0].strip()) for point in points)


def canonical(distribution: str) -> str:
    """Return the normalized name of a distribution (PEP 503): `Tfs_Torch` becomes `tfs-torch`."""
    return re.sub(r"[-_.\s]+", "-", distribution.strip()).lower()


def _disable(plugins: list[Plugin]) -> None:
    """Mark the plugins that environment variables disable. Raises PluginError for unknown names."""
    known = {name for plugin in plugins for name in (plugin.distribution, plugin.name)}
    for variable, disables_named in (("TFS_PLUGINS", False), ("TFS_DISABLE_PLUGINS", True)):
        if variable not in os.environ:
            continue
        names = {name.strip() for name in os.environ[variable].split(",") if name.strip()}
        names = {name if name in known else canonical(name) for name in names}
        for unknown in sorted(names - known):
            raise PluginError(
                f"{variable} names '{unknown}', which is neither the distribution nor the entry point of a plugin."
                f"{did_you_mean(unknown, known)} Installed: {', '.join(sorted(known)) or 'none'}."
            )
        for plugin in plugins:
            if bool(names & {plugin.distribution, plugin.name}) == disables_named:
                plugin.disabled_by = variable


def _load(plugin: Plugin) -> None:
    """Import a plugin and collect the results of its hooks. All exceptions but KeyboardInterrupt are recorded.

    Each plugin has its own plugin manager, so every result and every exception can be assigned to it.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    with _recording_problems(plugin, f"{plugin.reference} cannot be imported"):
        module = load_reference(plugin.reference)
    if not plugin.problems:
        with _recording_problems(plugin, "its TFS_PLUGIN_API cannot be read"):
            plugin.problems += _api_problems(module, plugin.distribution)
    if not plugin.problems:
        with _recording_problems(plugin, "its hooks cannot be registered"):
            manager.register(module)
            plugin.loaded = True
    if not plugin.loaded:
        return

    implemented = {hook.name for hook in manager.get_hookcallers(module) or []}
    for name in sorted(implemented.difference(ALL_HOOKS)):
        plugin.problems.append(f"'{name}' is not a hook.{did_you_mean(name, ALL_HOOKS)} Hooks: {', '.join(ALL_HOOKS)}.")
    for hook in ALL_HOOKS:
        if hook not in implemented:
            continue
        with _recording_problems(plugin, f"{hook} failed"):
            for offered in _as_list(getattr(manager.hook, hook)(), "Kinds" if hook == "tfs_kinds" else "Components"):
                if problem := _problem(hook, offered):
                    plugin.problems.append(f"{hook}: {problem}")
                elif hook == "tfs_kinds":
                    plugin.kinds.append(offered)
                else:
                    plugin.components.append((HOOKS.get(hook) or offered.kind, offered))


@contextmanager
def _recording_problems(plugin: Plugin, prefix: str) -> Iterator[None]:
    """Record an exception in the block as a problem of the plugin.

    BaseException is caught because SystemExit, and a panic of Rust code, are not subclasses of Exception.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if not plugin.problems:
            plugin.cause = error
        plugin.problems.append(f"{prefix}: {describe(error)}")


def load_reference(reference: str) -> Any:  # Any: a reference may name any object
    """Import and return the object that `package.module:attribute` (or `package.module`) names.

    Raises ImportError, AttributeError, or any exception of the module's own code.
    """
    module, _, attributes = reference.partition(":")
    value: Any = importlib.import_module(module)
    for attribute in filter(None, attributes.split(".")):
        value = getattr(value, attribute)
    return value


def _as_list(answers: list[Any], expected: str) -> list[Any]:  # Any: a plugin may return anything
    """Return a hook's results as one list; generators are run to their end. Raises TypeError for other results.

    `answers` comes from pluggy: one result per implementation of the hook.
    """
    if not answers:  # pluggy drops results that are None
        raise TypeError(f"it returned None instead of a list of {expected}")
    for answer in answers:
        if isinstance(answer, str) or not isinstance(answer, Iterable):
            raise TypeError(f"it returned {answer!r:.80} instead of a list of {expected}")
    return [offered for answer in answers for offered in answer]


def _api_problems(module: object, distribution: str) -> Iterator[str]:
    """Iterate over the reasons why a plugin is incompatible with this version of tfs."""
    ours, theirs = hookspecs.PLUGIN_API, getattr(module, "TFS_PLUGIN_API", None)
    if theirs is None:
        yield f"it does not set TFS_PLUGIN_API = {ours}, the version of the plugin interface it was written for"
    elif type(theirs) is not int:
        yield f"its TFS_PLUGIN_API is {theirs!r:.80}, not a whole number"
    elif theirs != ours:
        outdated = CORE if theirs > ours else distribution
        yield f"it was written for plugin interface {theirs}, but this tfs has {ours}: upgrade {outdated}"


def _problem(hook: str, offered: object) -> str | None:
    """Return the error message for an invalid item that a hook returned; None if it is valid. Imports nothing."""
    if hook == "tfs_kinds":
        return _kind_problem(offered)
    if not isinstance(offered, Component):
        return f"{offered!r:.80} is not a Component"
    name, kind = offered.name, HOOKS.get(hook, offered.kind)
    if not isinstance(kind, str):
        return f"component {name!r:.80} has no valid kind: its kind is {kind!r:.80}, not a string"
    if offered.kind not in (None, kind):
        return f"{kind} {name!r:.80} declares the kind {offered.kind!r:.80}: return it from tfs_components"
    pattern = "[a-z][a-z0-9_.-]*" + ("( [a-z][a-z0-9_.-]*)?" if kind == "command" else "")
    if not isinstance(name, str) or not re.fullmatch(pattern, name):
        return f"{name!r:.80} is not a name: lower-case letters, digits, '-', '_' and '.', beginning with a letter"
    if not isinstance(offered.summary, str) or len(offered.summary.splitlines()) != 1:
        return f"the summary of {kind} '{name}' is not one line of text"
    for role in ("factory", "config", "loader"):
        reference = getattr(offered, role)
        if (reference is not None or role == "factory") and not _is_reference(reference):
            return f"the {role} of {kind} '{name}' is {reference!r:.80}, not a string like 'package.module:attribute'"
    if kind == "tokenizer" and offered.loader is None:
        return f"tokenizer '{name}' has no loader, which is needed to load the tokenizer from a checkpoint"
    if kind != "tokenizer" and offered.loader is not None:
        return f"{kind} '{name}' has a loader, which only tokenizers have"
    if offered.path_option is not None and offered.config is None:
        return f"{kind} '{name}' has a path_option but no config, which must define that option"
    if kind == "command" and offered.config is not None:
        return f"command '{name}' has a config, but the options of a command are defined with click"
    return None


def _kind_problem(kind: object) -> str | None:
    if not isinstance(kind, Kind):
        return f"{kind!r:.80} is not a Kind"
    if not isinstance(kind.name, str) or not re.fullmatch("[a-z][a-z0-9-]*", kind.name):
        return f"{kind.name!r:.80} is not the name of a kind: lower-case letters, digits and '-', a letter first"
    keywords = () if kind.keywords is None else kind.keywords
    if not isinstance(keywords, tuple) or not all(isinstance(it, str) and it.isidentifier() for it in keywords):
        return f"the keywords of kind '{kind.name}' are {keywords!r:.80}, not a tuple of names"
    if kind.protocol is not None and not _is_reference(kind.protocol):
        return f"the protocol of kind '{kind.name}' is {kind.protocol!r:.80}, not a string like 'package.module:Class'"
    return None


def _is_reference(value: object) -> bool:
    return isinstance(value, str) and value.count(":") == 1 and all(map(str.isidentifier, re.split("[:.]", value)))


def _resolve_conflicts(plugins: list[Plugin]) -> None:
    """Remove duplicate and unusable kinds and components, and record names that several distributions use."""
    kinds: dict[str, tuple[str, Kind]] = {}
    for plugin in plugins:
        for kind in plugin.kinds:
            owner, first = kinds.setdefault(kind.name, (plugin.distribution, kind))
            if first is not kind:
                plugin.problems.append(f"the kind '{kind.name}' is already declared by {owner}")
        plugin.kinds = [kind for kind in plugin.kinds if kinds[kind.name][1] is kind]

    commands = {component.name for plugin in plugins for of, component in plugin.components if of == "command"}
    owners: defaultdict[tuple[str, str], list[Plugin]] = defaultdict(list)
    for plugin in plugins:
        offered, plugin.components = plugin.components, []
        for of, component in offered:
            name, same = component.name, owners[of, component.name]
            if of not in kinds:
                plugin.unused.append(f"{of} '{name}' is not used: no installed plugin declares the kind '{of}'")
            elif " " in name and name.partition(" ")[0] not in commands:
                plugin.unused.append(f"command '{name}' is not used: no installed plugin has its command group")
            elif any(plugin.distribution == other.distribution for other in same):
                plugin.problems.append(f"{of} '{name}' is declared twice by {plugin.distribution}")
            else:
                same.append(plugin)
                plugin.components.append((of, component))

    for (of, name), same in owners.items():
        for plugin in same if len(same) > 1 else []:
            others = " and ".join(other.distribution for other in same if other is not plugin)
            group, space, bare_name = name.rpartition(" ")
            full_name = f"{group}{space}{plugin.distribution}/{bare_name}"
            if same[0].distribution != CORE:
                plugin.clashes.append(f"{of} '{name}' is also in {others}: write {full_name}")
            elif plugin.distribution != CORE:
                what, call = (f"`tfs {name}`", "call") if of == "command" else (f"'{name}'", "write")
                full = f"`tfs {full_name}`" if of == "command" else f"'{full_name}'"
                plugin.clashes.append(f"{what} is a {of} of {CORE}: {call} this one {full}")


def describe(error: BaseException) -> str:
    """Return the type and the message of an exception on one line."""
    try:
        message = " ".join(str(error).split())
    except BaseException:  # `__str__` of a plugin's exception may raise, too
        message = "its message cannot be read"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


@contextmanager
def as_plugin_error(what: str) -> Iterator[None]:
    """Convert exceptions from a plugin's code in the block to a PluginError whose message begins with `what`.

    TfsErrors pass unchanged.
    """
    try:
        yield
    except TfsError:
        raise
    except Exception as error:
        raise PluginError(f"{what}: {describe(error)}. TFS_DEBUG=1 shows where.") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` with the known name most similar to `name`; an empty string if none is similar."""
    from difflib import get_close_matches  # needed only in error messages

    matches = get_close_matches(name, sorted(known), n=1)
    return f" Did you mean '{matches[0]}'?" if matches else ""
