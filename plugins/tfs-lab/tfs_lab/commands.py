"""The commands that join groups of the core: `tfs plugins check` and `tfs config schema`."""

import dataclasses
import json
from pathlib import Path

import click

from tfs_core.cli.plugins import as_json, entries_named, print_json
from tfs_core.errors import UsageError
from tfs_core.plugins import Plugin, canonical
from tfs_core.registry import Registry, get_registry


@click.command()
@click.argument("name", required=False)
@as_json
def plugins_check(name: str | None, json_: bool) -> None:
    """Import all that a plugin refers to, and say what is wrong; exit code 1 when something is.

    NAME is a distribution, or a component of it. Without NAME: every plugin.
    """
    from tfs_lab.plugin_checks import check_plugin

    registry = get_registry()
    chosen = registry.plugins if name is None else _plugins_with(registry, name)
    findings = [finding for plugin in chosen for finding in check_plugin(plugin)]
    if json_:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"FAIL  {finding.subject}: {finding.problem}" if finding.problem else f"ok    {finding.subject}")
    if any(finding.problem for finding in findings):
        raise click.exceptions.Exit(1)


def _plugins_with(registry: Registry, name: str) -> list[Plugin]:
    """Return the plugins of a distribution, or of the distributions that have a component of that name."""
    distributions = {canonical(name)} & {plugin.distribution for plugin in registry.plugins}
    distributions = distributions or {entry.distribution for entry in entries_named(registry, name)}
    return [plugin for plugin in registry.plugins if plugin.distribution in distributions]


@click.command()
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="Write it there; else it is printed.")
def config_schema(output: Path | None) -> None:
    """Print the JSON schema of a configuration, for an editor to complete and explain it.

    Write it to a file, and put this line first in your YAML (for the YAML language server, in VS Code and others):

    # yaml-language-server: $schema=tfs.schema.json
    """
    from tfs_lab.json_schema import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from error
