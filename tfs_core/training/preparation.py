"""From a configuration to everything that training needs, made in the order in which each needs the one before."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tfs_core.config.schema import DataConfig, RunConfig
from tfs_core.contracts import LanguageModel, SupportsStreaming, Tokenizer
from tfs_core.data.batches import Batch, Batches
from tfs_core.data.documents import TrainingText
from tfs_core.data.network import is_offline_by_choice
from tfs_core.data.prepare import PreparedData, build_source, build_tokenizer, prepare_tokens
from tfs_core.data.store import TokenSplit
from tfs_core.data.stream_batches import TrainingBatches
from tfs_core.errors import ConfigError
from tfs_core.models import parameter_dtype
from tfs_core.training.batch_loss import batch_loss
from tfs_core.training.capabilities import check_document_masks, save_memory
from tfs_core.training.compilation import Compilation
from tfs_core.training.components import build_model
from tfs_core.training.compute import ParameterCounts, parameter_counts
from tfs_core.training.machine import Machine, apply_machine, choose_machine
from tfs_core.training.memory import enough_memory
from tfs_core.training.mirror import check_mirror
from tfs_core.training.plan import Plan, plan_run
from tfs_core.training.random_state import random_state_kept
from tfs_core.training.resume import Origin, check_fingerprints
from tfs_core.training.streaming import check_for_stream, pin_version, stream_batches

TIMED_FLOPS = 2e10
"""The size of the training step on which kernels are timed, where a row is not larger: enough to tell them apart."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """What a run needs, ready; the machine's settings are in force."""

    config: RunConfig
    tokenizer: Tokenizer
    data: PreparedData
    fingerprints: dict[str, str]
    batches: TrainingBatches
    trial_batches: Batches  # to try things on: the same, or of a stream those of its beginning
    plan: Plan
    model: LanguageModel
    parameters: ParameterCounts
    machine: Machine
    compilation: Compilation


@enough_memory("preparing the run")
def prepare(config: RunConfig, *, assets: Path, origin: Origin | None, report: Report) -> Prepared:
    """Return everything that a run needs; `origin` is the checkpoint that it goes on from.

    Raises TfsErrors for all that a user can cause, among them data or a tokenizer that are no longer those of
    `origin`, noticed before they are read through.
    """
    data_config = config.data

    def compare(**fingerprints: str) -> dict[str, str]:
        if origin is not None:
            check_fingerprints(origin, fingerprints)
        return fingerprints

    source = build_source(data_config.dataset, assets=assets, offline=is_offline_by_choice())
    if "validation" in source.splits() and data_config.validation_fraction != DataConfig.validation_fraction:
        raise ConfigError(
            f"data.validation_fraction has no effect: the data set '{data_config.dataset.name}' has a validation split "
            "of its own. Leave it out."
        )
    check_for_stream(config, source)
    config = pin_version(config, source)
    fingerprints = compare(source=source.fingerprint())
    text = TrainingText(source, data_config.subset_size, data_config.validation_fraction)
    tokenizer = build_tokenizer(data_config.tokenizer, assets=assets, offline=is_offline_by_choice(), documents=text)
    fingerprints |= compare(tokenizer=tokenizer.fingerprint())
    data = prepare_tokens(
        source,
        tokenizer,
        assets=assets,
        subset_size=data_config.subset_size,
        val_subset_size=data_config.val_subset_size,
        validation_fraction=data_config.validation_fraction,
        progress=report,
    )
    fingerprints |= compare(tokens=data.folder.name)
    trial_batches = store_batches(config, data.train, tokenizer)
    streams = isinstance(source, SupportsStreaming)
    batches = stream_batches(config, source, tokenizer, data) if streams else trial_batches

    model = build_model(config.model, vocab_size=tokenizer.vocab_size, seed=config.seed)
    if origin is not None:
        check_mirror(origin.config.model, config.model, model)
    check_document_masks(model, config)
    save_memory(model, config)
    compilation = Compilation(model, config, origin, report)
    first_batch = trial_batches.step(0)[0]
    machine = choose_machine(
        config.runtime,
        origin.state["machine"] if origin is not None else None,
        training_step=lambda: _try_step(model, first_batch, whole=compilation.in_force),
    )
    apply_machine(machine)
    model.to(device=machine.device, dtype=parameter_dtype(model.config))
    compilation.try_out(first_batch, machine.device)
    return Prepared(
        config=config,
        tokenizer=tokenizer,
        data=data,
        fingerprints=fingerprints,
        batches=batches,
        trial_batches=trial_batches,
        plan=plan_run(config.training, batches),
        model=model,
        parameters=parameter_counts(model),
        machine=replace(machine, compiled=compilation.in_force, how={**machine.how, **compilation.how}),
        compilation=compilation,
    )


def store_batches(config: RunConfig, split: TokenSplit, tokenizer: Tokenizer) -> Batches:
    """Return the batches that a configuration cuts from a split of a token store."""
    return Batches(
        split,
        batching=config.data.batching,
        max_length=config.data.max_length,
        batch_size=config.training.batch_size,
        accumulation=config.training.gradient_accumulation_steps,
        seed=config.seed,
        end_of_text_id=tokenizer.end_of_text_id,
        document_masks=config.data.document_masks,
    )


def _try_step(model: LanguageModel, batch: Batch, *, whole: bool) -> None:
    """Run forward and backward on a part of a batch, on the CPU, and leave nothing behind.

    On the whole of it where the loss is compiled: that is compiled for one shape.
    """
    seq_len = batch.input_ids.shape[1]
    if not whole:
        rows = max(1, int(TIMED_FLOPS / (1 + seq_len * model.flops_per_token(seq_len))))
        parts: dict[str, Any] = {name: it[:rows] for name, it in vars(batch).items() if isinstance(it, Tensor)}
        batch = replace(batch, **parts)
    with random_state_kept():
        batch_loss(model, batch, "cpu")
        model.backward(1.0)
    for _, parameter in model.named_parameters():
        parameter.grad = None
