"""The options of every command that loads a trained model, this core's and plugins'."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])  # any function that click calls

_MODEL_OPTIONS = (
    click.option("--model", metavar="NAME", help="Load the weights into this model instead, if it mirrors theirs."),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "mps"]),
        default="auto",
        show_default=True,
        help="Where to compute; auto takes the run's own device where there is one.",
    ),
    click.option("--assets", metavar="DIR", help="Where runs and data are. [default: TFS_ASSETS, or ./assets]"),
    click.option("--allow-local-code", is_flag=True, help="Import the model's file, if the run used one of its own."),
)


def model_options(command: Command) -> Command:
    """Give a command --model, --device, --assets and --allow-local-code."""
    for option in reversed(_MODEL_OPTIONS):
        command = option(command)
    return command


def tell(message: str) -> None:
    """Print a message on stderr: stdout holds the result of the command and nothing else."""
    click.echo(message, err=True)
