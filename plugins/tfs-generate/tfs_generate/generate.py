"""`tfs generate`: a trained model continues a prompt."""

import sys

import click

from tfs_core.cli.trained import model_options, tell
from tfs_core.errors import UsageError
from tfs_core.terminal import say
from tfs_generate.options import (
    begins_document,
    find_token_step,
    new_seed,
    prepare_for_generation,
    require_utf8,
    sampling_options,
)


@click.command()
@click.argument("target", metavar="RUN|CHECKPOINT")
@click.option(
    "--prompt", default="", help="The text to continue; - reads it from stdin. Without it, a new text begins."
)
@sampling_options
@model_options
def generate(
    target: str,
    prompt: str,
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
    """Continue a prompt with a run's latest checkpoint, or with the checkpoint in a folder.

    The prompt and its continuation are written to stdout while they are generated, control characters escaped.
    """
    from tfs_core.runs import assets_folder
    from tfs_core.trained import load_model
    from tfs_generate.generation import Sampling, stream_text

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    if prompt == "-":
        prompt = _read_stdin()
    require_utf8(prompt)
    entry = find_token_step() if compiled else None
    loaded = load_model(
        target, assets=assets_folder(assets), device=device, model=model, allow_local_code=allow_local_code
    )
    token_step = prepare_for_generation(loaded, entry)
    if not prompt:
        tell("no prompt: a new text begins")
    if seed is None:
        seed = new_seed()
        if temperature > 0:
            tell(f"seed {seed}: --seed {seed} writes the same text again")
    pieces = stream_text(
        loaded.model,
        loaded.tokenizer,
        prompt,
        max_length=max_length,
        sampling=sampling,
        seed=seed,
        begins_document=begins_document(loaded),
        token_step=token_step,
        tell=tell,
    )
    say(prompt, bold=True, nl=False)
    for piece in pieces:
        say(piece, nl=False)
    say()


def _read_stdin() -> str:
    """Return the text of stdin without the final newline that the shell adds."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt on stdin is not UTF-8 text: byte {error.start} is invalid") from None
    return text.removesuffix("\n").removesuffix("\r")
