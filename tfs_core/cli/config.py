"""`tfs config`: show or validate a configuration without running it. Imports neither torch nor data nor models."""

from pathlib import Path

import click

from tfs_core.terminal import say

SETTING = click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a setting. Repeatable.")
MODEL = click.option("--model", metavar="NAME", help="The model to use instead of the file's.")


@click.group()
def config() -> None:
    """Show or validate a configuration."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@SETTING
@MODEL
def show(file: Path, overrides: tuple[str, ...], model: str | None) -> None:
    """Print a configuration as YAML, with all defaults filled in."""
    from tfs_core.config import load_config, to_yaml

    say(to_yaml(load_config(file, overrides=overrides, model=model)), nl=False)


@config.command()
@click.argument("files", metavar="FILE...", type=click.Path(path_type=Path), nargs=-1, required=True)
@SETTING
@MODEL
def validate(files: tuple[Path, ...], overrides: tuple[str, ...], model: str | None) -> None:
    """Validate configurations.

    Prints ok for each valid configuration, and all errors of the others (exit code 2).
    """
    from tfs_core.config import load_config
    from tfs_core.config.implied import check_required_components
    from tfs_core.errors import ConfigError

    errors = []
    for file in files:
        try:
            check_required_components(load_config(file, overrides=overrides, model=model))
        except ConfigError as error:
            errors.append(str(error))
        else:
            say(f"{file}: ok")
    if errors:
        raise ConfigError("\n".join(errors))
