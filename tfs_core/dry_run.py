"""Dry run: one training step without saving anything, and an estimate of the cost of the full run."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tfs_core.errors import TrainingError
from tfs_core.machine import as_out_of_memory_error
from tfs_core.models import ParameterCounts, batch_loss
from tfs_core.random_state import preserved_random_state
from tfs_core.run import Prepared


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """The size, length and memory of a run, estimated by `try_run`."""

    parameters: ParameterCounts
    vocab_size: int
    train_tokens: int
    """Training tokens in the token store. The store of a stream has only its beginning."""
    validation_tokens: int
    tokens_folder: Path
    machine: Mapping[str, Any]
    """Device, threads, matmul precision, and facts that wrappers recorded."""
    total_steps: int
    warmup_steps: int
    tokens: int
    """Valid targets in all steps, estimated from the average row."""
    epochs: float | None
    """Epochs in all steps; None for a stream, whose length is unknown."""
    flops: float
    """Floating-point operations of all steps, with every row counted as `max_length` tokens long."""
    first_loss: float
    """Nats per valid target on the first batch before any update: near ln(vocab_size) for a well initialized model."""
    state_bytes: int
    """Bytes of weights, gradients and optimizer state."""
    peak_bytes: int | None
    """Peak memory in bytes, of the device on CUDA and MPS, else of the process; None where it cannot be measured."""


@as_out_of_memory_error("a training step")
def try_run(prepared: Prepared) -> DryRun:
    """Run forward, backward and an update on the first batch, and return the estimate. Nothing is saved.

    The update changes the model and the optimizer of `prepared`; the global random states are restored. Raises
    TrainingError when the first loss is not finite or memory runs out.
    """
    config, model, data, plan, device = prepared.config, prepared.model, prepared.data, prepared.plan, prepared.device
    batching = data.batching
    batch = batching.trial()
    with preserved_random_state():
        loss = float(batch_loss(model, batch, device, prepared.objective)) / batch.valid_targets
        if not math.isfinite(loss):
            raise TrainingError(f"the loss of the first batch is {loss}: something is wrong with the model's weights")
        prepared.objective.backward(1.0 / batch.valid_targets)
        prepared.optimizer.step()
    parameters = [parameter for _, parameter in model.named_parameters()]
    held = [*parameters, *(parameter.grad for parameter in parameters if parameter.grad is not None)]
    held += [
        value
        for state in prepared.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    rows = plan.total_steps * batching.rows_per_step
    max_length = config.data.max_length
    return DryRun(
        parameters=prepared.parameters,
        vocab_size=data.tokenizer.vocab_size,
        train_tokens=data.tokens.train.n_tokens,
        validation_tokens=data.tokens.validation.n_tokens,
        tokens_folder=data.tokens.folder,
        machine=prepared.findings.facts,
        total_steps=plan.total_steps,
        warmup_steps=plan.warmup_steps,
        tokens=round(rows * batching.valid_targets_per_row),
        epochs=batching.epochs(plan.total_steps),
        flops=rows * max_length * model.flops_per_token(max_length),
        first_loss=loss,
        state_bytes=sum(tensor.numel() * tensor.element_size() for tensor in held),
        peak_bytes=_peak_bytes(device),
    )


def _peak_bytes(device: str) -> int | None:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if device == "mps":
        return int(torch.mps.driver_allocated_memory())
    if sys.platform == "win32":
        return None
    import resource  # exists on Unix only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
