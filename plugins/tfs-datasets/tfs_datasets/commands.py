"""`tfs datasets`: list data sets, download them, and look at documents and batches."""

import itertools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tfs_core.config.schema import Choice, RunConfig

ASSETS = click.option("--assets", metavar="DIR", help="Where data and runs are kept. [TFS_ASSETS, else ./assets]")
MOST_SPLITS_TOLD = 8


@click.group()
def datasets() -> None:
    """List data sets, download them, and look at documents and batches."""


@datasets.command("list")
@ASSETS
def list_sets(assets: str | None) -> None:
    """List the data sets there are, and what was downloaded."""
    from tfs_core.registry import get_registry
    from tfs_core.runs import assets_folder
    from tfs_datasets.hub_store import all_sets, hub_folder

    entries = get_registry().entries("dataset")
    width = max(len(entry.component.name) for entry in entries)
    for entry in entries:
        click.echo(f"{entry.component.name:<{width}}  {entry.component.summary}")
    root = hub_folder(assets_folder(assets))
    click.echo(f"\nDownloaded to {root}:")
    for hub_set in all_sets(root):
        damage = hub_set.damage()
        state = f"damaged: {damage}" if damage else f"{hub_set.n_bytes / 1e6:,.1f} MB"
        splits = ", ".join(hub_set.splits)
        click.echo(f"  {hub_set.path} ({hub_set.config}) at {hub_set.commit[:8]}: {splits}; {state}")
    if not all_sets(root):
        click.echo("  nothing yet: tfs datasets download tinystories")


@datasets.command()
@click.argument("name")
@click.option("--config", "-c", metavar="NAME", help="Which of its configurations; the Hub calls them subsets.")
@click.option("--split", "-s", "splits", metavar="NAME", multiple=True, help="Only this split. Repeatable.")
@click.option("--revision", default="main", show_default=True, help="A branch, a tag or a commit.")
@click.option(
    "--output",
    "-o",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Put it there, in place of the assets. [the configuration then says folder: DIR]",
)
@click.option(
    "--cache-dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Hugging Face's cache of files; what is in it is copied. [HF_HUB_CACHE]",
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

    Every file is verified. Interrupted, it goes on where it stopped when it is typed again. For gated and private
    sets log in first: hf auth login
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
        raise UsageError(f"'{name}' is no data set of the Hub.{hint} Known: {', '.join(KNOWN_SETS)}; or owner/name.")
    try:
        HubConfig(path=name)
    except ValueError as error:
        raise UsageError(f"download: {error}") from error
    wanted = Wanted(known.path if known else name, config or (known.config if known else None), revision)
    root = output.absolute() if output else hub_folder(assets_folder(assets))
    only: Sequence[str] | None = splits or None
    if known and only is None:
        only = ["train"] + ([known.validation_split] if known.validation_split else [])
    ask_for = " ".join([name, *(["--config", config] if config else [])])
    Request(wanted, {"train": "train"}, (), root, ask_for, KnownHubConfig()).check_reachable(offline=False)
    hub_set = fetch(wanted, only, root=root, report=lambda line: click.echo(line, err=True), cache_dir=cache_dir)
    names = list(hub_set.splits)
    told = ", ".join(names[:MOST_SPLITS_TOLD]) + (", ..." if len(names) > MOST_SPLITS_TOLD else "")
    click.echo(f"{hub_set.path} ({hub_set.config}) at {hub_set.commit[:8]} is in {hub_set.files.parent}")
    click.echo(f"  splits   {told}")
    click.echo(f"  columns  {', '.join(columns_in(hub_set, hub_set.files_of(names[0])))}")
    click.echo(f"  train    {_how_to_choose(name, config, names, revision, root if output else None)}")


def _how_to_choose(name: str, config: str | None, splits: list[str], revision: str, folder: Path | None) -> str:
    """Return what a configuration says to have what was downloaded."""
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
@click.option("--documents", "-n", type=click.IntRange(min=1), default=3, show_default=True, help="How many to show.")
@click.option(
    "--characters", type=click.IntRange(min=1), default=600, show_default=True, help="Show so much of each, at most."
)
@ASSETS
def preview(
    name: str, settings: tuple[str, ...], split: str, documents: int, characters: int, assets: str | None
) -> None:
    """Show the first documents of a data set: NAME is one of `tfs datasets list`, or owner/name on the Hub.

    A data set of files is told them: tfs datasets preview jsonl --set path=corpus.jsonl
    """
    from tfs_core.runs import assets_folder
    from tfs_core.terminal import harmless

    shown = 0
    for document in itertools.islice(_documents(_choose(name, settings), split, assets_folder(assets)), documents):
        shown += 1
        click.echo(f"--- document {shown}, {len(document):,} characters")
        click.echo(harmless(document[:characters]) + (" ..." if len(document) > characters else ""))
    if not shown:
        click.echo("there is no document in it")


def _choose(name: str, settings: Sequence[str]) -> "Choice":
    """Return the data set that a name and options choose. Raises ConfigError."""
    from tfs_core.config.document import Document, Place
    from tfs_core.config.load import apply_overrides
    from tfs_core.config.validation import chosen_component
    from tfs_core.registry import get_registry

    entries = get_registry().entries("dataset")
    on_the_hub = "/" in name and name not in [entry.qualified_name for entry in entries]
    chosen = {"name": "hub", "path": name} if on_the_hub else {"name": name}
    document = Document(values={"dataset": chosen}, places={(): Place(source="command line", base=Path.cwd())})
    apply_overrides(document, [f"dataset.{setting}" for setting in settings])
    return chosen_component("dataset", document.values["dataset"], document)


def _documents(choice: "Choice", split: str, assets: Path) -> Iterator[str]:
    """Iterate over documents, of a set of the Hub that is not here without downloading it."""
    from tfs_core.data.network import is_offline_by_choice
    from tfs_core.data.prepare import build_source
    from tfs_core.errors import UsageError
    from tfs_datasets.config import HubConfig, KnownHubConfig
    from tfs_datasets.hub import Request

    offline = is_offline_by_choice()
    if isinstance(choice.options, HubConfig):
        return Request.of(choice.options, assets).preview(split, offline=offline)
    if isinstance(choice.options, KnownHubConfig):
        bare = choice.name.rpartition("/")[2]
        return Request.of_known(bare, choice.options, assets).preview(split, offline=offline)
    source = build_source(choice, assets=assets, offline=offline)
    if split not in source.splits():
        raise UsageError(f"'{choice.name}' has no split '{split}'. There is: {', '.join(source.splits())}.")
    return source.documents(split)


@datasets.command()
@click.argument("run", required=False)
@click.option("--config", "file", metavar="FILE", type=click.Path(path_type=Path), help="A configuration to look at.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting. Repeatable.")
@click.option("--step", type=click.IntRange(min=1), default=1, show_default=True, help="Which optimizer step's batch.")
@click.option("--rows", type=click.IntRange(min=1), default=2, show_default=True, help="How many of its rows to show.")
@click.option(
    "--positions", type=click.IntRange(min=1), default=16, show_default=True, help="Show so much of a row, at most."
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
    """Show what a model sees: the exact batches of a RUN or of --config FILE, and what is lost or occurs twice."""
    from tfs_core.config import load_config
    from tfs_core.errors import UsageError
    from tfs_core.runs import assets_folder, find_run

    folder = assets_folder(assets)
    if (run is None) == (file is None):
        raise UsageError("name a run, or a configuration: tfs datasets look --config FILE")
    place = file if file is not None else find_run(str(run), folder).folder / "config.yaml"
    for line in _look(load_config(place, overrides=overrides), step, rows, positions, folder):
        click.echo(line)
    again = f"--config {shlex.quote(str(file))}" if file else shlex.quote(str(run))
    click.echo(f"\nThe next step's: tfs datasets look {again} --step {step + 1}")


def _look(config: "RunConfig", step: int, rows: int, positions: int, assets: Path) -> Iterator[str]:
    from tfs_core.builtin.batchings import Padded
    from tfs_core.data.batches import Batches
    from tfs_core.ranks import OneRank
    from tfs_core.run import prepare_data
    from tfs_core.terminal import harmless
    from tfs_datasets.look import batch_of, describe_row, survey
    from tfs_datasets.shared_windows import MOST_TRAINING_TOKENS, WINDOW

    ready = prepare_data(
        config,
        assets=assets,
        ranks=OneRank(),
        report=lambda line: click.echo(harmless(line), err=True),
    )
    data, prepared, tokenizer, batching = config.data, ready.tokens, ready.tokenizer, ready.batching
    streams = batching.epochs(1) is None
    cut = "padded" if isinstance(batching, Padded) else "packed"
    found = survey(prepared.train, prepared.validation, batching, batching=cut, max_length=data.max_length)
    train, an_epoch = ("beginning", "") if streams else ("training", " an epoch")
    for name, split in ((train, prepared.train), ("validation", prepared.validation)):
        fertility = split.n_bytes / split.n_tokens
        yield f"{name:<11} {split.documents:,} documents, {split.n_tokens:,} tokens, {fertility:.2f} bytes a token"
    if streams or isinstance(batching, Batches):
        yield f"batching    {data.batching.name}, max_length {data.max_length}: {found.rows:,} rows{an_epoch}"
        padding, cut_off = f"{found.padding_share:.2%}", f"{found.truncated_share:.2%}"
        yield f"lost        {padding} of the positions to padding, {cut_off} of the tokens cut off"
    else:  # another plugin's, which may cut rows in any way
        yield f"batching    {data.batching.name}, max_length {data.max_length}"
    yield f"duplicates  {found.duplicates:,} of {found.compared:,} training documents occurred before"
    yield f"overlap     {found.overlap:,} of {found.validation_compared:,} validation documents are also trained on"
    if found.windows_compared:
        shared = f"{found.windows_shared / found.windows_compared:.1%}"
        looked_through = min(prepared.train.n_tokens, MOST_TRAINING_TOKENS)
        yield (
            f"            {shared} of {found.windows_compared:,} stretches of {WINDOW} validation tokens are among the "
            f"{looked_through:,} training tokens looked through"
        )
    batch = batch_of(batching, step - 1)
    parts = config.training.gradient_accumulation_steps
    of = f", the first of {parts} batches" if parts > 1 else ""
    yield f"\nstep {step}{of}: {len(batch.input_ids)} rows, {batch.valid_targets:,} targets"
    yield "position      id input            ->      id target"
    for row in range(min(rows, len(batch.input_ids))):
        for line in describe_row(batch, row, tokenizer, positions=positions):
            yield harmless(line)
