"""Find the plugins that are installed, and keep one that is broken from breaking anything else.

A plugin is a module that an installed distribution announces as an entry point of the group `tfs.plugins`. It states
`TFS_PLUGIN_API = 1` and implements hooks of `tfs_core.hookspecs`. Each is imported and asked by itself, so that every
component and every failure has an owner; what goes wrong is written down in its `Plugin`, for `tfs plugins` to show.

    TFS_PLUGINS=a,b           only these, by distribution or entry-point name; empty for none but the core's own
    TFS_DISABLE_PLUGINS=a,b   all but these
    TFS_STRICT_PLUGINS=1      raise what is wrong instead of writing it down (for a plugin author's CI)
"""

from __future__ import annotations

import importlib
import os
import string
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pluggy

import tfs_core
from tfs_core import hookspecs
from tfs_core.component import KINDS, Component
from tfs_core.errors import PluginError, TfsError

CORE = "tfs-core"
"""The distribution of what the core brings itself: by the same hooks as everyone's, but without an entry point."""

HOOKS = {f"tfs_{kind}s": kind for kind in KINDS}


@dataclass
class Plugin:
    """One entry point, what it offers, and what is wrong with it."""

    distribution: str
    version: str
    name: str
    """The entry point's name: what stands left of the `=` in pyproject.toml."""

    reference: str
    """What stands right of it: the module that has the hooks."""

    components: list[tuple[str, Component]] = field(default_factory=list)
    """(kind, component), in the order of the kinds and then the plugin's own."""

    problems: list[str] = field(default_factory=list)
    """What failed: each is a part of the plugin, or all of it, that cannot be used."""

    clashes: list[str] = field(default_factory=list)
    """Names that another distribution has too: they cannot be used bare."""

    disabled_by: str | None = None
    """The environment variable that keeps it out, if one does."""

    loaded: bool = False

    @property
    def state(self) -> str:
        """Return `ok`, `disabled`, `failed` (nothing of it can be used) or `incomplete` (a part of it cannot)."""
        if self.disabled_by:
            return "disabled"
        if not self.loaded:
            return "failed"
        return "incomplete" if self.problems else "ok"


def discover() -> list[Plugin]:
    """Return all plugins, the core's own first, then in the order of (distribution, entry point).

    Raises PluginError for a name in TFS_PLUGINS or TFS_DISABLE_PLUGINS that no plugin has, and, when
    TFS_STRICT_PLUGINS is 1, for whatever else is wrong.
    """
    strict = os.environ.get("TFS_STRICT_PLUGINS", "") not in ("", "0")
    own = Plugin(CORE, tfs_core.__version__, "builtin", "tfs_core.builtin.plugin")
    others = sorted(installed_plugins(), key=lambda plugin: (plugin.distribution, plugin.name))
    _disable(others)

    plugins = [own, *others]
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for plugin in plugins:
        if not plugin.disabled_by:
            _load(plugin, manager, strict)
    _note_clashes(plugins)

    if strict:
        for plugin in plugins:
            for complaint in [*plugin.problems, *plugin.clashes]:
                raise PluginError(f"{plugin.distribution}: {complaint}")
    return plugins


def installed_plugins() -> Iterator[Plugin]:
    """Iterate over the entry points of the group, none of them imported yet.

    Reads `<name>-<version>.dist-info/entry_points.txt` in the folders of sys.path, where every installer puts it
    (https://packaging.python.org/en/latest/specifications/recording-installed-packages/). `importlib.metadata` reads
    the same files, but importing it would be a quarter of the time that `tfs --help` takes.
    """
    seen = set()
    for folder in sys.path:
        try:
            names = sorted(os.listdir(folder or "."))
        except OSError:
            continue  # a zip file, or a folder that is not there
        for name in names:
            stem, extension = os.path.splitext(name)
            if extension not in (".dist-info", ".egg-info"):
                continue
            distribution, _, version = stem.partition("-")
            distribution = canonical(distribution)
            if distribution not in seen:  # the first on sys.path is the one that imports find
                seen.add(distribution)
                for point, reference in _entry_points(os.path.join(folder, name, "entry_points.txt")):
                    yield Plugin(distribution, version or "unknown", point, reference)


def _entry_points(path: str) -> Iterator[tuple[str, str]]:
    """Iterate over (name, reference) of the lines of our group in an entry_points.txt, if there is one."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError):
        return  # most distributions have none
    group = ""
    for line in lines:
        if line.startswith("["):
            group = line.strip("[] ")
        elif group == hookspecs.ENTRY_POINT_GROUP and "=" in line and not line.startswith("#"):
            name, _, reference = line.partition("=")
            yield name.strip(), reference.partition("[")[0].strip()


def canonical(distribution: str) -> str:
    """Return a distribution's name as packaging compares it: `Tfs_Torch` is `tfs-torch`."""
    return "-".join(distribution.lower().replace("_", " ").replace(".", " ").replace("-", " ").split())


def _disable(plugins: list[Plugin]) -> None:
    """Mark the plugins that the environment keeps out."""
    known = {name for plugin in plugins for name in (plugin.distribution, plugin.name)}
    for variable, keeps_out in (("TFS_PLUGINS", False), ("TFS_DISABLE_PLUGINS", True)):
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
            if bool(names & {plugin.distribution, plugin.name}) == keeps_out:
                plugin.disabled_by = variable


def _load(plugin: Plugin, manager: pluggy.PluginManager, strict: bool) -> None:
    """Import the plugin and collect what its hooks return, whatever its code does when it is looked at."""
    try:
        _collect(plugin, manager, strict)
    except PluginError:
        raise  # strict mode
    except BaseException as error:
        plugin.loaded = False
        plugin.components.clear()
        _report(plugin, f"it cannot be looked at: {describe(error)}", error, strict)
    finally:
        for module in manager.get_plugins():
            manager.unregister(module)


def _collect(plugin: Plugin, manager: pluggy.PluginManager, strict: bool) -> None:
    """Import the plugin and collect what its hooks return.

    It is the only plugin that the manager knows meanwhile, so what a hook returns or raises is its own.
    """
    try:
        module = load_reference(plugin.reference)
    except BaseException as error:
        _report(plugin, f"{plugin.reference} cannot be imported: {describe(error)}", error, strict)
        return
    if (problem := _api_problem(module, plugin.distribution)) is not None:
        plugin.problems.append(problem)
        return
    try:
        manager.register(module)
    except BaseException as error:
        _report(plugin, f"a hook has the wrong form: {describe(error)}", error, strict)
        return

    plugin.loaded = True
    implemented = {hook.name for hook in manager.get_hookcallers(module) or []}
    for name in sorted(implemented - HOOKS.keys()):
        plugin.problems.append(f"'{name}' is not a hook.{did_you_mean(name, HOOKS)} Hooks: {', '.join(HOOKS)}.")
    for hook in HOOKS:
        if hook not in implemented:
            continue
        try:
            offered = _as_list(getattr(manager.hook, hook)())
        except BaseException as error:
            _report(plugin, f"{hook} failed: {describe(error)}", error, strict)
            continue
        for component in offered:
            if (problem := _component_problem(HOOKS[hook], component)) is not None:
                plugin.problems.append(f"{hook}: {problem}")
            else:
                plugin.components.append((HOOKS[hook], component))


def load_reference(reference: str) -> Any:  # Any: it may name anything
    """Import and return what `package.module:attribute` (or `package.module`) names."""
    module, _, attributes = reference.partition(":")
    value: Any = importlib.import_module(module)
    for attribute in filter(None, attributes.split(".")):
        value = getattr(value, attribute)
    return value


def _as_list(answers: list[Any]) -> list[Any]:  # Any: a plugin may return anything
    """Return what a hook returned as a list, which runs a generator to its end."""
    if not answers:  # pluggy leaves None out
        raise TypeError("it returned None instead of a list of Components")
    for answer in answers:
        if isinstance(answer, str | Component) or not isinstance(answer, Iterable):
            raise TypeError(f"it returned {answer!r:.80} instead of a list of Components")
    return [component for answer in answers for component in answer]


def _api_problem(module: object, distribution: str) -> str | None:
    """Return why a plugin cannot be used by this version of tfs, None when it can."""
    ours, theirs = hookspecs.PLUGIN_API, getattr(module, "TFS_PLUGIN_API", None)
    if theirs is None:
        return f"it does not say TFS_PLUGIN_API = {ours}, the version of the plugin interface it is written for"
    if type(theirs) is not int:
        return f"its TFS_PLUGIN_API is {theirs!r:.80}, not a whole number"
    if theirs != ours:
        who = CORE if theirs > ours else distribution
        return f"it is written for plugin interface {theirs}, this tfs has {ours}: upgrade {who}"
    return None


def _component_problem(kind: str, component: object) -> str | None:
    """Return why what a hook returned cannot be a component, None when it can. Imports nothing."""
    if not isinstance(component, Component):
        return f"{component!r:.80} is not a Component"
    name = component.name
    allowed = string.ascii_lowercase + string.digits + "-_."
    if not isinstance(name, str) or name[:1] not in [*string.ascii_lowercase] or not set(name) <= set(allowed):
        return f"{name!r:.80} is not a name: lower-case letters, digits, '-', '_' and '.', beginning with a letter"
    if not isinstance(component.summary, str) or len(component.summary.splitlines()) != 1:
        return f"the summary of {kind} '{name}' is not one line of text"
    for role in ("factory", "config", "loader"):
        reference = getattr(component, role)
        if (reference is not None or role == "factory") and not _is_reference(reference):
            return f"the {role} of {kind} '{name}' is {reference!r:.80}, not a string like 'package.module:attribute'"
    if kind == "tokenizer" and component.loader is None:
        return f"tokenizer '{name}' has no loader, without which no checkpoint can bring it back"
    if kind != "tokenizer" and component.loader is not None:
        return f"{kind} '{name}' has a loader, which only tokenizers have"
    if component.path_option is not None and component.config is None:
        return f"{kind} '{name}' has a path_option and no config, in which that option would be"
    if kind == "command" and component.config is not None:
        return f"command '{name}' has a config; the options of a command are click's"
    return None


def _is_reference(value: object) -> bool:
    if not isinstance(value, str) or value.count(":") != 1:
        return False
    return all(part.isidentifier() for part in value.replace(":", ".").split("."))


def _note_clashes(plugins: list[Plugin]) -> None:
    """Note the names that two distributions give; drop a name that one distribution gives twice."""
    owners: defaultdict[tuple[str, str], list[Plugin]] = defaultdict(list)
    for plugin in plugins:
        for kind, component in list(plugin.components):
            same = owners[kind, component.name]
            if any(plugin.distribution == other.distribution for other in same):
                plugin.components.remove((kind, component))
                plugin.problems.append(f"{kind} '{component.name}' is given twice by {plugin.distribution}")
            else:
                same.append(plugin)
    for (kind, name), same in owners.items():
        for plugin in same if len(same) > 1 else []:
            others = " and ".join(other.distribution for other in same if other is not plugin)
            if kind != "command" or same[0].distribution != CORE:
                plugin.clashes.append(f"{kind} '{name}' is also in {others}: write {plugin.distribution}/{name}")
            elif plugin.distribution != CORE:
                plugin.clashes.append(f"`tfs {name}` is {CORE}'s own: call this one `tfs {plugin.distribution}/{name}`")


def _report(plugin: Plugin, problem: str, error: BaseException, strict: bool) -> None:
    """Write a problem down; raise it, with its cause, when strict. (What a plugin raises need be no Exception:
    SystemExit is none, nor is a panic of a module written in Rust.)"""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if strict:
        raise PluginError(f"{plugin.distribution}: {problem}") from error
    plugin.problems.append(problem)


def describe(error: BaseException) -> str:
    """Return the type and the message of an error on one line."""
    try:
        message = " ".join(str(error).split())
    except BaseException:  # a plugin's error may fail even at saying what it is
        message = "its message cannot be read"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn whatever a plugin's own code raises inside into a PluginError that begins with `what`; TfsErrors pass."""
    try:
        yield
    except TfsError:
        raise
    except Exception as error:
        raise PluginError(f"{what}: {describe(error)}. TFS_DEBUG=1 shows where.") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the known name nearest to `name`; nothing when none is near."""
    from difflib import get_close_matches  # needed only when something is wrong

    near = get_close_matches(name, sorted(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
