"""What a configuration chose, built: model, optimizer, schedule, loggers, each by its factory from the registry."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from tfs_core.config import check_together, load_local_model
from tfs_core.config.schema import Choice, RunConfig, TrainingConfig, is_local_model
from tfs_core.contracts import LanguageModel, RunContext, RunLogger, Schedule
from tfs_core.errors import ConfigError, PluginError, TfsError
from tfs_core.models import parameter_dtype
from tfs_core.plugins import blaming
from tfs_core.registry import get_registry


def with_local_model(config: RunConfig, *, allowed: bool) -> RunConfig:
    """Return the configuration; a model in a file is imported, and its options are checked and completed.

    Raises ConfigError when there is such a model and nobody allowed it: nothing is imported because a run folder or a
    checkpoint names it.
    """
    if not is_local_model(config.model.name):
        return config
    if not allowed:
        raise ConfigError(
            f"the model is code in the file {config.model.name}, and a run folder's or checkpoint's word is not enough "
            "to run it: add --allow-local-code if you trust the file"
        )
    _, options = load_local_model(config.model)
    complete = dataclasses.replace(config, model=Choice(config.model.name, options))
    check_together(complete)
    return complete


def build_model(choice: Choice, *, vocab_size: int, seed: int, device: str = "cpu") -> LanguageModel:
    """Return the model with its initial weights, on the device, in training mode.

    The weights are drawn on the CPU from a generator of their own.
    """
    generator = torch.Generator().manual_seed(seed)
    model: LanguageModel
    if is_local_model(choice.name):
        factory, options = load_local_model(choice)
        with blaming(f"the model {choice.name} cannot be built"):
            model = factory(options, vocab_size=vocab_size, generator=generator)
    else:
        model = (
            get_registry().find("model", choice.name).build(choice.options, vocab_size=vocab_size, generator=generator)
        )
    model.to(device=device, dtype=parameter_dtype(model.config))
    model.train()
    return model


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


def build_schedule(config: TrainingConfig, *, total_steps: int, warmup_steps: int) -> Schedule:
    """Return the learning rate as a function of the step.

    It raises PluginError, naming the component, for a rate that is none.
    """
    entry = get_registry().find("scheduler", config.lr_decay.name)
    floor = config.min_learning_rate
    schedule: Schedule = entry.build(
        config.lr_decay.options,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
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


def build_loggers(config: RunConfig, run: RunContext) -> tuple[list[RunLogger], list[str]]:
    """Return the loggers in the order that the configuration names them, and what to say of those that fail."""
    loggers: list[RunLogger] = []
    failures: list[str] = []
    for choice in config.loggers:
        try:
            loggers.append(get_registry().find("logger", choice.name).build(choice.options, run=run))
        except TfsError as error:
            failures.append(f"the logger '{choice.name}' is left out: {error}")
    return loggers, failures


def plugin_versions(config: RunConfig) -> Mapping[str, str]:
    """Return the distributions that the run uses, with their versions."""
    chosen: list[tuple[str, Any]] = [
        ("dataset", config.data.dataset),
        ("tokenizer", config.data.tokenizer),
        ("model", config.model),
        ("optimizer", config.training.optimizer),
        ("scheduler", config.training.lr_decay),
        *(("logger", choice) for choice in config.loggers),
    ]
    entries = [get_registry().find(kind, choice.name) for kind, choice in chosen if not is_local_model(choice.name)]
    return {entry.distribution: entry.version for entry in sorted(entries, key=lambda entry: entry.distribution)}
