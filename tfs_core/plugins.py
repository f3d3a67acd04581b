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
"""The distribution of what the core brings itself: by the same hooks as everyone's, but without an entry point."""

ALL_HOOKS = (*HOOKS, "tfs_components", "tfs_kinds")


@dataclass
class Plugin:
    """One entry point, what it offers, and what is wrong with it."""

    distribution: str
    version: str
    name: str
    """The entry point's name: what stands left of the `=` in pyproject.toml."""

    reference: str
    """What stands right of it: the module that has the hooks."""

    kinds: list[Kind] = field(default_factory=list)
    """The kinds of components that it declares."""

    components: list[tuple[str, Component]] = field(default_factory=list)
    """(kind, component), in the order of the hooks and then the plugin's own."""

    unused: list[str] = field(default_factory=list)
    """Components that nothing installed can use, each with the reason: no problem of the plugin."""

    problems: list[str] = field(default_factory=list)
    """What failed: each is a part of the plugin, or all of it, that cannot be used."""

    clashes: list[str] = field(default_factory=list)
    """Names that another distribution has too: they cannot be used bare."""

    cause: BaseException | None = None
    """What the first of the problems comes from, if it is an error of the plugin's code."""

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
    own = Plugin(CORE, tfs_core.__version__, "builtin", "tfs_core.builtin.plugin", kinds=list(CORE_KINDS))
    plugins = [own, *sorted(installed_plugins(), key=lambda plugin: (plugin.distribution, plugin.name))]
    _disable(plugins[1:])
    for plugin in plugins:
        if not plugin.disabled_by:
            _load(plugin)
    _settle(plugins)
    if os.environ.get("TFS_STRICT_PLUGINS", "") not in ("", "0"):
        for plugin in plugins:
            for complaint in [*plugin.problems, *plugin.clashes]:
                raise PluginError(f"{plugin.distribution}: {complaint}") from plugin.cause
    return plugins


def installed_plugins() -> Iterator[Plugin]:
    """Iterate over the entry points of the group, none of them imported yet.

    Not by `importlib.metadata.entry_points`, which fails whenever the file of any distribution is damaged.
    """
    from importlib.metadata import distributions  # takes long to import: not for `tfs --version`

    seen = set()
    for distribution in distributions():
        try:
            if hookspecs.ENTRY_POINT_GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            points = distribution.entry_points.select(group=hookspecs.ENTRY_POINT_GROUP)
            name, version = canonical(distribution.name or "unknown"), distribution.version or "unknown"
        except Exception:  # damaged, and nobody's plugin
            continue
        if name not in seen:  # the first on sys.path is the one that imports find
            seen.add(name)
            yield from (Plugin(name, version, point.name, point.value.partition("[")[0].strip()) for point in points)


def canonical(distribution: str) -> str:
    """Return a distribution's name as packaging compares it: `Tfs_Torch` is `tfs-torch`."""
    return re.sub(r"[-_.\s]+", "-", distribution.strip()).lower()


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


def _load(plugin: Plugin) -> None:
    """Import the plugin and collect what its hooks return, whatever its code does meanwhile.

    It is the only plugin that the manager knows, so what a hook returns or raises is its own.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    with _noting(plugin, f"{plugin.reference} cannot be imported"):
        module = load_reference(plugin.reference)
    if not plugin.problems:
        with _noting(plugin, "it cannot be looked at"):
            plugin.problems += _api_problems(module, plugin.distribution)
    if not plugin.problems:
        with _noting(plugin, "a hook has the wrong form"):
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
        with _noting(plugin, f"{hook} failed"):
            for offered in _as_list(getattr(manager.hook, hook)(), "Kinds" if hook == "tfs_kinds" else "Components"):
                if problem := _problem(hook, offered):
                    plugin.problems.append(f"{hook}: {problem}")
                elif hook == "tfs_kinds":
                    plugin.kinds.append(offered)
                else:
                    plugin.components.append((HOOKS.get(hook) or offered.kind, offered))


@contextmanager
def _noting(plugin: Plugin, what: str) -> Iterator[None]:
    """Write down what a plugin raises. (It need be no Exception: SystemExit is none, nor is a panic of Rust code.)"""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if not plugin.problems:
            plugin.cause = error
        plugin.problems.append(f"{what}: {describe(error)}")


def load_reference(reference: str) -> Any:  # Any: it may name anything
    """Import and return what `package.module:attribute` (or `package.module`) names."""
    module, _, attributes = reference.partition(":")
    value: Any = importlib.import_module(module)
    for attribute in filter(None, attributes.split(".")):
        value = getattr(value, attribute)
    return value


def _as_list(answers: list[Any], expected: str) -> list[Any]:  # Any: a plugin may return anything
    """Return what a hook returned as a list, which runs a generator to its end."""
    if not answers:  # pluggy leaves None out
        raise TypeError(f"it returned None instead of a list of {expected}")
    for answer in answers:
        if isinstance(answer, str) or not isinstance(answer, Iterable):
            raise TypeError(f"it returned {answer!r:.80} instead of a list of {expected}")
    return [offered for answer in answers for offered in answer]


def _api_problems(module: object, distribution: str) -> Iterator[str]:
    """Iterate over why a plugin cannot be used by this version of tfs."""
    ours, theirs = hookspecs.PLUGIN_API, getattr(module, "TFS_PLUGIN_API", None)
    if theirs is None:
        yield f"it does not say TFS_PLUGIN_API = {ours}, the version of the plugin interface it is written for"
    elif type(theirs) is not int:
        yield f"its TFS_PLUGIN_API is {theirs!r:.80}, not a whole number"
    elif theirs != ours:
        who = CORE if theirs > ours else distribution
        yield f"it is written for plugin interface {theirs}, this tfs has {ours}: upgrade {who}"


def _problem(hook: str, offered: object) -> str | None:
    """Return why what a hook returned cannot be used, None when it can. Imports nothing."""
    if hook == "tfs_kinds":
        return _kind_problem(offered)
    if not isinstance(offered, Component):
        return f"{offered!r:.80} is not a Component"
    name, kind = offered.name, HOOKS.get(hook, offered.kind)
    if not isinstance(kind, str):
        return f"component {name!r:.80} does not say of which kind it is: its kind is {kind!r:.80}"
    if offered.kind not in (None, kind):
        return f"{kind} {name!r:.80} says that its kind is {offered.kind!r:.80}: return it from tfs_components"
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
        return f"tokenizer '{name}' has no loader, without which no checkpoint can bring it back"
    if kind != "tokenizer" and offered.loader is not None:
        return f"{kind} '{name}' has a loader, which only tokenizers have"
    if offered.path_option is not None and offered.config is None:
        return f"{kind} '{name}' has a path_option and no config, in which that option would be"
    if kind == "command" and offered.config is not None:
        return f"command '{name}' has a config; the options of a command are click's"
    return None


def _kind_problem(kind: object) -> str | None:
    if not isinstance(kind, Kind):
        return f"{kind!r:.80} is not a Kind"
    if not isinstance(kind.name, str) or not re.fullmatch("[a-z][a-z0-9-]*", kind.name):
        return f"{kind.name!r:.80} is not the name of a kind: lower-case letters, digits and '-', a letter first"
    words = () if kind.keywords is None else kind.keywords
    if not isinstance(words, tuple) or not all(isinstance(word, str) and word.isidentifier() for word in words):
        return f"the keywords of kind '{kind.name}' are {words!r:.80}, not a tuple of names"
    if kind.protocol is not None and not _is_reference(kind.protocol):
        return f"the protocol of kind '{kind.name}' is {kind.protocol!r:.80}, not a string like 'package.module:Class'"
    return None


def _is_reference(value: object) -> bool:
    return isinstance(value, str) and value.count(":") == 1 and all(map(str.isidentifier, re.split("[:.]", value)))


def _settle(plugins: list[Plugin]) -> None:
    """Drop what is given twice and what nothing can use; note the names that two distributions give."""
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
                plugin.unused.append(f"command '{name}' is not used: no installed plugin has the group it joins")
            elif any(plugin.distribution == other.distribution for other in same):
                plugin.problems.append(f"{of} '{name}' is given twice by {plugin.distribution}")
            else:
                same.append(plugin)
                plugin.components.append((of, component))

    for (of, name), same in owners.items():
        for plugin in same if len(same) > 1 else []:
            others = " and ".join(other.distribution for other in same if other is not plugin)
            group, joins, joined = name.rpartition(" ")
            full_name = f"{group}{joins}{plugin.distribution}/{joined}"
            if of != "command" or same[0].distribution != CORE:
                plugin.clashes.append(f"{of} '{name}' is also in {others}: write {full_name}")
            elif plugin.distribution != CORE:
                plugin.clashes.append(f"`tfs {name}` is {CORE}'s own: call this one `tfs {full_name}`")


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
