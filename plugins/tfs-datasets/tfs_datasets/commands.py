"""The command `tfs datasets`: list and download data sets, and show their documents and batches."""

import itertools
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from tfs_core.terminal import counted, say

if TYPE_CHECKING:
    from tfs_core.config.schema import Choice, RunConfig
    from tfs_core.contracts import DatasetSource

ASSETS = click.option("--assets", metavar="DIR", help="Where data and runs are kept. [TFS_ASSETS, else ./assets]")
ON_THE_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")
MAX_SPLITS_SHOWN = 8

READ_ON_SECONDS = 2.0
"""Maximum time in which a preview reads on, to count all documents and what is left out."""


@click.group()
def datasets() -> None:
    """List and download data sets, and show their documents and batches."""


@datasets.command("list")
@ASSETS
def list_sets(assets: str | None) -> None:
    """List the available data sets, and the downloaded ones."""
    from tfs_core.registry import get_registry
    from tfs_core.runs import assets_folder
    from tfs_datasets.hub_store import all_sets, hub_folder, unreadable_manifests

    entries = get_registry().entries("dataset")
    width = max(len(entry.component.name) for entry in entries)
    for entry in entries:
        say(f"{entry.component.name:<{width}}  {entry.component.summary}")
    root = hub_folder(assets_folder(assets))
    say(f"\nDownloaded to {root}:")
    sets, unreadable = all_sets(root), [line for folder in root.glob("*") for line in unreadable_manifests(folder)]
    for hub_set in sets:
        damage = hub_set.damage()
        state = f"damaged: {damage}" if damage else f"{hub_set.n_bytes / 1e6:,.1f} MB"
        splits = ", ".join(hub_set.splits)
        say(f"  {hub_set.path} ({hub_set.config}) at {hub_set.commit[:8]}: {splits}; {state}")
    for line in sorted(unreadable):
        say(f"  {line}. Download the data set again.")
    if not sets and not unreadable:
        say("  nothing yet: tfs datasets download tinystories")


@datasets.command()
@click.argument("name")
@click.option("--config", "-c", metavar="NAME", help="Configuration of the data set (a subset on the Hub).")
@click.option("--split", "-s", "splits", metavar="NAME", multiple=True, help="Download only this split. Repeatable.")
@click.option("--revision", default="main", show_default=True, help="A branch, a tag or a commit.")
@click.option(
    "--output",
    "-o",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Download to DIR instead of the assets. Set the data set's option folder to DIR to train on it.",
)
@click.option(
    "--cache-dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Hugging Face's download cache; files found in it are copied. [HF_HUB_CACHE]",
)
@ASSETS
def download(
    name: str,
    config: str | None,
    splits: tuple[str, ...],
    revision: str,
    output: Path | None,
    cache_dir: Path | None,
    assets: str | None,
) -> None:
    """Download a data set of the Hugging Face Hub: NAME is one of `tfs datasets list`, or owner/name.

    Every file is verified. To continue an interrupted download, run the command again. Gated and private data sets
    require a login: hf auth login
    """
    from tfs_core.errors import UsageError
    from tfs_core.plugins import did_you_mean
    from tfs_core.runs import assets_folder
    from tfs_datasets.config import HubConfig, KnownHubConfig
    from tfs_datasets.hub import Request
    from tfs_datasets.hub_download import download as fetch
    from tfs_datasets.hub_reading import columns_in
    from tfs_datasets.hub_store import Wanted, hub_folder
    from tfs_datasets.known_sets import KNOWN_SETS

    known = KNOWN_SETS.get(name)
    if known is None and "/" not in name:
        hint = did_you_mean(name, KNOWN_SETS)
        raise UsageError(f"'{name}' is not a data set of the Hub.{hint} Names: {', '.join(KNOWN_SETS)}; or owner/name.")
    try:
        HubConfig(path=name)
    except ValueError as error:
        raise UsageError(f"download: {error}") from error
    wanted = Wanted(known.path if known else name, config or (known.config if known else None), revision)
    root = output.absolute() if output else hub_folder(assets_folder(assets))
    only: Sequence[str] | None = splits or None
    if known and only is None:
        only = ["train"] + ([known.validation_split] if known.validation_split else [])
    download_arguments = " ".join([name, *(["--config", config] if config else [])])
    Request(wanted, {"train": "train"}, (), root, download_arguments, KnownHubConfig()).check_reachable(offline=False)
    hub_set = fetch(wanted, only, root=root, report=lambda line: say(line, err=True), cache_dir=cache_dir)
    names = list(hub_set.splits)
    shown = ", ".join(names[:MAX_SPLITS_SHOWN]) + (", ..." if len(names) > MAX_SPLITS_SHOWN else "")
    say(f"{hub_set.path} ({hub_set.config}) at {hub_set.commit[:8]} is in {hub_set.files.parent}")
    say(f"  splits   {shown}")
    say(f"  columns  {', '.join(columns_in(hub_set, hub_set.files_of(names[0])))}")
    say(f"  train    {_configuration_line(name, config, names, revision, root if output else None)}")


def _configuration_line(name: str, config: str | None, splits: list[str], revision: str, folder: Path | None) -> str:
    """Return the line of YAML that selects the downloaded data set."""
    from tfs_datasets.known_sets import KNOWN_SETS

    options = [f"name: {name}"] if name in KNOWN_SETS and not config else [f"name: hub, path: {name}"]
    options += [f"config: {config}"] if config else []
    if name not in KNOWN_SETS and "train" not in splits:
        options.append(f"split: {splits[0]}")
    options += [f"revision: {revision}"] if revision != "main" else []
    options += [f"folder: {folder}"] if folder else []
    return "data: {dataset: {" + ", ".join(options) + "}, ...}"


@datasets.command()
@click.argument("name")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="An option of the data set. Repeatable.")
@click.option("--split", default="train", show_default=True, help="train or validation.")
@click.option("--documents", "-n", type=click.IntRange(min=1), default=3, show_default=True, help="Documents to show.")
@click.option("--characters", type=click.IntRange(min=1), default=600, show_default=True, help="Maximum shown of each.")
@ASSETS
def preview(
    name: str, settings: tuple[str, ...], split: str, documents: int, characters: int, assets: str | None
) -> None:
    """Show the first documents of a data set, and what is left out of it.

    NAME is a file or folder, one of `tfs datasets list`, or owner/name on the Hub. --set changes its options: tfs
    datasets preview notes --set encoding=cp1252
    """
    from tfs_core.contracts import SupportsLeftOut
    from tfs_core.runs import assets_folder

    source, parts = _parts(_choose(name, settings), split, assets_folder(assets))
    found = _in_brief(parts, characters)
    shown = []
    for document in itertools.islice(found, documents):
        shown.append(document)
        more_than = "" if document.is_complete else "more than "
        say(f"--- document {len(shown)}, {more_than}{counted(document.length, 'character')}")
        say(document.beginning + (" ..." if document.length > len(document.beginning) else ""))
    if not shown:
        say("this split has no documents")
    if isinstance(source, SupportsLeftOut):
        say(_counts(itertools.chain(shown, found)), err=True)
        for line in source.left_out():
            say(line, err=True)


class InBrief(NamedTuple):
    """The beginning of a document, and its length in characters as far as it was read."""

    beginning: str
    length: int
    is_complete: bool


def _in_brief(parts: Iterator[tuple[str, bool]], characters: int) -> Iterator[InBrief]:
    """Iterate over documents that are given in parts. Ends after one that takes longer than `READ_ON_SECONDS`."""
    beginning, length, ends_at = "", 0, time.monotonic() + READ_ON_SECONDS
    for text, ends in parts:
        beginning += text[: characters - len(beginning)]
        length += len(text)
        if ends or time.monotonic() > ends_at:
            yield InBrief(beginning, length, ends)
            if not ends:
                return
            beginning, length, ends_at = "", 0, time.monotonic() + READ_ON_SECONDS


def _counts(documents: Iterable[InBrief]) -> str:
    """Read for a short time, and return a line with the number of documents."""
    count, empty, complete, ends_at = 0, 0, True, time.monotonic() + READ_ON_SECONDS
    for document in documents:
        count += 1
        empty += not document.length
        complete = document.is_complete and time.monotonic() < ends_at
        if not complete:
            break
    of_these = f", {empty:,} of them empty" if empty else ""
    more = " in all" if complete else " or more: the rest was not read"
    return f"--- {counted(count, 'document')}{more}{of_these}"


def _choose(name: str, settings: Sequence[str]) -> "Choice":
    """Return the data set selected by a name and options. Raises ConfigError."""
    from tfs_core.config.document import Document, Place
    from tfs_core.config.load import apply_overrides
    from tfs_core.config.validation import chosen_component
    from tfs_core.registry import get_registry

    known = name in [entry.qualified_name for entry in get_registry().entries("dataset")]
    on_the_hub = ON_THE_HUB.fullmatch(name) and not known and not os.path.exists(name)
    chosen = {"name": "hub", "path": name} if on_the_hub else {"name": name}
    document = Document(values={"dataset": chosen}, places={(): Place(source="command line", base=Path.cwd())})
    apply_overrides(
        document, [f"dataset.{setting.removeprefix('data.').removeprefix('dataset.')}" for setting in settings]
    )
    return chosen_component("dataset", document.values["dataset"], document)


def _parts(choice: "Choice", split: str, assets: Path) -> "tuple[DatasetSource | None, Iterator[tuple[str, bool]]]":
    """Return the data set, and the documents of a split in parts: (text, True for the last part of a document).

    Data sets on the Hub are not downloaded in full, and None is returned for them.
    """
    from tfs_core.data.documents import read_pieces
    from tfs_core.data.network import is_offline_mode
    from tfs_core.data.prepare import build_source
    from tfs_core.errors import UsageError
    from tfs_datasets.config import HubConfig, KnownHubConfig

    offline = is_offline_mode()
    if isinstance(choice.options, HubConfig):
        from tfs_datasets.hub import Request

        request = Request.of(choice.options, assets)
        return None, ((text, True) for text in request.preview(split, offline=offline))
    if isinstance(choice.options, KnownHubConfig):
        from tfs_datasets.hub import Request

        bare = choice.name.rpartition("/")[2]
        request = Request.of_known(bare, choice.options, assets)
        return None, ((text, True) for text in request.preview(split, offline=offline))
    source = build_source(choice, assets=assets, offline=offline)
    if split not in source.splits():
        raise UsageError(f"'{choice.name}' has no split '{split}'. Splits: {', '.join(source.splits())}.")
    return source, ((piece.text, piece.ends) for piece in read_pieces(source, split))


@datasets.command()
@click.argument("run", required=False)
@click.option("--config", "file", metavar="FILE", type=click.Path(path_type=Path), help="Configuration file of a run.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting. Repeatable.")
@click.option("--step", type=click.IntRange(min=1), default=1, show_default=True, help="Optimizer step to show.")
@click.option("--rows", type=click.IntRange(min=1), default=2, show_default=True, help="Rows of the batch to show.")
@click.option(
    "--positions", type=click.IntRange(min=1), default=16, show_default=True, help="Maximum shown of each row."
)
@ASSETS
def look(
    run: str | None,
    file: Path | None,
    overrides: tuple[str, ...],
    step: int,
    rows: int,
    positions: int,
    assets: str | None,
) -> None:
    """Show the exact batches of a RUN or of --config FILE. RUN may also be text to train on, a file or folder.

    Also reports padding, truncation, duplicate documents, and validation text that occurs in the training text.
    """
    from tfs_core.config import load_config
    from tfs_core.errors import UsageError
    from tfs_core.runs import assets_folder

    folder = assets_folder(assets)
    if (run is None) == (file is None):
        raise UsageError("name a run, or a configuration: tfs datasets look --config FILE")
    config, checkpoint = (
        (load_config(file, overrides=overrides), None) if file else _chosen(str(run), overrides, folder)
    )
    for line in _look(config, checkpoint, step, rows, positions, folder):
        say(line)
    again = f"--config {shlex.quote(str(file))}" if file else shlex.quote(str(run))
    say(f"\nNext step: tfs datasets look {again} --step {step + 1}")


def _chosen(target: str, overrides: Sequence[str], assets: Path) -> tuple["RunConfig", Path | None]:
    """Return (configuration, newest checkpoint) of a run, or (configuration, None) of a YAML file or of text.

    Raises CheckpointError for a run without a valid configuration.
    """
    from tfs_core.config import config_from_mapping, load_config
    from tfs_core.config.own_text import config_for_text
    from tfs_core.errors import CheckpointError
    from tfs_core.runs import file_of, find_run

    if target.endswith((".yaml", ".yml")):
        return load_config(Path(target), overrides=overrides), None
    try:
        run = find_run(target, assets)
    except CheckpointError:
        if not os.path.exists(target):
            raise
        return config_from_mapping(config_for_text(Path(target)), overrides=overrides), None
    if (place := file_of(run.folder, "config.yaml")) is None:
        raise CheckpointError(f"the config.yaml of the run '{target}' is no regular file of its folder")
    return load_config(place, overrides=overrides), run.latest


def _look(
    config: "RunConfig", checkpoint: Path | None, step: int, rows: int, positions: int, assets: Path
) -> Iterator[str]:
    from tfs_core.builtin.batchings import Padded
    from tfs_core.checkpoint import read_state
    from tfs_core.data.batches import Batches
    from tfs_core.ranks import OneRank
    from tfs_core.run import prepare_data
    from tfs_datasets.look import batch_of, describe_row, survey
    from tfs_datasets.shared_windows import MOST_TRAINING_TOKENS, WINDOW

    ready = prepare_data(
        config,
        assets=assets,
        ranks=OneRank(),
        report=lambda line: say(line, err=True),
    )
    data, prepared, tokenizer, batching = config.data, ready.tokens, ready.tokenizer, ready.batching
    streams = batching.epochs(1) is None
    cut = "padded" if isinstance(batching, Padded) else "packed"
    found = survey(prepared.train, prepared.validation, batching, batching=cut, max_length=data.max_length)
    train, an_epoch = ("beginning", "") if streams else ("training", " an epoch")
    for name, split in ((train, prepared.train), ("validation", prepared.validation)):
        fertility = split.n_bytes / split.n_tokens
        documents = counted(split.documents, "document")
        yield f"{name:<11} {documents}, {split.n_tokens:,} tokens, {fertility:.2f} bytes a token"
    if streams or isinstance(batching, Batches):
        rows_found = counted(found.rows, "row") + an_epoch
        yield f"batching    {data.batching.name}, max_length {data.max_length}: {rows_found}"
        padding, cut_off = f"{found.padding_share:.2%}", f"{found.truncated_share:.2%}"
        yield f"lost        {padding} of the positions to padding, {cut_off} of the tokens cut off"
    else:  # the batching of another plugin, which may cut rows in any way
        yield f"batching    {data.batching.name}, max_length {data.max_length}"
    yield f"duplicates  {found.duplicates:,} of {found.compared:,} training documents occurred before"
    yield f"overlap     {found.overlap:,} of {found.validation_compared:,} validation documents are also trained on"
    if found.windows_compared:
        shared = f"{found.windows_shared / found.windows_compared:.1%}"
        searched = min(prepared.train.n_tokens, MOST_TRAINING_TOKENS)
        yield (
            f"            {shared} of {found.windows_compared:,} windows of {WINDOW} validation tokens occur in the "
            f"first {searched:,} training tokens"
        )
    state = read_state(checkpoint) if checkpoint is not None and not streams else None
    batch = batch_of(batching, step - 1, state=state)
    parts = config.training.gradient_accumulation_steps
    of = f", the first of {parts} batches" if parts > 1 else ""
    yield f"\nstep {step}{of}: {counted(len(batch.input_ids), 'row')}, {counted(batch.valid_targets, 'target')}"
    yield "position      id input            ->      id target"
    for row in range(min(rows, len(batch.input_ids))):
        yield from describe_row(batch, row, tokenizer, positions=positions)
