"""`tfs run`: train a model, resume a run, or estimate a run with --dry-run."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfs_core.terminal import counted, say

if TYPE_CHECKING:
    from tfs_core.dry_run import DryRun
    from tfs_core.runs import Run

LAST_RUN = ""
"""The value that means `--resume` without an argument: the last run of the configuration's experiment_name."""


@click.command()
@click.argument("sources", metavar="[FILE]", nargs=-1)
@click.option("--config", "config_file", metavar="FILE", type=click.Path(path_type=Path), help="The configuration.")
@click.option("--model", metavar="NAME", help="The model, instead of the file's; on a resume: one that mirrors it.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a setting. Repeatable.")
@click.option(
    "--resume",
    metavar="[RUN|CHECKPOINT|auto]",
    is_flag=False,
    flag_value=LAST_RUN,
    help="Resume a run from its newest checkpoint, or from the given checkpoint. Without a value: the last run of the "
    "configuration's experiment_name. With --name: start a new run from the checkpoint. auto: continue the run of that "
    "--name or experiment_name, or begin it.",
)
@click.option("--name", metavar="RUN", help="Name of the new run. [default: experiment_name, numbered if taken]")
@click.option("--dry-run", is_flag=True, help="Do everything up to the first update, then print an estimate.")
@click.option("--assets", metavar="DIR", help="The folder for data and runs. [default: TFS_ASSETS, or ./assets]")
@click.option("--allow-local-code", is_flag=True, help="Allow importing the model from the run's local file.")
@click.option("--allow-changed-code", is_flag=True, help="Resume although that file has changed since the checkpoint.")
def run(
    sources: Sequence[str],
    config_file: Path | None,
    model: str | None,
    overrides: Sequence[str],
    resume: str | None,
    name: str | None,
    dry_run: bool,
    assets: str | None,
    allow_local_code: bool,
    allow_changed_code: bool,
) -> None:
    """Train a model: tfs run configs/quickstart.yaml

    FILE is a configuration, the same as --config FILE; or text to train on, a file or folder, with a configuration that
    fits its size, or with that of --config.

    Ctrl-C saves a checkpoint and stops; a second Ctrl-C stops at once. --resume continues as if the run had never
    been stopped. These settings may change on a resume: the length of training (max_steps, num_epochs, max_tokens,
    early_stopping), eval_every, max_eval_batches, checkpoint_every, checkpoint_interval_minutes, keep_checkpoints,
    log_every, samples, loggers, runtime, group and tags. Data files may move. A change of any other setting is an
    error.
    """
    from tfs_core.errors import StoppedBySignalError, UsageError

    if len(sources) > 1:
        raise UsageError(f"give one FILE or folder, not {len(sources)}, and each setting with --set KEY=VALUE")
    config, overrides = _configuration(next(iter(sources), None), config_file, overrides, assets)
    if dry_run:
        if resume is not None or name is not None:
            raise UsageError("--dry-run creates no run: leave --resume and --name out")
        if config is None:
            raise UsageError("--dry-run needs a configuration: tfs run FILE --dry-run")
        _dry_run(config, overrides, model, assets)
        return

    from tfs_core.run import run as train

    try:
        ended = train(
            config,
            overrides=overrides,
            model=model,
            name=name,
            assets=assets,
            resume=False if resume is None else True if resume == LAST_RUN else resume,
            allow_local_code=allow_local_code,
            allow_changed_code=allow_changed_code,
            report=_report,
        )
    except StoppedBySignalError as stopped:
        say(f"\n{stopped}{_in_assets(assets)}{' --allow-local-code' * allow_local_code}", err=True)
        click.get_current_context().exit(stopped.exit_code)
    try:
        for line in next_commands(ended, assets):
            say(line)
    except OSError as error:  # stdout is closed, or its disk is full; the run is finished nevertheless
        _report(f"The run is finished, in {ended.folder}; the next commands cannot be printed: {error.strerror}.")


def _configuration(
    source: str | None, config_file: Path | None, overrides: Sequence[str], assets: str | None
) -> tuple[Path | Mapping[str, Any] | None, Sequence[str]]:
    """Return (the configuration: a YAML file or a mapping, the overrides) for the argument FILE and --config.

    Raises UsageError when FILE does not exist, or both are configurations.
    """
    from tfs_core.config.own_text import config_for_text
    from tfs_core.errors import UsageError

    if source is None:
        return config_file, overrides
    path = Path(source)
    if not os.path.exists(path):  # Path.exists raises for a very long name
        raise UsageError(_no_such_file_message(source, assets))
    if path.suffix.lower() in (".yaml", ".yml"):
        if config_file is not None:
            raise UsageError(f"{source} and {config_file} are both configurations: give one of them")
        return path, overrides
    if config_file is not None:
        return config_file, (f"data.dataset={json.dumps(str(path.absolute()))}", *overrides)
    config = config_for_text(path)
    _report(
        f"{source} is not a configuration (.yaml), so it is text: it trains a small model, for at most "
        f"{config['training']['max_steps']} steps. All settings will be in the run's config.yaml; --set changes them."
    )
    return config, overrides


def _no_such_file_message(source: str, assets: str | None) -> str:
    from tfs_core.plugins import did_you_mean
    from tfs_core.registry import get_registry
    from tfs_core.runs import assets_folder, list_runs

    if source in [run.name for run in list_runs(assets_folder(assets))]:
        return f"'{source}' is a run. Continue it: tfs run --resume {shlex.quote(source)}{_in_assets(assets)}"
    if get_registry().owners("dataset", source):
        return f"'{source}' is a data set. Train on it: tfs run --config FILE --set data.dataset={source}"
    nearby = [str(file) for folder in (Path(), Path("configs")) for file in folder.glob("*.y*ml")]
    near = next(
        (f" Did you mean {file}?" for file in nearby if Path(file).stem == source), did_you_mean(source, nearby)
    )
    return f"there is no file {source}.{near} FILE is a configuration (.yaml), or text to train on."


def _in_assets(assets: str | None) -> str:
    """Return the option that repeats the folder of a command: " --assets DIR", or nothing."""
    return f" --assets {shlex.quote(assets)}" if assets else ""


def _report(line: str) -> None:
    with suppress(OSError):  # a closed stderr must not end the run
        say(line, err=True)


def next_commands(run: "Run", assets: str | None) -> list[str]:
    """Return the lines to print after a run: its folder, and commands to continue with."""
    from tfs_core.config.schema import is_local_model
    from tfs_core.registry import get_registry

    place = _in_assets(assets)
    if is_local_model(str(run.info["model"])):
        place += " --allow-local-code"
    name, config = shlex.quote(run.name), shlex.quote(str(run.folder / "config.yaml"))
    last_step, total_steps = int(run.info["summary"]["last_step"]), int(run.info["total_steps"])
    stopped_early = last_step < total_steps  # by early stopping: a higher max_steps would change nothing
    longer = "training.early_stopping=null" if stopped_early else f"training.max_steps={2 * last_step}"
    prompts = (sample.get("prompt") for sample in run.samples())  # of any type: others may have written the file
    prompt = next((prompt for prompt in prompts if isinstance(prompt, str) and prompt.strip()), "Once")
    commands = {
        "chat": f"  chat with it      tfs chat {name}{place}",
        "generate": f"  generate text     tfs generate {name} --prompt {shlex.quote(prompt)}{place}",
    }
    return [
        f"The run is in {run.folder}",
        f"  train it longer   tfs run --resume {name} --set {longer}{place}",
        *(line for command, line in commands.items() if get_registry().owners("command", command)),
        f"  on your own text  tfs run MY.txt --config {config} --name mine{place}",
    ]


def _dry_run(
    config_file: Path | Mapping[str, Any], overrides: Sequence[str], model: str | None, assets: str | None
) -> None:
    from tfs_core.dry_run import try_run
    from tfs_core.run import configure, prepare
    from tfs_core.runs import assets_folder

    folder = assets_folder(assets)
    config, _ = configure(
        config_file, overrides=overrides, model=model, assets=folder, resume=False, allow_local_code=False
    )
    tried = try_run(prepare(config, assets=folder, previous=None, report=_report))
    for line in estimate(tried):
        say(line)


def estimate(tried: "DryRun") -> list[str]:
    """Return the lines that report a dry run."""
    from tfs_core.builtin.console import short

    parameters, machine = tried.parameters, tried.machine
    if tried.epochs is None:
        to_train_on, epochs = "of a stream's beginning", "of the stream"
    else:
        to_train_on, epochs = "to train on", f"{tried.epochs:.2f} epochs"
    peak = "" if tried.peak_bytes is None else f"; at most {mebibytes(tried.peak_bytes)} in use during one step"
    return [
        f"parameters  {parameters.total:,} ({parameters.without_embeddings:,} without embeddings)",
        f"tokens      {tried.train_tokens:,} {to_train_on}, {tried.validation_tokens:,} to validate on, "
        f"a vocabulary of {tried.vocab_size:,}, in {tried.tokens_folder}",
        f"steps       {tried.total_steps:,}, of them {tried.warmup_steps:,} warm-up: {tried.tokens:,} tokens, {epochs}",
        f"compute     {short(tried.flops, ' ')}FLOPs",
        f"memory      {mebibytes(tried.state_bytes)} for weights, gradients and optimizer{peak}",
        f"machine     {machine['device']}, {counted(machine['threads'], 'thread')}, matmul {machine['matmul']}",
        f"first loss  {tried.first_loss:.4f} nats per token",
        "The dry run succeeded. Only its tokens are kept.",
    ]


def mebibytes(n_bytes: int) -> str:
    """Return a number of bytes in MiB, such as `1,234.5 MiB`."""
    return f"{n_bytes / 2**20:,.1f} MiB"
