"""Commands that extend command groups of the core: `tfs plugins check` and `tfs config schema`."""

import dataclasses
import json
from pathlib import Path

import click

from tfs_core.cli.plugins import as_json, entries_named, print_json
from tfs_core.errors import UsageError
from tfs_core.plugins import Plugin, canonical
from tfs_core.registry import Registry, get_registry
from tfs_core.terminal import say


@click.command()
@click.argument("name", required=False)
@as_json
def plugins_check(name: str | None, json_: bool) -> None:
    """Import everything that a plugin refers to and report problems; the exit code is 1 when there are any.

    NAME is a distribution or a component. Without NAME, every plugin is checked.
    """
    from tfs_lab.plugin_checks import check_plugin

    registry = get_registry()
    chosen = registry.plugins if name is None else _plugins_with(registry, name)
    findings = [finding for plugin in chosen for finding in check_plugin(plugin)]
    if json_:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            say(f"FAIL  {finding.subject}: {finding.problem}" if finding.problem else f"ok    {finding.subject}")
    if any(finding.problem for finding in findings):
        raise click.exceptions.Exit(1)


def _plugins_with(registry: Registry, name: str) -> list[Plugin]:
    """Return the plugins of the distribution of that name, or of the distributions with a component of that name."""
    distributions = {canonical(name)} & {plugin.distribution for plugin in registry.plugins}
    distributions = distributions or {entry.distribution for entry in entries_named(registry, name)}
    return [plugin for plugin in registry.plugins if plugin.distribution in distributions]


@click.command()
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="Write to this file instead of stdout.")
def config_schema(output: Path | None) -> None:
    """Print the JSON schema of a configuration, for completion and validation in an editor.

    Write it to a file, and make this the first line of your YAML (for the YAML language server of VS Code and others):

    # yaml-language-server: $schema=tfs.schema.json
    """
    from tfs_lab.json_schema import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        say(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from error
