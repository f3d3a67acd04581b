"""A run from its configuration to its end, in one file: the function `tfs_core.run`, which `tfs run` calls.

`run` is the main flow, top to bottom. The functions that it calls follow in the same order.

    configuration -> data set -> tokenizer -> token store -> batching -> model -> wrappers -> optimizer -> run folder
    -> trainer
"""

import dataclasses
import importlib
import logging
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tfs_core.checkpoint import CheckpointKeeper, as_checkpoint_error, read_config
from tfs_core.config import config_differences, config_from_mapping, config_from_yaml, load_config, resolved, to_yaml
from tfs_core.config.implied import check_required_components, implied_name
from tfs_core.config.local_model import with_local_model
from tfs_core.config.schema import Choice, DataConfig, RunConfig, TrainingConfig, is_local_model
from tfs_core.contracts import (
    Batching,
    BatchSettings,
    DatasetSource,
    LanguageModel,
    Ranks,
    RunContext,
    RunLogger,
    Schedule,
    SupportsStreaming,
    Tokenizer,
    WrapContext,
)
from tfs_core.data.documents import TrainingText
from tfs_core.data.network import is_offline_mode
from tfs_core.data.prepare import build_source, build_tokenizer, prepare_tokens
from tfs_core.data.store import TokenStore
from tfs_core.durable import write_durably
from tfs_core.errors import (
    CheckpointError,
    ConfigError,
    PluginError,
    StoppedBySignalError,
    TfsError,
    TrainingError,
    UsageError,
)
from tfs_core.findings import Findings
from tfs_core.loggers import Loggers
from tfs_core.machine import apply_machine, as_out_of_memory_error, choose_machine
from tfs_core.models import (
    LossModule,
    Objective,
    ParameterCounts,
    build_model,
    check_document_masks,
    parameter_counts,
    parameter_dtype,
)
from tfs_core.origin import code_differences, local_files, plugins_of
from tfs_core.plugins import as_plugin_error, did_you_mean
from tfs_core.random_state import restore_random_state, set_seed
from tfs_core.ranks import OneRank
from tfs_core.registry import Entry, get_registry
from tfs_core.resume import (
    ResumePoint,
    check_config,
    check_fingerprints,
    check_local_files,
    current_versions,
    find_resume_point,
    machine_differences,
    rewind_run_folder,
    run_to_continue,
    was_killed_before_its_first_checkpoint,
)
from tfs_core.run_folder import RunFolder, check_name, check_usable
from tfs_core.runs import Run, assets_folder, find_run, run_folders
from tfs_core.stop_signal import StopSignal
from tfs_core.terminal import counted
from tfs_core.trained import check_mirror, read_tokenizer, with_model
from tfs_core.trainer import Plan, Progress, Trainer
from tfs_core.wrapping import build_wrappers, wrapped, wrapper_choices

_log = logging.getLogger(__name__)

ConfigLike = RunConfig | Mapping[str, Any] | str | Path
Report = Callable[[str], None]


def run(
    config: ConfigLike | None = None,
    *,
    overrides: Sequence[str] = (),
    model: str | None = None,
    name: str | None = None,
    assets: str | Path | None = None,
    resume: str | Path | bool = False,
    allow_local_code: bool = False,
    allow_changed_code: bool = False,
    report: Report = _log.info,
) -> Run:
    """Train a model as a configuration describes, and return the finished run.

    `config` is a YAML file, a mapping or a RunConfig. `overrides` ("training.batch_size=64") and `model` change it as
    `--set` and `--model` do. `resume` is the name or folder of a run to continue, or one of its checkpoints; True for
    the last run of the configuration's experiment_name; "auto" for that run, or the one called `name`, if it exists,
    and for a new run otherwise. On a resume, `config` defaults to the run's own configuration,
    and `name` starts a new run (a fork) from the checkpoint. `allow_changed_code` allows a local model whose code has
    changed since the checkpoint. `report` is called with progress messages before the first step.

    Raises TfsError for errors that a user can cause, and StoppedBySignalError after Ctrl-C or SIGTERM, once a
    checkpoint is saved.
    """
    # 1. The configuration, and the checkpoint to resume from, if any.
    root = assets_folder(assets)
    begun = None  # the folder of a run without a checkpoint, which is begun again
    if resume == "auto":
        if config is None:
            raise UsageError("--resume auto needs the configuration to begin with: --config FILE")
        config, overrides, model = _read_config(config, overrides=overrides, model=model), (), None
        begun, resume = run_to_continue(name, experiment_name=config.experiment_name, assets=root)
        if resume:
            begun, resume, name = None, str(begun), None
    elif name is not None and was_killed_before_its_first_checkpoint(root / "runs" / name):
        begun = root / "runs" / name
    config, previous = configure(
        config, overrides=overrides, model=model, assets=root, resume=resume, allow_local_code=allow_local_code
    )
    is_fork = previous is not None and name is not None
    changed = {} if previous is None else check_config(previous, config, is_fork=is_fork)
    if previous is not None and not allow_changed_code:
        check_local_files(previous, config)
    if previous is not None and previous.run is None and not is_fork:
        raise UsageError(f"{previous.checkpoint} is in no run folder: start a new run from it with --name")
    if begun is not None:
        report(f"the run '{begun.name}' ended before its first checkpoint: it is begun again, in its place")
        check_usable(begun)
    elif name is not None:
        check_name(root / "runs", name)
    elif previous is not None and previous.run is not None:
        check_usable(previous.run.folder)

    # 2. Data, model and optimizer: everything that does not need the run folder.
    prepared = prepare(config, assets=root, previous=previous, report=report)
    if previous is not None and (complete := _completion_message(previous, prepared)):
        if is_fork or previous.run is None:
            raise UsageError(complete)
        report(complete)
        if previous.run.status == "finished":  # otherwise it was killed just before it could record that
            return previous.run

    # 3. The run folder, locked during training.
    with _as_training_error():
        if begun is not None:
            run_folder = RunFolder.begin_again(begun, prepared.config.experiment_name)
        elif previous is None or previous.run is None or is_fork:
            run_folder = RunFolder.create(root, name, prepared.config.experiment_name)
        else:
            run_folder = RunFolder.open(previous.run.folder)
    with StopSignal() as stop, run_folder:
        with _as_training_error():
            if previous is not None and not is_fork:
                rewind_run_folder(previous, run_folder, keep=prepared.config.training.keep_checkpoints)
            trainer = build_trainer(prepared, previous, run_folder, stop)

        # 4. Training.
        step, state = trainer.progress.step, None if previous is None else previous.state
        with (
            _logged(trainer, previous, changed, prepared),
            as_out_of_memory_error("a training step"),
            prepared.data.batching.open(run_folder.folder, step=step, state=state, report=report),
        ):
            if previous is not None:
                with as_checkpoint_error(previous.checkpoint):  # last: nothing may draw from it before training
                    restore_random_state(previous.state["random_state"])
            status = trainer.train()
        run_folder.end(status, summary=trainer.summary())

    ended = find_run(str(run_folder.folder), root)
    if status == "stopped":
        raise StoppedBySignalError(
            f"stopped by {signal.Signals(stop.received or signal.SIGTERM).name} at step "
            f"{ended.info['summary']['last_step']}, and saved. Continue with: tfs run --resume {ended.name}",
            signal_number=stop.received or signal.SIGTERM,
        )
    return ended


# 1. The configuration


def configure(
    config: ConfigLike | None,
    *,
    overrides: Sequence[str],
    model: str | None,
    assets: Path,
    resume: str | Path | bool,
    allow_local_code: bool,
) -> tuple[RunConfig, ResumePoint | None]:
    """Return the configuration of a run, and the checkpoint to resume from, if any. Imports a local model, if allowed.

    Raises UsageError when there is neither a configuration nor a run to resume, CheckpointError when there is no
    checkpoint, and ConfigError for an invalid configuration.
    """
    given = None if config is None else _read_config(config, overrides=overrides, model=model)
    if resume is False:
        if given is None:
            raise UsageError("give a configuration, --config FILE, or a run to resume, --resume RUN")
        given = with_local_model(given, allowed=True)
        check_readable(given)
        return given, None
    target, experiment_name = None if resume is True else resume, given.experiment_name if given else None
    try:
        previous = find_resume_point(target, experiment_name=experiment_name, assets=assets)
    except CheckpointError as error:
        if target is None or run_folders(assets, str(target)):
            raise
        raise CheckpointError(f"{did_you_mean(str(target).lower(), ['auto'])} {error}".strip()) from error
    if given is None:
        given = read_config(previous.checkpoint, overrides=overrides)
        if model is not None:
            given = with_model(given, model)
        given = with_local_model(given, allowed=allow_local_code)
    else:
        given = with_local_model(given, allowed=True)
        allow_local_code = allow_local_code or given.model.name == previous.config.model.name
    return given, dataclasses.replace(previous, config=with_local_model(previous.config, allowed=allow_local_code))


def check_readable(config: RunConfig) -> None:
    """Raise PluginError unless the configuration can be read back as written, as every resume and evaluation does."""
    try:
        again = with_local_model(config_from_yaml(to_yaml(config)), allowed=True)
        differences = [f"{it.key} was {it.first!r}, is {it.second!r}" for it in config_differences(config, again)]
    except (ConfigError, ValueError) as error:
        differences = [str(error)]
    if differences:
        raise PluginError(
            "the configuration cannot be saved and read again, so this run could never be resumed. The default of an "
            f"option must have the type of the option, which the plugin's author has to mend: {'; '.join(differences)}"
        )


def _read_config(config: ConfigLike, *, overrides: Sequence[str], model: str | None) -> RunConfig:
    if isinstance(config, str | Path):
        return load_config(Path(config), overrides=overrides, model=model)
    if isinstance(config, RunConfig):
        config = resolved(config)  # made in Python, its values may never have been checked
    return config_from_mapping(config, overrides=overrides, model=model)


# 2. Data, model and optimizer


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The parts of a run, ready to train; the process already uses the machine's settings (threads, matmul)."""

    config: RunConfig
    data: "RunData"
    plan: Plan
    model: LanguageModel
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    parameters: ParameterCounts
    wrappers: list[Choice]
    loggers: list[Choice]
    device: str
    findings: Findings
    ranks: Ranks


@as_out_of_memory_error("preparing the run")
def prepare(config: RunConfig, *, assets: Path, previous: ResumePoint | None, report: Report) -> Prepared:
    """Build the parts of a run, from the data set to the optimizer; `previous` is the checkpoint to resume from.

    Raises TfsError for errors that a user can cause, among them a data set or tokenizer that has changed since the
    checkpoint (found by fingerprint, before the data is read).
    """
    check_required_components(config)
    wrapper_names, loggers = wrapper_choices(config), logger_choices(config)
    wrappers = build_wrappers(wrapper_names)
    for kind, choice in (
        ("model", config.model),
        ("optimizer", config.training.optimizer),
        ("scheduler", config.training.lr_decay),
    ):
        if not is_local_model(choice.name):
            get_registry().find(kind, choice.name).load_factory()  # one that cannot be imported ends the run here
    recorded = dict(previous.state["machine"]) if previous is not None else {}
    if previous is not None and not previous.config.runtime.compile:
        recorded.pop("compiled", None)  # False because it was not requested, not because it failed
    machine = choose_machine(config.runtime, recorded)
    ranks = OneRank()
    data = prepare_data(config, assets=assets, previous=previous, ranks=ranks, report=report)
    plan = plan_run(config.training, data.batching)

    model = build_model(config.model, vocab_size=data.tokenizer.vocab_size, seed=config.seed)
    if previous is not None:
        check_mirror(previous.config.model, config.model, model)
    if config.data.document_masks:
        check_document_masks(model, config.model.name)
    loss = LossModule(model, loss_chunk=config.runtime.loss_chunk)
    if isinstance(loss.loss_chunk, int) and not loss.has_chunks:
        raise ConfigError(
            f"runtime.loss_chunk: the model '{config.model.name}' computes all logits at once, not in chunks. Leave it "
            "out, or use a model with `features` and `unembed`."
        )

    apply_machine(machine)
    model.to(device=machine.device, dtype=parameter_dtype(model.config))
    findings = Findings(report)
    facts = {"device": machine.device, "threads": machine.threads, "matmul": machine.matmul, "compiled": False}
    findings.record(**facts, why=machine.how)
    context = WrapContext(
        model=model,
        model_name=config.model.name,
        device=machine.device,
        ranks=ranks,
        trial_batch=data.batching.trial(),
        lengths_vary=data.batching.lengths_vary,
        recorded=recorded,
        report=report,
        warn=findings.warn,
        record=findings.record,
    )
    objective = Objective(model, wrapped(loss, wrappers, context=context))
    return Prepared(
        config=data.config,
        data=data,
        plan=plan,
        model=model,
        objective=objective,
        optimizer=build_optimizer(config.training, model),
        schedule=build_schedule(config.training, plan),
        parameters=parameter_counts(model),
        wrappers=wrapper_names,
        loggers=loggers,
        device=machine.device,
        findings=findings,
        ranks=ranks,
    )


def logger_choices(config: RunConfig) -> list[Choice]:
    """Return the loggers of a run: `loggers`, `samples` if there are prompts, `bigram` and `spikes` if installed."""
    choices, chosen = [*config.loggers], {choice.name.rpartition("/")[2] for choice in config.loggers}
    if "bigram" not in chosen and (bigram := implied_name("logger", "bigram")):
        choices.insert(0, Choice(bigram))  # first: other loggers show its result
    if "samples" not in chosen and config.samples.prompts:
        choices.append(Choice(implied_name("logger", "samples") or "samples", config.samples))
    if "spikes" not in chosen and (spikes := implied_name("logger", "spikes")):
        choices.append(Choice(spikes))  # last: its events follow the record of their step
    return choices


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The data of a run: tokenizer, token store and batches."""

    config: RunConfig
    """The configuration, with a streaming data set pinned to the version that is read."""

    tokenizer: Tokenizer
    tokens: TokenStore
    batching: Batching
    batching_name: str
    fingerprints: dict[str, str]


def prepare_data(
    config: RunConfig, *, assets: Path, previous: ResumePoint | None = None, ranks: Ranks, report: Report
) -> RunData:
    """Return the data of a run. Raises TrainingError when a fingerprint differs from the one in `previous`.

    Raises PluginError when a component cannot be built.
    """
    data, offline = config.data, is_offline_mode()
    source = build_source(data.dataset, assets=assets, offline=offline)
    if "validation" in source.splits() and data.validation_fraction != DataConfig.validation_fraction:
        report(
            f"data.validation_fraction has no effect: the data set '{data.dataset.name}' has a validation split of its "
            "own"
        )
    entry, settings = _batching_entry(config, source), _batch_settings(config)
    if check := getattr(entry.load_factory(), "check", None):  # before any text is read
        with as_plugin_error(f"{entry} cannot check its settings"):
            check(settings, source=source)
    if isinstance(source, SupportsStreaming):  # recorded, so that a resume reads the same version
        data = dataclasses.replace(data, dataset=Choice(data.dataset.name, source.pinned_options()))
    fingerprints = check_fingerprints(previous, source=source.fingerprint())

    text = TrainingText(source, data.subset_size, data.validation_fraction)
    if previous is not None and data.tokenizer == previous.config.data.tokenizer:
        report("the tokenizer is the copy in the checkpoint")
        tokenizer = read_tokenizer(data.tokenizer.name, previous.checkpoint / "tokenizer")
    else:
        tokenizer = build_tokenizer(data.tokenizer, assets=assets, offline=offline, documents=text)
    fingerprints |= check_fingerprints(previous, tokenizer=tokenizer.fingerprint())
    tokens = prepare_tokens(
        source,
        tokenizer,
        assets=assets,
        subset_size=data.subset_size,
        val_subset_size=data.val_subset_size,
        validation_fraction=data.validation_fraction,
        progress=report,
    )
    fingerprints |= check_fingerprints(previous, tokens=tokens.folder.name)
    is_named = entry is get_registry().find("batching", data.batching.name)
    batching = entry.build(
        data.batching.options if is_named else None,
        source=source,
        tokenizer=tokenizer,
        tokens=tokens,
        settings=settings,
        ranks=ranks,
    )
    if not isinstance(batching, Batching):
        raise PluginError(f"{entry}: it returned {batching!r:.80}, which is no `Batching` (contracts.py)")
    return RunData(
        config=dataclasses.replace(config, data=data),
        tokenizer=tokenizer,
        tokens=tokens,
        batching=batching,
        batching_name=entry.qualified_name,
        fingerprints=fingerprints,
    )


def _batching_entry(config: RunConfig, source: DatasetSource) -> Entry:
    """Return the configured batching component; for a streaming data set, the data set's (by default `streaming`)."""
    name = config.data.batching.name
    if isinstance(source, SupportsStreaming):
        name = getattr(source, "batching", None) or implied_name("batching", "streaming") or "streaming"
    return get_registry().find("batching", name)


def _batch_settings(config: RunConfig) -> BatchSettings:
    return BatchSettings(
        batching=config.data.batching.name.rpartition("/")[2],
        dataset=config.data.dataset.name,
        num_epochs=config.training.num_epochs,
        max_length=config.data.max_length,
        batch_size=config.training.batch_size,
        gradient_accumulation_steps=config.training.gradient_accumulation_steps,
        seed=config.seed,
        document_masks=config.data.document_masks,
        subset_size=config.data.subset_size,
        shard_tokens=config.data.shard_tokens,
    )


def plan_run(config: TrainingConfig, batching: Batching) -> Plan:
    """Return the length of a run and of its warm-up in steps, from max_steps, num_epochs or max_tokens.

    Raises ConfigError when the warm-up is longer than the run.
    """
    total_steps = config.max_steps or batching.total_steps(epochs=config.num_epochs, tokens=config.max_tokens)
    if config.warmup_ratio is not None:
        return Plan(total_steps, round(config.warmup_ratio * total_steps))
    warmup_steps = config.warmup_steps or 0
    if warmup_steps > total_steps:
        raise ConfigError(
            f"training.warmup_steps: {warmup_steps} steps of warm-up are more than the run has, {total_steps}. Lower "
            "it, or train longer."
        )
    return Plan(total_steps, warmup_steps)


def build_optimizer(config: TrainingConfig, model: LanguageModel) -> torch.optim.Optimizer:
    """Return the optimizer of the model's parameters, with the peak learning rate. Raises PluginError."""
    entry = get_registry().find("optimizer", config.optimizer.name)
    optimizer = entry.build(
        config.optimizer.options,
        named_parameters=list(model.named_parameters()),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise PluginError(f"{entry}: it returned {optimizer!r:.80}, which is no torch.optim.Optimizer")
    return optimizer


def build_schedule(config: TrainingConfig, plan: Plan) -> Schedule:
    """Return the schedule: the learning rate as a function of the step.

    The schedule raises PluginError, naming the component, when the rate is not finite or is negative.
    """
    entry = get_registry().find("scheduler", config.lr_decay.name)
    floor = config.min_learning_rate
    schedule: Schedule = entry.build(
        config.lr_decay.options,
        total_steps=plan.total_steps,
        warmup_steps=plan.warmup_steps,
        peak=config.learning_rate,
        floor=config.learning_rate / 10 if floor is None else floor,
    )

    def checked(step: int) -> float:
        with as_plugin_error(f"{entry} cannot compute the learning rate of step {step}"):
            rate = schedule(step)
        if not isinstance(rate, int | float) or not 0.0 <= rate < math.inf:
            raise PluginError(
                f"{entry}: the learning rate of step {step} is {rate!r:.80}; expected a finite number, 0 or more"
            )
        return rate

    return checked


def _completion_message(previous: ResumePoint, prepared: Prepared) -> str | None:
    """Return the message for a run that is already complete, or None when there are steps left."""
    with as_checkpoint_error(previous.checkpoint):
        progress = Progress(**previous.state["progress"])
    training, plan = prepared.config.training, prepared.plan
    if not progress.is_complete(training, plan):
        return None
    if progress.step < plan.total_steps:
        return (
            f"the run '{previous.run_name}' stopped early, at step {progress.step}, after {training.early_stopping} "
            "validations without improvement. To continue, raise training.early_stopping with --set."
        )
    return (
        f"the run '{previous.run_name}' is finished: it has taken {counted(progress.step, 'step')} of "
        f"{plan.total_steps}. To train longer: --set training.max_steps=N (or num_epochs, or max_tokens)."
    )


# 3. The run folder


@contextmanager
def _as_training_error() -> Iterator[None]:
    """Convert an OSError of the run folder to a TrainingError."""
    try:
        yield
    except OSError as error:
        raise TrainingError(f"the run's folder cannot be written: {error}. Make room or change permissions.") from error


# 4. Training


def build_trainer(prepared: Prepared, previous: ResumePoint | None, run_folder: RunFolder, stop: StopSignal) -> Trainer:
    """Return the trainer of a run, with the state of `previous` if given. Writes config.yaml and run.json."""
    config, data, findings, ranks = prepared.config, prepared.data, prepared.findings, prepared.ranks
    set_seed(config.seed)
    progress = Progress()
    if previous is not None:
        with as_checkpoint_error(previous.checkpoint):
            ranks.load(previous.checkpoint, prepared.model, prepared.optimizer, previous.state)
            progress = Progress(**previous.state["progress"])

    plugins, local_code = plugins_of(_entries(prepared)), local_files(config.model.name)
    config_yaml = to_yaml(config)
    write_durably(run_folder.folder / "config.yaml", config_yaml.encode())
    run_folder.write_info(**_info(prepared, previous, run_folder, plugins))
    checkpoints = CheckpointKeeper(
        run_folder.folder / "checkpoints",
        keep=config.training.keep_checkpoints,
        run_state=lambda: {
            "run": run_folder.folder.name,
            "fingerprints": data.fingerprints,
            "machine": findings.facts,
            "versions": current_versions(),
            "plugins": plugins,
            "local_files": local_code,
        },
        config_yaml=config_yaml,
        tokenizer=data.tokenizer,
        ranks=ranks,
    )
    return Trainer(
        config=config.training,
        plan=prepared.plan,
        progress=progress,
        model=prepared.model,
        objective=prepared.objective,
        optimizer=prepared.optimizer,
        schedule=prepared.schedule,
        device=prepared.device,
        batching=data.batching,
        tokenizer=data.tokenizer,
        run_folder=run_folder,
        checkpoints=checkpoints,
        loggers=build_loggers(prepared, run_folder, progress.step),
        ranks=ranks,
        stop=stop,
    )


def _info(
    prepared: Prepared, previous: ResumePoint | None, run_folder: RunFolder, plugins: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the entries of `run.json` that are known before the first step."""
    config = prepared.config
    info = {
        "group": config.group,
        "seed": config.seed,
        "tags": list(config.tags),
        "model": config.model.name,
        "total_steps": prepared.plan.total_steps,
        "parameters": asdict(prepared.parameters),
        "flops_per_token": prepared.model.flops_per_token(config.data.max_length),
        **prepared.findings.facts,
        "machine": prepared.findings.reasons,
        "plugins": {name: plugin["version"] for name, plugin in plugins.items()},
    }
    if previous is not None and previous.run is not None:
        info["bigram_bits_per_byte"] = previous.run.info.get("bigram_bits_per_byte")
    if previous is not None and previous.run_name != run_folder.folder.name:
        info["forked_from"] = {"run": previous.run_name, "step": previous.state["step"]}
    return info


def _entries(prepared: Prepared) -> list[Entry]:
    """Return the components that the run uses."""
    config, data, training = prepared.config, prepared.config.data, prepared.config.training
    chosen = [
        ("dataset", data.dataset),
        ("tokenizer", data.tokenizer),
        ("batching", Choice(prepared.data.batching_name)),
        ("model", config.model),
        ("optimizer", training.optimizer),
        ("scheduler", training.lr_decay),
        *(("wrapper", choice) for choice in prepared.wrappers),
        *(("logger", choice) for choice in prepared.loggers),
    ]
    return [get_registry().find(kind, choice.name) for kind, choice in chosen if not is_local_model(choice.name)]


def build_loggers(prepared: Prepared, run_folder: RunFolder, start_step: int) -> Loggers:
    """Return the loggers, in the order of the configuration. One that cannot be built is left out, with a warning."""
    config, findings = prepared.config, prepared.findings
    loggers = Loggers((), findings.warn)
    context = RunContext(
        folder=run_folder.folder,
        name=run_folder.folder.name,
        config=resolved(config),
        info=run_folder.info,
        total_steps=prepared.plan.total_steps,
        start_step=start_step,
        tokens=prepared.data.tokens.folder,
        tokenizer=prepared.data.tokenizer,
        tell=loggers.tell,
        record=run_folder.write_info,
    )
    for choice in prepared.loggers:
        try:
            logger: RunLogger = get_registry().find("logger", choice.name).build(choice.options, run=context)
        except TfsError as error:
            findings.warn(f"the logger '{choice.name}' is left out: {error}")
        else:
            loggers.add(logger)
    return loggers


@contextmanager
def _logged(
    trainer: Trainer, previous: ResumePoint | None, changed: Mapping[str, Any], prepared: Prepared
) -> Iterator[None]:
    """Log the start and the end of a run: finished, stopped by a signal, or failed (context manager)."""
    trainer.loggers.on_start()
    details = {}
    try:
        if previous is None:
            trainer.tell("started")
        else:
            trainer.tell("resumed", checkpoint=previous.checkpoint.name, **({"changed": changed} if changed else {}))
        prepared.findings.connect(
            trainer.run_folder,
            lambda message: trainer.tell("warning", message=message),
            are_shown=any(choice.name.rpartition("/")[2] == "console" for choice in prepared.loggers),
        )
        if previous is not None:
            _report_resume(trainer, previous, prepared.findings)
        yield
        status = "finished" if trainer.is_complete() else "stopped"
    except BaseException as error:
        status = "failed" if isinstance(error, Exception) else "stopped"
        details = {"message": str(error) or type(error).__name__}
        raise
    finally:
        try:
            trainer.tell(status, **details)
        finally:
            trainer.loggers.on_end(status)


def _report_resume(trainer: Trainer, previous: ResumePoint, findings: Findings) -> None:
    findings.report(f"the run '{previous.run_name}' continues from step {previous.state['step']}")
    before, now = previous.run and previous.run.info.get("total_steps"), trainer.plan.total_steps
    if before not in (None, now):
        findings.report(f"the run now has {now} steps, not {before}: from here on it follows the schedule of {now}")
    for problem in previous.damaged:
        findings.warn(f"a newer checkpoint is damaged, and was moved to aside/: {problem}")
    for change in code_differences(previous.state, trainer.checkpoints.run_state()):
        findings.warn(f"{change} since the checkpoint: further steps may not be those of an uninterrupted run")
    if other := machine_differences(previous.state, findings.facts):
        findings.warn(f"the last bits may differ from those of an uninterrupted run: {'; '.join(other)}")


class _RunModule(ModuleType):
    """Makes the module callable: `tfs_core.run` is both this module and its function `run`."""

    __call__ = staticmethod(run)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the module by name, as a function is pickled: the other process imports it."""
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _RunModule
