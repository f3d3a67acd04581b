"""`tfs config`: look at a configuration without running it. Nothing of data, models or torch is imported."""

from pathlib import Path

import click

SETTING = click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting. Repeatable.")
MODEL = click.option("--model", metavar="NAME", help="The model, in place of the file's.")


@click.group()
def config() -> None:
    """Show or validate a configuration."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@SETTING
@MODEL
def show(file: Path, overrides: tuple[str, ...], model: str | None) -> None:
    """Print a configuration as YAML, every default filled in."""
    from tfs_core.config import load_config, to_yaml

    click.echo(to_yaml(load_config(file, overrides=overrides, model=model)), nl=False)


@config.command()
@click.argument("files", metavar="FILE...", type=click.Path(path_type=Path), nargs=-1, required=True)
@SETTING
@MODEL
def validate(files: tuple[Path, ...], overrides: tuple[str, ...], model: str | None) -> None:
    """Say of each configuration that it is right, or everything that is wrong with it (exit code 2)."""
    from tfs_core.config import load_config
    from tfs_core.config.implied import check_implied
    from tfs_core.errors import ConfigError

    errors = []
    for file in files:
        try:
            check_implied(load_config(file, overrides=overrides, model=model))
        except ConfigError as error:
            errors.append(str(error))
        else:
            click.echo(f"{file}: ok")
    if errors:
        raise ConfigError("\n".join(errors))
