"""`tfs evaluate`: loss, perplexity and bits per byte of trained models on the validation text of their runs."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfs_core.cli.trained import model_options, tell
from tfs_core.errors import CheckpointError, DataError
from tfs_core.terminal import say

if TYPE_CHECKING:
    from tfs_core.data.store import TokenSplit
    from tfs_core.evaluator import Evaluation
    from tfs_core.trained import LoadedModel


@dataclass(frozen=True)
class Row:
    """The result of one checkpoint: a row of the table."""

    loaded: "LoadedModel"
    state: dict[str, Any]  # the checkpoint's state.json
    evaluation: "Evaluation"

    @property
    def data(self) -> tuple[object, ...]:
        """The identity of the data (token store, batching, max_length). Only rows with equal data are comparable."""
        data = self.loaded.config.data
        return self.state["fingerprints"]["tokens"], data.batching.name, data.max_length

    def values(self) -> dict[str, Any]:
        """Return the row as JSON values; numbers that are not finite, such as a perplexity that overflows, are null."""
        evaluation, (tokens, batching, max_length) = self.evaluation, self.data
        return {
            "run": self.state.get("run"),
            "checkpoint": str(self.loaded.folder),
            "step": self.loaded.step,
            "model": self.loaded.config.model.name,
            "loss": _finite(evaluation.loss),
            "perplexity": _finite(evaluation.perplexity),
            "bits_per_byte": _finite(evaluation.bits_per_byte),
            "tokens_evaluated": evaluation.tokens_evaluated,
            "data": {"tokens": tokens, "batching": batching, "max_length": max_length},
        }


@click.command()
@click.argument("targets", metavar="RUN|CHECKPOINT...", nargs=-1, required=True)
@click.option("--max-batches", type=click.IntRange(min=1), help="Number of batches to evaluate. [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
@click.option("--data", "read_data", is_flag=True, help="Recreate deleted tokens from the data set.")
@model_options
def evaluate(
    targets: tuple[str, ...],
    max_batches: int | None,
    as_json: bool,
    read_data: bool,
    model: str | None,
    device: str,
    assets: str | None,
    allow_local_code: bool,
) -> None:
    """Measure loss, perplexity and bits per byte of runs (their latest checkpoints) or of checkpoints.

    Each is evaluated on the validation split of its own run. The loss is in nats per token. Bits per byte can be
    compared between tokenizers.
    """
    from tfs_core.checkpoint import read_state
    from tfs_core.runs import assets_folder, find_checkpoint
    from tfs_core.trained import load_model

    folder = assets_folder(assets)
    checkpoints = [find_checkpoint(target, folder) for target in targets]  # find all before evaluating the first
    rows = []
    for checkpoint in checkpoints:
        loaded = load_model(checkpoint, assets=folder, device=device, model=model, allow_local_code=allow_local_code)
        state = read_state(loaded.folder)
        split = _validation_split(loaded, state, folder, read_data)
        rows.append(Row(loaded, state, _evaluate(loaded, split, max_batches)))
    if as_json:
        say(json.dumps([row.values() for row in rows], indent=2, allow_nan=False))
        return
    _print_table(rows)
    if len({row.data for row in rows}) > 1:
        tell(
            "Only rows with the same data are comparable: loss and perplexity are per token, and the text, its tokens "
            "or the length of the windows differ."
        )


def _validation_split(loaded: "LoadedModel", state: dict[str, Any], assets: Path, read_data: bool) -> "TokenSplit":
    """Return the validation tokens of the checkpoint's run, from the token store with the run's fingerprint.

    If the store was deleted, recreates the tokens from the data set if `read_data` is true, else raises DataError.
    """
    from tfs_core.data.store import DamagedStoreError, open_store

    recorded = state["fingerprints"]
    if Path(recorded["tokens"]).name != recorded["tokens"]:
        raise CheckpointError(
            f"{loaded.folder}: the name of its tokens, {recorded['tokens']!r}, is no name of a folder"
        )
    identity = {key: recorded[key] for key in ("source", "tokenizer")} | {"vocab_size": loaded.tokenizer.vocab_size}
    problem = f"the tokens that '{state.get('run')}' was validated on are no longer in {assets / 'tokens'}"
    # A run given by its folder may be in another assets folder.
    for place in dict.fromkeys((assets, *loaded.folder.resolve().parents[3:4])):
        try:
            opened = open_store(place / "tokens" / recorded["tokens"], identity)
        except DamagedStoreError as error:
            problem = str(error)
        else:
            if opened is not None:
                return opened.validation
    if not read_data:
        raise DataError(f"{problem}. --data recreates them from its data set, '{loaded.config.data.dataset.name}'.")
    return _recreate(loaded, recorded, assets)


def _recreate(loaded: "LoadedModel", recorded: dict[str, str], assets: Path) -> "TokenSplit":
    """Return the validation tokens, recreated from the data set. Raises DataError when its text has changed."""
    from tfs_core.data.network import is_offline_mode
    from tfs_core.data.prepare import build_source, prepare_tokens

    config = loaded.config.data
    source = build_source(config.dataset, assets=assets, offline=is_offline_mode())
    if source.fingerprint() != recorded["source"]:
        raise DataError(
            f"the text of the data set '{config.dataset.name}' has changed since the run: its validation tokens "
            "cannot be recreated"
        )
    data = prepare_tokens(
        source,
        loaded.tokenizer,
        assets=assets,
        subset_size=config.subset_size,
        val_subset_size=config.val_subset_size,
        validation_fraction=config.validation_fraction,
        progress=tell,
    )
    return data.validation


def _evaluate(loaded: "LoadedModel", split: "TokenSplit", max_batches: int | None) -> "Evaluation":
    from tfs_core.data.batches import Rows
    from tfs_core.evaluator import Evaluator
    from tfs_core.models import check_document_masks

    config = loaded.config
    if config.data.document_masks:
        check_document_masks(loaded.model, config.model.name)
    rows = Rows(
        split=split,
        batching="padded" if config.data.batching.name.rpartition("/")[2] == "padded" else "packed",
        max_length=config.data.max_length,
        end_of_text_id=loaded.tokenizer.end_of_text_id,
        document_masks=config.data.document_masks,
    )
    if sys.stderr.isatty():
        tell(f"evaluating step {loaded.step} on {split.n_tokens:,} tokens ...")
    return Evaluator(loaded.model, loaded.device, objective=loaded.objective).evaluate(
        rows.in_order(config.training.batch_size),
        byte_lengths=loaded.tokenizer.byte_lengths(),
        max_batches=max_batches,
    )


def _print_table(rows: list[Row]) -> None:
    """Print a table with a header and one line per checkpoint."""
    cells = [("run", "step", "model", "loss", "perplexity", "bits per byte", "tokens", "data")]
    for row in rows:
        values, evaluation = row.values(), row.evaluation
        cells.append(
            (
                str(values["run"] or values["checkpoint"]),
                str(values["step"]),
                values["model"],
                f"{evaluation.loss:.4f}",
                f"{evaluation.perplexity:,.2f}",
                "-" if evaluation.bits_per_byte is None else f"{evaluation.bits_per_byte:.4f}",
                f"{evaluation.tokens_evaluated:,}",
                str(values["data"]["tokens"])[:8],
            )
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
