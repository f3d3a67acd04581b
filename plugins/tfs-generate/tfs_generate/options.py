"""What generate and chat have in common: how the text is sampled, and `--compile`."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tfs_core.cli.trained import tell
from tfs_core.config.schema import SamplesConfig
from tfs_core.errors import UsageError

if TYPE_CHECKING:
    from tfs_core.registry import Entry
    from tfs_core.trained import LoadedModel
    from tfs_generate.token_step import TokenStep

Command = TypeVar("Command", bound=Callable[..., Any])  # any function that click calls

LARGEST_SEED = 2**62

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


def writing_options(command: Command) -> Command:
    """Give a command the options that say how it writes (`seed` is None when it is not given)."""
    for option in reversed(_WRITING_OPTIONS):
        command = option(command)
    return command


def find_token_step() -> "Entry":
    """Return the installed component that `--compile` asks for. Raises UsageError unless there is exactly one."""
    from tfs_core.registry import get_registry

    registry = get_registry()
    entries = registry.entries("token-step")
    if not entries:
        broken = [f"{plugin.distribution} is {plugin.state}: {reason}." for plugin, reason in registry.broken()]
        missing = "--compile needs a plugin with a token-step, such as tfs-speed: pip install tfs-speed."
        raise UsageError(" ".join([missing, *broken]))
    if len(entries) > 1:
        names = ", ".join(entry.qualified_name for entry in entries)
        raise UsageError(
            f"--compile finds more than one token-step: {names}. Leave a plugin out with TFS_DISABLE_PLUGINS=NAME."
        )
    return entries[0]


def prepare_for_writing(loaded: "LoadedModel", entry: "Entry | None") -> "TokenStep | None":
    """Return the token step of `--compile`, None without one; the model is then laid out in memory for writing."""
    from tfs_generate.generation import lay_out_for_writing, suited_to_one_token

    model = loaded.model
    step: TokenStep | None = None
    if entry is not None:
        parameters = [parameter for _, parameter in model.named_parameters()]
        n_parameters = sum(parameter.numel() for parameter in parameters)
        with suited_to_one_token(parameters[0].device, n_parameters, compiled=True):  # as when it is called
            step = entry.build(None, model=model, name=loaded.config.model.name, report=tell)
    if step is None or not step.in_force:
        lay_out_for_writing(model)
    return step


def begins_document(loaded: "LoadedModel") -> bool:
    """Return whether the rows of training began with the end-of-text token, so that a prompt must, too."""
    from tfs_core.registry import get_registry

    batching = get_registry().find("batching", loaded.config.data.batching.name).load_factory()
    return bool(getattr(batching, "begins_with_end_of_text", False))


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
