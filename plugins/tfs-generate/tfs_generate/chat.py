"""`tfs chat`: type a line, and the model goes on from there."""

import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from tfs_core.cli.trained import model_options, tell
from tfs_core.errors import TfsError, UsageError
from tfs_generate.options import (
    begins_document,
    find_token_step,
    new_seed,
    prepare_for_writing,
    require_utf8,
    writing_options,
)

if TYPE_CHECKING:
    from tfs_core.trained import LoadedModel
    from tfs_generate.generation import Sampling
    from tfs_generate.token_step import TokenStep

HELP = """\
Type a line, and the model goes on from there; it remembers nothing of earlier lines.
  temp 0.5     below 1 surer, above 1 wilder, 0 always the likeliest token
  topk 40      choose among so many likeliest tokens; 0 among all
  topp 0.9     choose among the likeliest tokens that make up this share of the probability
  length 200   tokens to write, at most
  temp, topk, topp, length alone: what it is now
  help         this
  quit         leave; also exit, q, Ctrl-D
Ctrl-C stops the model; twice leaves. A line that begins with a space is text, whatever it says."""

LEAVE = ("quit", "exit", "q")


@dataclass(frozen=True)
class Settings:
    """How the next answer is written."""

    sampling: "Sampling"
    max_length: int

    def show(self, word: str) -> str:
        """Return a setting in the words that set it."""
        values = {
            "temp": self.sampling.temperature,
            "topk": self.sampling.top_k,
            "topp": self.sampling.top_p,
            "length": self.max_length,
        }
        return f"{word} {values[word]}"

    def change(self, word: str, value: str) -> "Settings":
        """Return the settings with one changed; raises UsageError when it cannot have that value."""
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
@writing_options
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
    """Talk to a run's latest checkpoint, or to the checkpoint of a folder.

    Each line that you type is continued. `help` says what else can be typed; Ctrl-D leaves.
    """
    from tfs_core.runs import assets_folder
    from tfs_core.trained import load_model
    from tfs_generate.generation import Sampling

    settings = Settings(Sampling(temperature=temperature, top_k=top_k, top_p=top_p), max_length)
    entry = find_token_step() if compiled else None
    loaded = load_model(
        target, assets=assets_folder(assets), device=device, model=model, allow_local_code=allow_local_code
    )
    token_step = prepare_for_writing(loaded, entry)
    with suppress(ImportError):  # Windows has none: lines can be typed there without it
        import readline  # noqa: F401  # gives input() a history and arrow keys
    if sys.stdin.isatty():
        tell(f"{target} at step {loaded.step} continues what you type. help says more, Ctrl-D leaves.")
    _talk(loaded, token_step, settings, new_seed() if seed is None else seed)


def _talk(loaded: "LoadedModel", token_step: "TokenStep | None", settings: Settings, seed: int) -> None:
    """Answer line by line, until the user leaves; answer n is drawn with seed + n."""
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
            tell("\nCtrl-C once more, Ctrl-D or quit leaves.")
            continue
        except UnicodeDecodeError:
            tell("That line is not UTF-8 text.")
            continue
        interrupted = False
        word, *rest = line.lower().split() or [""]
        is_text = line.startswith(" ") or len(rest) > 1
        try:
            if not is_text and word in LEAVE and not rest:
                return
            if not is_text and word == "help" and not rest:
                tell(HELP)
            elif not is_text and word in SETTINGS:
                settings = settings.change(word, rest[0]) if rest else settings
                tell(settings.show(word))
            elif word:
                _answer(loaded, token_step, line.removeprefix(" "), settings, seed)
                seed += 1
        except KeyboardInterrupt:
            interrupted = True
            click.echo()
            tell("Stopped. Ctrl-C once more leaves.")
        except TfsError as error:
            tell(f"Error: {error}")


def _answer(loaded: "LoadedModel", token_step: "TokenStep | None", prompt: str, settings: Settings, seed: int) -> None:
    """Print what follows the prompt, as it is written."""
    from tfs_core.terminal import harmless
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
    with closing(pieces):  # type: ignore[type-var]  # a generator: left early, it gives the model's mode back
        for piece in pieces:
            click.echo(harmless(piece), nl=False)
    click.echo()
