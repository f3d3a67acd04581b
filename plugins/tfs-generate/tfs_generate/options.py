"""Options and helpers shared by generate and chat: sampling, and `--compile`."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tfs_core.cli.trained import tell
from tfs_core.config.schema import SamplesConfig
from tfs_core.errors import UsageError
from tfs_core.terminal import counted

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
        help="The maximum number of new tokens.",
    ),
    click.option(
        "--temperature",
        type=float,
        default=SamplesConfig.temperature,
        show_default=True,
        help="Below 1 more predictable, above 1 more random, 0 always the most likely token.",
    ),
    click.option(
        "--top-k",
        type=int,
        default=SamplesConfig.top_k,
        show_default=True,
        help="Sample from this many most likely tokens; 0: from all.",
    ),
    click.option(
        "--top-p",
        type=float,
        default=SamplesConfig.top_p,
        show_default=True,
        help="Sample from the most likely tokens whose probabilities sum to this value.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, LARGEST_SEED),
        help="The same seed writes the same text. [default: random]",
    ),
    click.option(
        "--compile",
        "compiled",
        is_flag=True,
        help="Compile the one-token step: takes seconds at first, then each token is faster. For long texts.",
    ),
)


def sampling_options(command: Command) -> Command:
    """Add the sampling options to a command (`seed` is None when it is not given)."""
    for option in reversed(_WRITING_OPTIONS):
        command = option(command)
    return command


def find_token_step() -> "Entry":
    """Return the installed token step for `--compile`. Raises UsageError unless there is exactly one."""
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
            f"--compile finds more than one token-step: {names}. Disable a plugin with TFS_DISABLE_PLUGINS=NAME."
        )
    return entries[0]


def prepare_for_generation(loaded: "LoadedModel", entry: "Entry | None") -> "TokenStep | None":
    """Return the token step of `--compile`, or None. Without a working token step, store the weights column-major."""
    from tfs_generate.generation import single_token_cpu_settings, use_column_major_weights

    model = loaded.model
    step: TokenStep | None = None
    if entry is not None:
        parameters = [parameter for _, parameter in model.named_parameters()]
        n_parameters = sum(parameter.numel() for parameter in parameters)
        with single_token_cpu_settings(parameters[0].device, n_parameters, compiled=True):  # the settings of its calls
            step = entry.build(None, model=model, name=loaded.config.model.name, report=tell)
    if step is None or not step.in_force:
        use_column_major_weights(model)
    return step


def begins_document(loaded: "LoadedModel") -> bool:
    """Return True if rows began with the end-of-text token in training. A prompt must then begin with it, too."""
    from tfs_core.registry import get_registry

    batching = get_registry().find("batching", loaded.config.data.batching.name).load_factory()
    return bool(getattr(batching, "begins_with_end_of_text", False))


def require_utf8(prompt: str) -> None:
    """Raise UsageError for a prompt that is not UTF-8: Python decodes each invalid byte as a lone surrogate."""
    for place, character in enumerate(prompt):
        if "\udc80" <= character <= "\udcff":
            raise UsageError(
                f"the prompt is not UTF-8 text: after {counted(place, 'character')} comes the byte "
                f"0x{ord(character) - 0xDC00:02x}"
            )


def new_seed() -> int:
    """Return a random seed, without using a global random state."""
    return random.SystemRandom().randrange(2**32)
