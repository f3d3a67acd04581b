"""What evaluate, generate and chat have in common: which trained model, and how it writes."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tfs_core.config.schema import SamplesConfig
from tfs_core.errors import UsageError

if TYPE_CHECKING:
    from tfs_core.generation import OneTokenStep
    from tfs_core.training.checkpoint import LoadedModel

Command = TypeVar("Command", bound=Callable[..., Any])  # any function that click calls

LARGEST_SEED = 2**62

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

_WRITING_OPTIONS = (
    click.option(
        "--max-length",
        type=click.IntRange(min=1),
        default=SamplesConfig.max_length,
        show_default=True,
        help="Tokens to write, at most.",
    ),
    click.option(
        "--temperature",
        type=float,
        default=SamplesConfig.temperature,
        show_default=True,
        help="Below 1 surer, above 1 wilder, 0 always the likeliest token.",
    ),
    click.option(
        "--top-k",
        type=int,
        default=SamplesConfig.top_k,
        show_default=True,
        help="Choose among so many likeliest tokens; 0 among all.",
    ),
    click.option(
        "--top-p",
        type=float,
        default=SamplesConfig.top_p,
        show_default=True,
        help="Choose among the likeliest tokens that make up this share of the probability.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, LARGEST_SEED),
        help="The same seed writes the same text. [default: another one each time]",
    ),
    click.option(
        "--compile",
        "compiled",
        is_flag=True,
        help="Compile the step of one token: seconds at first, then each token is faster. For long texts.",
    ),
)


def model_options(command: Command) -> Command:
    """Give a command --model, --device, --assets and --allow-local-code."""
    for option in reversed(_MODEL_OPTIONS):
        command = option(command)
    return command


def writing_options(command: Command) -> Command:
    """Give a command what says how it writes (`seed` is None when it is not given)."""
    for option in reversed(_WRITING_OPTIONS):
        command = option(command)
    return command


def made_ready_for_writing(loaded: "LoadedModel", *, compiled: bool) -> "OneTokenStep | None":
    """Return the compiled step, if it is wanted, after telling how long that took; else lay the model out in memory."""
    from tfs_core.compiled_step import CompiledStep
    from tfs_core.generation import lay_out_for_writing

    if compiled:
        return CompiledStep(loaded.model, name=loaded.config.model.name, report=tell)
    lay_out_for_writing(loaded.model)
    return None


def require_utf8(prompt: str) -> None:
    """Raise UsageError for a prompt whose bytes were no UTF-8: Python hands each of those on as a lone surrogate."""
    for place, character in enumerate(prompt):
        if "\udc80" <= character <= "\udcff":
            raise UsageError(
                f"the prompt is not UTF-8 text: after {place} characters comes the byte 0x{ord(character) - 0xDC00:02x}"
            )


def new_seed() -> int:
    """Return a seed that nobody chose; no random state is moved."""
    return random.SystemRandom().randrange(2**32)


def tell(message: str) -> None:
    """Say something about the text on stderr: stdout holds the text and nothing else."""
    click.echo(message, err=True)
