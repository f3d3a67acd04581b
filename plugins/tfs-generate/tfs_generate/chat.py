"""`tfs chat`: the model continues each line that the user types."""

import re
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from tfs_core.cli.trained import model_options, tell
from tfs_core.errors import TfsError, UsageError
from tfs_core.plugins import did_you_mean
from tfs_core.terminal import say
from tfs_generate.options import (
    begins_document,
    find_token_step,
    new_seed,
    prepare_for_generation,
    require_utf8,
    sampling_options,
)

if TYPE_CHECKING:
    from tfs_core.trained import LoadedModel
    from tfs_generate.generation import Sampling
    from tfs_generate.token_step import TokenStep

HELP = """\
Type a line, and the model continues it. Earlier lines are not part of the context.
  temp 0.5     below 1 more predictable, above 1 more random, 0 always the most likely token
  topk 40      sample from the 40 most likely tokens; 0 from all
  topp 0.9     sample from the most likely tokens whose probabilities sum to 0.9
  length 200   maximum number of new tokens
  temp, topk, topp, length without a value: show the current value
  help         show this text
  quit         leave; also exit, q, /bye, Ctrl-D
A command may begin with a slash: /help, /temp 0.5 or /set temperature 0.5; /set shows all values.
Ctrl-C stops the model; twice leaves. A line that begins with a space is always text, never a command."""

NOTHING_TO_CLEAR = "There is nothing to clear: each line is continued on its own, without the earlier ones."


@dataclass(frozen=True)
class Settings:
    """The settings of the next answer."""

    sampling: "Sampling"
    max_length: int

    def show(self, word: str) -> str:
        """Return the chat command that sets the current value of a setting, such as `topk 50`."""
        values = {
            "temp": self.sampling.temperature,
            "topk": self.sampling.top_k,
            "topp": self.sampling.top_p,
            "length": self.max_length,
        }
        return f"{word} {values[word]}"

    def change(self, word: str, value: str) -> "Settings":
        """Return new settings with one value changed. Raises UsageError for an invalid value."""
        if word == "temp":
            return replace(self, sampling=replace(self.sampling, temperature=_number(word, value)))
        if word == "topp":
            return replace(self, sampling=replace(self.sampling, top_p=_number(word, value)))
        if word == "topk":
            return replace(self, sampling=replace(self.sampling, top_k=_whole_number(word, value)))
        length = _whole_number(word, value)
        if length < 1:
            raise UsageError(f"length must be at least 1, not {length}")
        return replace(self, max_length=length)


SETTINGS = ("temp", "topk", "topp", "length")

WORDS = {
    **{word: word for word in (*SETTINGS, "help", "quit")},
    **dict.fromkeys(("exit", "q", "exit()", "quit()", ":q", ":q!", ":wq", ":quit"), "quit"),
    ":help": "help",
}
"""Commands without a slash, by what the user may type."""

SLASH_WORDS = {
    **WORDS,
    **dict.fromkeys(("bye", "x"), "quit"),
    **dict.fromkeys(("?", "h"), "help"),
    **dict.fromkeys(("clear", "reset", "new"), "clear"),
    **dict.fromkeys(("set", "show", "settings"), "set"),
    "temperature": "temp",
    **dict.fromkeys(("top_k", "top-k"), "topk"),
    **dict.fromkeys(("top_p", "top-p"), "topp"),
    **dict.fromkeys(("max_length", "max-length", "max_tokens", "max_new_tokens", "num_predict"), "length"),
}
"""Commands after a slash; among them the words of other programs."""


def find_command(line: str) -> tuple[str, str] | None:
    """Return the command of a line and its value, which may be empty; None for text that the model continues.

    Raises UsageError for an unknown command with a slash, and for one with too many values.
    """
    word, *values = line.lower().split() or [""]
    if not re.match("/[a-z?]", line.lower()):
        is_text = line.startswith(" ") or word not in WORDS or len(values) > (word in SETTINGS)
        return None if is_text else (WORDS[word], "".join(values))
    name = word.removeprefix("/")
    while values and name in ("set", "parameter"):  # /set temperature 0.5, /set parameter temperature 0.5
        name, *values = values
    if name not in SLASH_WORDS:
        hint = did_you_mean(f"/{name}", [f"/{known}" for known in SLASH_WORDS])
        shown = ", ".join(f"/{known}" for known in (*SETTINGS, "set", "help", "quit"))
        raise UsageError(
            f"there is no command /{name}.{hint} Commands: {shown}. To send the line as text, begin it with a space."
        )
    command = SLASH_WORDS[name]
    if len(values) > (command in SETTINGS):
        raise UsageError(f"/{name} takes {'one value' if command in SETTINGS else 'no value'}; help shows all commands")
    return command, "".join(values)


def _number(word: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"{word} takes a number, not '{value}'") from None


def _whole_number(word: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"{word} takes a whole number, not '{value}'") from None


@click.command()
@click.argument("target", metavar="RUN|CHECKPOINT")
@sampling_options
@model_options
def chat(
    target: str,
    max_length: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int | None,
    compiled: bool,
    model: str | None,
    device: str,
    assets: str | None,
    allow_local_code: bool,
) -> None:
    """Chat with a run's latest checkpoint, or with the checkpoint in a folder.

    The model continues each line that you type. `help` lists the commands; Ctrl-D leaves.
    """
    from tfs_core.runs import assets_folder
    from tfs_core.trained import load_model
    from tfs_generate.generation import Sampling

    settings = Settings(Sampling(temperature=temperature, top_k=top_k, top_p=top_p), max_length)
    entry = find_token_step() if compiled else None
    loaded = load_model(
        target, assets=assets_folder(assets), device=device, model=model, allow_local_code=allow_local_code
    )
    token_step = prepare_for_generation(loaded, entry)
    with suppress(ImportError):  # Windows has no readline; input() works without it
        import readline  # noqa: F401  # adds history and arrow keys to input()
    if sys.stdin.isatty():
        tell(f"{target} at step {loaded.step} continues your lines. help lists the commands, Ctrl-D leaves.")
    _talk(loaded, token_step, settings, new_seed() if seed is None else seed)


def _talk(loaded: "LoadedModel", token_step: "TokenStep | None", settings: Settings, seed: int) -> None:
    """Answer line by line until the user leaves; answer n (from 0) is sampled with seed + n."""
    interrupted = False
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            if interrupted:
                return
            interrupted = True
            tell("\nCtrl-C again, Ctrl-D or quit leaves.")
            continue
        except UnicodeDecodeError:
            tell("That line is not UTF-8 text.")
            continue
        interrupted = False
        try:
            command, value = find_command(line) or ("", "")
            if command == "quit":
                return
            if command == "help":
                tell(HELP)
            elif command == "clear":
                tell(NOTHING_TO_CLEAR)
            elif command == "set":
                tell("\n".join(settings.show(word) for word in SETTINGS))
            elif command:
                settings = settings.change(command, value) if value else settings
                tell(settings.show(command))
            elif line.strip():
                _answer(loaded, token_step, line.removeprefix(" "), settings, seed)
                seed += 1
        except KeyboardInterrupt:
            interrupted = True
            say()
            tell("Stopped. Ctrl-C again leaves.")
        except TfsError as error:
            tell(f"Error: {error}")


def _answer(loaded: "LoadedModel", token_step: "TokenStep | None", prompt: str, settings: Settings, seed: int) -> None:
    """Print the continuation of the prompt while it is generated."""
    from tfs_generate.generation import stream_text

    require_utf8(prompt)
    pieces: Iterator[str] = stream_text(
        loaded.model,
        loaded.tokenizer,
        prompt,
        max_length=settings.max_length,
        sampling=settings.sampling,
        seed=seed,
        begins_document=begins_document(loaded),
        token_step=token_step,
        tell=tell,
    )
    with closing(pieces):  # type: ignore[type-var]  # a generator: closing it early restores the model's mode
        for piece in pieces:
            say(piece, nl=False)
    say()
