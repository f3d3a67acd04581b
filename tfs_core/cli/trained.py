"""Options shared by all commands that load a trained model, in the core and in plugins."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from tfs_core.terminal import say

Command = TypeVar("Command", bound=Callable[..., Any])  # any function that click calls

_MODEL_OPTIONS = (
    click.option("--model", metavar="NAME", help="Load the weights into this model, a mirror of the trained one."),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "mps"]),
        default="auto",
        show_default=True,
        help="The device; auto takes the one that the run used, if available.",
    ),
    click.option("--assets", metavar="DIR", help="The folder with data and runs. [default: TFS_ASSETS, or ./assets]"),
    click.option("--allow-local-code", is_flag=True, help="Allow importing the model from the run's local file."),
)


def model_options(command: Command) -> Command:
    """Add --model, --device, --assets and --allow-local-code to a command (decorator)."""
    for option in reversed(_MODEL_OPTIONS):
        command = option(command)
    return command


def tell(message: str) -> None:
    """Print a message on stderr; stdout is reserved for the result of the command."""
    say(message, err=True)
