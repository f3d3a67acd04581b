"""`tfs plugins`: list installed plugins, and show components with their options."""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from tfs_core.errors import PluginError
from tfs_core.plugins import Plugin, canonical, did_you_mean
from tfs_core.registry import Entry, Registry, get_registry
from tfs_core.terminal import say

as_json = click.option("--json", "json_", is_flag=True, help="Print JSON.")


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def plugins(context: click.Context, json_: bool) -> None:
    """List and show installed plugins and components. Without a command: list.

    Environment variables: TFS_PLUGINS=a,b loads only these plugins (names of distributions or entry points),
    TFS_DISABLE_PLUGINS=a,b all but these. TFS_STRICT_PLUGINS=1 turns problems of plugins into errors.
    """
    if context.invoked_subcommand is None:
        _list(json_)
    elif json_:
        raise click.UsageError("--json goes after the command: tfs plugins list --json")


@plugins.command("list")
@as_json
def list_plugins(json_: bool) -> None:
    """List all plugins with version, state, components and problems."""
    _list(json_)


def _list(json_: bool) -> None:
    found = get_registry().plugins
    if json_:
        print_json([_plugin_values(plugin) for plugin in found])
        return
    for plugin in found:
        say("\n".join(_plugin_lines(plugin)))
    say(f"\nTo install another plugin: {install_command('NAME')}")


@plugins.command()
@click.argument("name")
@as_json
def show(name: str, json_: bool) -> None:
    """Show a component, or all components of a distribution, with options.

    NAME is a component (cosine, tfs-core/cosine) or a distribution (tfs-core).
    """
    registry = get_registry()
    entries = entries_named(registry, name)
    if json_:
        print_json([_entry_values(entry) for entry in entries])
        return
    for plugin in registry.plugins:
        if plugin.distribution == canonical(name):
            say("\n".join(_plugin_lines(plugin)) + "\n")
    say("\n\n".join("\n".join(_entry_lines(entry)) for entry in entries))


def entries_named(registry: Registry, name: str) -> list[Entry]:
    """Return the components of that name, of any kind, or else all components of that distribution.

    Raises PluginError, with the nearest name, when there is neither.
    """
    entries, distributions = registry.entries(), {plugin.distribution for plugin in registry.plugins}
    found = [entry for entry in entries if name in (entry.component.name, entry.qualified_name)]
    found = found or [entry for entry in entries if entry.distribution == canonical(name)]
    if not found and canonical(name) not in distributions:
        known = distributions.union(*((entry.component.name, entry.qualified_name) for entry in entries))
        raise PluginError(
            f"there is neither a component nor a distribution '{name}'.{did_you_mean(name, known)} "
            "`tfs plugins` lists them."
        )
    return found


def _plugin_values(plugin: Plugin) -> dict[str, Any]:
    """Return a plugin as JSON values."""
    return {
        "distribution": plugin.distribution,
        "version": plugin.version,
        "entry_point": plugin.name,
        "module": plugin.reference,
        "state": plugin.state,
        "disabled_by": plugin.disabled_by,
        "components": [
            {"kind": kind, "name": component.name, "summary": component.summary}
            for kind, component in plugin.components
        ],
        "problems": plugin.problems,
        "clashes": plugin.clashes,
        "unused": plugin.unused,
    }


def _plugin_lines(plugin: Plugin) -> list[str]:
    """Return a plugin as text: a heading, a line per kind of component, a line per problem."""
    state = f"disabled by {plugin.disabled_by}" if plugin.disabled_by else plugin.state
    names: dict[str, list[str]] = {}
    for kind, component in plugin.components:
        names.setdefault(kind, []).append(component.name)
    return [
        f"{plugin.distribution} {plugin.version}: {state}",
        *(f"  {kind + 's':<11} {', '.join(of_kind)}" for kind, of_kind in names.items()),
        *(f"  - {reason}" for reason in plugin.unused),
        *(f"  ! {complaint}" for complaint in [*plugin.problems, *plugin.clashes]),
    ]


def _entry_values(entry: Entry) -> dict[str, Any]:
    """Return a component and its options as JSON values. Imports the class of its options only."""
    component = entry.component
    return {
        "kind": entry.kind,
        "name": component.name,
        "qualified_name": entry.qualified_name,
        "distribution": entry.distribution,
        "version": entry.version,
        "summary": component.summary,
        "factory": component.factory,
        "config": component.config,
        "loader": component.loader,
        "file": _file_of(component.factory),
        "options": _options(entry),
    }


def _entry_lines(entry: Entry) -> list[str]:
    """Return a component and its options as text."""
    values = _entry_values(entry)
    lines = [
        f"{entry.kind} {entry.component.name}: {entry.component.summary}",
        f"  from     {entry.distribution} {entry.version} (full name {entry.qualified_name})",
        f"  factory  {entry.component.factory}",
        f"  file     {values['file'] or 'not found'}",
    ]
    if entry.kind == "command":
        return [*lines, f"  help     tfs {entry.component.name} --help"]
    for option in values["options"]:
        default = "required" if option["required"] else f"default {json.dumps(option['default'])}"
        lines += ["", f"  {option['name']}: {option['type']}; {default}"]
        lines += click.wrap_text(option["doc"], 100, "      ", "      ").splitlines()
    return lines if values["options"] else [*lines, "  options  none"]


def _options(entry: Entry) -> list[dict[str, Any]]:
    """Return name, type, default and documentation of each option. Raises PluginError for types that cannot be read."""
    from typing import get_type_hints

    from tfs_core.config.documentation import field_docs, in_words
    from tfs_core.config.resolved import plain

    config = entry.load_config_class()
    if config is None:
        return []
    try:
        hints, docs = get_type_hints(config, include_extras=True), field_docs(config)
    except NameError as error:
        raise PluginError(f"{entry}: the types of its options cannot be read: {error}") from error
    options = []
    for field in dataclasses.fields(config):
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        required = default is dataclasses.MISSING
        options.append(
            {
                "name": field.name,
                "type": in_words(hints[field.name]) or str(hints[field.name]),
                "required": required,
                "default": None if required else plain(default),
                "doc": docs.get(field.name, ""),
            }
        )
    return options


def _file_of(reference: str) -> str | None:
    """Return the file of a reference's module, or None, without importing the module."""
    try:
        spec = find_spec(reference.partition(":")[0])
    except (ImportError, ValueError):
        return None
    return spec.origin if spec else None


def install_command(name: str) -> str:
    """Return the command that installs a plugin into the environment of this tfs: with uv, pipx or pip."""
    prefix = Path(sys.prefix)
    if (prefix / "uv-receipt.toml").exists():
        return f"uv tool install tfs-core --with {name}"
    if (prefix / "pipx_metadata.json").exists():
        return f"pipx inject tfs-core {name}"
    if find_spec("pip") is None:  # a virtual environment made by uv
        return f"uv pip install --python {_quoted(sys.executable)} {name}"
    return f"{_quoted(sys.executable)} -m pip install {name}"


def _quoted(path: str) -> str:
    """Return a path, quoted for the shell when necessary."""
    return f'"{path}"' if " " in path or os.sep == "\\" else path


def print_json(values: Sequence[Any]) -> None:
    """Print values as JSON."""
    say(json.dumps(values, indent=2))
