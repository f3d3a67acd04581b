"""A run from its configuration to its end, in one file: what `tfs run` does, and `tfs_core.run`.

`run` is the flow, top to bottom; what it calls follows in the same order.

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

from tfs_core.checkpoint import CheckpointKeeper, read_config
from tfs_core.config import config_from_mapping, load_config, resolved, to_yaml
from tfs_core.config.implied import check_implied
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
from tfs_core.data.network import is_offline_by_choice
from tfs_core.data.prepare import build_source, build_tokenizer, prepare_tokens
from tfs_core.data.store import TokenStore
from tfs_core.durable import write_durably
from tfs_core.errors import ConfigError, PluginError, StoppedBySignalError, TfsError, TrainingError, UsageError
from tfs_core.findings import Findings
from tfs_core.loggers import Loggers
from tfs_core.machine import apply_machine, choose_machine, enough_memory
from tfs_core.models import (
    LossModule,
    Objective,
    ParameterCounts,
    build_model,
    check_document_masks,
    parameter_counts,
    parameter_dtype,
)
from tfs_core.plugins import blaming
from tfs_core.random_state import restore_random_state, set_seed
from tfs_core.ranks import OneRank
from tfs_core.registry import Entry, get_registry
from tfs_core.resume import (
    Origin,
    check_config,
    check_fingerprints,
    differences_of_machine,
    find_origin,
    go_back_to,
    versions_now,
)
from tfs_core.run_folder import RunFolder
from tfs_core.runs import Run, assets_folder, find_run
from tfs_core.stop_signal import StopSignal
from tfs_core.trained import check_mirror, with_model
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
    report: Report = _log.info,
) -> Run:
    """Train what a configuration says, and return the finished run.

    `config` is a YAML file, a mapping or a RunConfig; `overrides` ("training.batch_size=64") and `model` change it as
    `--set` and `--model` do. `resume` goes on with a run (its name or folder) or one of its checkpoints, True with the
    last run of the configuration's experiment_name; without a `config` the run's own is taken, and with `name` a new
    run begins where the checkpoint stands. `report` is told, in sentences, what happens before the first step.

    Raises TfsErrors for what a user can cause, StoppedBySignalError when Ctrl-C or SIGTERM ended it in good order.
    """
    # 1. The configuration, and the checkpoint to go on from (`origin`), if any.
    root = assets_folder(assets)
    config, origin = configure(
        config, overrides=overrides, model=model, assets=root, resume=resume, allow_local_code=allow_local_code
    )
    is_fork = origin is not None and name is not None
    changed = {} if origin is None else check_config(origin, config, is_fork=is_fork)
    if origin is not None and origin.run is None and not is_fork:
        raise UsageError(f"{origin.checkpoint} is in no run folder: begin a new run from it with --name")

    # 2. Data, model, optimizer: everything that can be made before there is a run folder.
    prepared = prepare(config, assets=root, origin=origin, report=report)
    if origin is not None and (nothing_left := _why_complete(origin, prepared)):
        if is_fork or origin.run is None:
            raise UsageError(nothing_left)
        report(nothing_left)
        if origin.run.status == "finished":  # else it was killed just before it could say so
            return origin.run

    # 3. The run folder, locked while it trains.
    with _as_training_error():
        if origin is None or origin.run is None or is_fork:
            run_folder = RunFolder.create(root, name, prepared.config.experiment_name)
        else:
            run_folder = RunFolder.open(origin.run.folder)
    with StopSignal() as stop, run_folder:
        with _as_training_error():
            if origin is not None and not is_fork:
                go_back_to(origin, run_folder, keep=prepared.config.training.keep_checkpoints)
            trainer = build_trainer(prepared, origin, run_folder, stop)

        # 4. Training.
        step, state = trainer.progress.step, None if origin is None else origin.state
        with (
            _logged(trainer, origin, changed, prepared.findings),
            enough_memory("a training step"),
            prepared.data.batching.open(run_folder.folder, step=step, state=state, report=report),
        ):
            if origin is not None:
                restore_random_state(origin.state["random_state"])  # last: nothing may draw after it
            status = trainer.train()
        run_folder.end(status, summary=trainer.summary())

    ended = find_run(str(run_folder.folder), root)
    if status == "stopped":
        raise StoppedBySignalError(
            f"stopped by {signal.Signals(stop.received or signal.SIGTERM).name} at step "
            f"{ended.info['summary']['last_step']}, and saved. Go on with: tfs run --resume {ended.name}",
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
) -> tuple[RunConfig, Origin | None]:
    """Return the configuration of a run, and the checkpoint that it goes on from, if any."""
    given = None if config is None else _read_config(config, overrides=overrides, model=model)
    if resume is False:
        if given is None:
            raise UsageError("give a configuration, --config FILE, or a run to go on with, --resume RUN")
        return with_local_model(given, allowed=True), None
    origin = find_origin(
        None if resume is True else resume, experiment_name=given.experiment_name if given else None, assets=assets
    )
    if given is None:
        given = read_config(origin.checkpoint, overrides=overrides)
        if model is not None:
            given = with_model(given, model)
    else:
        allow_local_code = True
    given = with_local_model(given, allowed=allow_local_code)
    if given.model.name == origin.config.model.name:
        origin = dataclasses.replace(origin, config=with_local_model(origin.config, allowed=allow_local_code))
    return given, origin


def _read_config(config: ConfigLike, *, overrides: Sequence[str], model: str | None) -> RunConfig:
    if isinstance(config, str | Path):
        return load_config(Path(config), overrides=overrides, model=model)
    if isinstance(config, RunConfig):
        config = resolved(config)  # made in Python, it may hold what no check has seen
    return config_from_mapping(config, overrides=overrides, model=model)


# 2. What a run needs


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run needs, ready; the machine's settings are in force."""

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


@enough_memory("preparing the run")
def prepare(config: RunConfig, *, assets: Path, origin: Origin | None, report: Report) -> Prepared:
    """Return everything that a run needs; `origin` is the checkpoint that it goes on from.

    Raises TfsErrors for all that a user can cause, among them data or a tokenizer that are no longer those of
    `origin`, noticed before they are read through.
    """
    check_implied(config)
    wrapper_names, loggers = wrapper_choices(config), logger_choices(config)
    wrappers = build_wrappers(wrapper_names)
    ranks = OneRank()
    data = prepare_data(config, assets=assets, origin=origin, ranks=ranks, report=report)
    plan = plan_run(config.training, data.batching)

    model = build_model(config.model, vocab_size=data.tokenizer.vocab_size, seed=config.seed)
    if origin is not None:
        check_mirror(origin.config.model, config.model, model)
    if config.data.document_masks:
        check_document_masks(model, config.model.name)
    loss = LossModule(model, loss_chunk=config.runtime.loss_chunk)
    if isinstance(loss.loss_chunk, int) and not loss.has_chunks:
        raise ConfigError(
            f"runtime.loss_chunk: the model '{config.model.name}' makes its logits in one step, so all of them exist "
            "at once. Leave it out, or take a model with `features` and `unembed`."
        )

    recorded = dict(origin.state["machine"]) if origin is not None else {}
    if origin is not None and not origin.config.runtime.compile:
        recorded.pop("compiled", None)  # False because nobody asked, not because it failed
    machine = choose_machine(config.runtime, recorded)
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
    """Return the loggers of a run: those of `loggers`, one for samples where there are prompts, and a yardstick."""
    choices, chosen = [*config.loggers], {choice.name.rpartition("/")[2] for choice in config.loggers}
    if "bigram" not in chosen and get_registry().has("logger", "bigram"):
        choices.insert(0, Choice("bigram"))  # the others show what it computes
    if "samples" not in chosen and config.samples.prompts:
        choices.append(Choice("samples", config.samples))
    return choices


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run reads, ready."""

    config: RunConfig
    """The configuration, its data set pinned to the version of the text that is read."""

    tokenizer: Tokenizer
    tokens: TokenStore
    batching: Batching
    batching_name: str
    fingerprints: dict[str, str]


def prepare_data(
    config: RunConfig, *, assets: Path, origin: Origin | None = None, ranks: Ranks, report: Report
) -> RunData:
    """Return what a run reads. Raises TrainingError when it is no longer what `origin` was trained on."""
    data, offline = config.data, is_offline_by_choice()
    source = build_source(data.dataset, assets=assets, offline=offline)
    if "validation" in source.splits() and data.validation_fraction != DataConfig.validation_fraction:
        raise ConfigError(
            f"data.validation_fraction has no effect: the data set '{data.dataset.name}' has a validation split "
            "of its own. Leave it out."
        )
    entry, settings = _batching_entry(config, source), _batch_settings(config)
    if check := getattr(entry.load_factory(), "check", None):  # before any text is read
        with blaming(f"{entry} cannot check its settings"):
            check(settings, source=source)
    if isinstance(source, SupportsStreaming):  # recorded so that a resume reads the same version of the text
        data = dataclasses.replace(data, dataset=Choice(data.dataset.name, source.pinned_options()))
    fingerprints = check_fingerprints(origin, source=source.fingerprint())

    text = TrainingText(source, data.subset_size, data.validation_fraction)
    tokenizer = build_tokenizer(data.tokenizer, assets=assets, offline=offline, documents=text)
    fingerprints |= check_fingerprints(origin, tokenizer=tokenizer.fingerprint())
    tokens = prepare_tokens(
        source,
        tokenizer,
        assets=assets,
        subset_size=data.subset_size,
        val_subset_size=data.val_subset_size,
        validation_fraction=data.validation_fraction,
        progress=report,
    )
    fingerprints |= check_fingerprints(origin, tokens=tokens.folder.name)
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
        raise PluginError(f"{entry}: it made {batching!r:.80}, which lacks something of a `Batching` (contracts.py)")
    return RunData(
        config=dataclasses.replace(config, data=data),
        tokenizer=tokenizer,
        tokens=tokens,
        batching=batching,
        batching_name=entry.qualified_name,
        fingerprints=fingerprints,
    )


def _batching_entry(config: RunConfig, source: DatasetSource) -> Entry:
    """Return the batching that the configuration names, or the one that a streaming data set needs."""
    name = config.data.batching.name
    if isinstance(source, SupportsStreaming):
        name = getattr(source, "batching", "streaming")
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
    """Return the plan of a run, which says in one way how long it is: the configuration has been checked.

    Raises ConfigError when the warm-up is longer than what epochs or tokens come to.
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
    """Return the optimizer of the model's parameters, at the highest learning rate."""
    entry = get_registry().find("optimizer", config.optimizer.name)
    optimizer = entry.build(
        config.optimizer.options,
        named_parameters=list(model.named_parameters()),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise PluginError(f"{entry}: it made {optimizer!r:.80}, which is no torch.optim.Optimizer")
    return optimizer


def build_schedule(config: TrainingConfig, plan: Plan) -> Schedule:
    """Return the learning rate as a function of the step.

    The function raises PluginError, naming the component, when the rate is not finite or is negative.
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
        with blaming(f"{entry} cannot tell the learning rate of step {step}"):
            rate = schedule(step)
        if not isinstance(rate, int | float) or not 0.0 <= rate < math.inf:
            raise PluginError(
                f"{entry}: the learning rate of step {step} is {rate!r:.80}; expected a finite number, 0 or more"
            )
        return rate

    return checked


def _why_complete(origin: Origin, prepared: Prepared) -> str | None:
    """Return what to say of a run that has nothing left to do; None when it has."""
    progress = Progress(**origin.state["progress"])
    training, plan = prepared.config.training, prepared.plan
    if not progress.is_complete(training, plan):
        return None
    if progress.step < plan.total_steps:
        return (
            f"the run '{origin.run_name}' stopped early, at step {progress.step}, after {training.early_stopping} "
            "validations without improvement. To train on, raise training.early_stopping with --set."
        )
    return (
        f"the run '{origin.run_name}' is finished: it has taken {progress.step} steps of {plan.total_steps}. "
        "To train on, give it more: --set training.max_steps=N (or num_epochs, or max_tokens)."
    )


# 3. The run folder


@contextmanager
def _as_training_error() -> Iterator[None]:
    """Say in a sentence that the run's folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise TrainingError(f"the run's folder cannot be written: {error}. Make room or change permissions.") from error


# 4. Training


def build_trainer(prepared: Prepared, origin: Origin | None, run_folder: RunFolder, stop: StopSignal) -> Trainer:
    """Return the trainer of a run, from its first step or where `origin` stands; the run folder says how it starts."""
    config, data, findings, ranks = prepared.config, prepared.data, prepared.findings, prepared.ranks
    set_seed(config.seed)
    progress = Progress()
    if origin is not None:
        ranks.load(origin.checkpoint, prepared.model, prepared.optimizer, origin.state)
        progress = Progress(**origin.state["progress"])

    config_yaml = to_yaml(config)
    write_durably(run_folder.folder / "config.yaml", config_yaml.encode())
    run_folder.write_info(**_info(prepared, origin, run_folder))
    checkpoints = CheckpointKeeper(
        run_folder.folder / "checkpoints",
        keep=config.training.keep_checkpoints,
        run_state=lambda: {
            "run": run_folder.folder.name,
            "fingerprints": data.fingerprints,
            "machine": findings.facts,
            "versions": versions_now(),
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


def _info(prepared: Prepared, origin: Origin | None, run_folder: RunFolder) -> dict[str, Any]:
    """Return what `run.json` says of the run as it starts."""
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
        "plugins": _plugin_versions(prepared),
    }
    if origin is not None and origin.run is not None:
        info["bigram_bits_per_byte"] = origin.run.info.get("bigram_bits_per_byte")
    if origin is not None and origin.run_name != run_folder.folder.name:
        info["forked_from"] = {"run": origin.run_name, "step": origin.state["step"]}
    return info


def _plugin_versions(prepared: Prepared) -> Mapping[str, str]:
    """Return the distributions that the run uses, with their versions."""
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
    entries = [get_registry().find(kind, choice.name) for kind, choice in chosen if not is_local_model(choice.name)]
    return {entry.distribution: entry.version for entry in sorted(entries, key=lambda entry: entry.distribution)}


def build_loggers(prepared: Prepared, run_folder: RunFolder, start_step: int) -> Loggers:
    """Return the loggers in the order that the configuration names them; one that fails is left out with a warning."""
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
def _logged(trainer: Trainer, origin: Origin | None, changed: Mapping[str, Any], findings: Findings) -> Iterator[None]:
    """Tell the loggers how the run starts and how it ends: finished, stopped by a signal, or failed."""
    trainer.loggers.on_start()
    details = {}
    try:
        if origin is None:
            trainer.tell("started")
        else:
            _tell_where_it_resumes(trainer, origin, changed, findings)
        findings.connect(trainer.run_folder, lambda message: trainer.tell("warning", message=message))
        yield
        status = "finished" if trainer.is_complete() else "stopped"
    except BaseException as error:
        status = "failed" if isinstance(error, Exception) else "stopped"
        details = {"message": str(error) or type(error).__name__}
        raise
    finally:
        trainer.tell(status, **details)
        trainer.loggers.on_end(status)


def _tell_where_it_resumes(trainer: Trainer, origin: Origin, changed: Mapping[str, Any], findings: Findings) -> None:
    trainer.tell("resumed", checkpoint=origin.checkpoint.name, **({"changed": changed} if changed else {}))
    before, now = origin.run and origin.run.info.get("total_steps"), trainer.plan.total_steps
    if before not in (None, now):
        findings.report(f"the run has {now} steps now, not {before}: from here on its schedule is that of {now} steps")
    for problem in origin.damaged:
        trainer.tell("warning", message=f"a newer checkpoint is passed over and put aside: {problem}")
    if other := differences_of_machine(origin.state, findings.facts):
        message = f"the last bits may differ from those of a run that was never stopped: {'; '.join(other)}"
        trainer.tell("warning", message=message)


class _RunModule(ModuleType):
    """`tfs_core.run` names this module and the function in it: calling the module calls the function."""

    __call__ = staticmethod(run)

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled by name, as a function is: another process imports it."""
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _RunModule
