"""`runtime.matmul: auto`: the faster exact kernel of float32 matrix products, measured on this CPU.

On many CPUs `torch.set_float32_matmul_precision("medium")` selects oneDNN's product: twice as fast as the default and
as exact. On others the same word means rounding to bfloat16, and attention kernels that make many small products may
slow down under it. So both are measured: the error on products, the time on a training step.

A kernel decides the last bits of every result, so a run keeps the one that it began with.
"""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tfs_core.contracts import Batch, WrapContext
from tfs_core.models import Objective, batch_loss
from tfs_core.random_state import random_state_kept

EXACT = 2e-6
"""The largest relative error of a product that counts as float32: both kernels show 3e-7, bfloat16 shows 3e-3."""

CLEARLY_FASTER = 1.15
"""How many times faster `medium` must be to be chosen; where they are close it is always `highest`."""

NEARLY_EVERY = 0.8
"""The share of rounds in which it must be: other load on the machine may slow either kernel by chance."""

LEAST_ROUNDS, TIMED_SECONDS = 5, 0.5
"""The least number of rounds, and the seconds that all of them last at least, after a round to warm up."""

TIMED_FLOPS = 2e10
"""The size of the timed training step, unless a single row is larger: enough to tell the kernels apart."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class Kernels:
    """The wrapper `kernels`: it returns the loss as it is, and puts the chosen kernel in force for this process."""

    stage: Literal["tune"] = "tune"
    changes_weights = False

    def wrap(self, loss: nn.Module, *, context: WrapContext) -> nn.Module:
        """Return `loss`. On a CPU, freed memory is kept from now on (`keep_freed_memory`)."""

        def training_step() -> None:
            if context.trial_batch is None:
                _ = torch.ones(1024, 256) @ torch.ones(256, 1024)
            else:
                _training_step(loss, context.trial_batch, context)

        if context.device == "cpu":
            keep_freed_memory()
        # A kernel's name means something else on another device: there the exact one is taken.
        same_device = context.recorded.get("device", context.device) == context.device
        recorded = context.recorded.get("matmul") if same_device else "highest"
        with _precision_kept():
            matmul, measured = choose_matmul(recorded, context.device, training_step)
        torch.set_float32_matmul_precision(matmul)
        context.record(matmul=matmul, why=measured)
        return loss


def build(config: None) -> Kernels:  # noqa: ARG001 (it has no options)
    """Return the wrapper; it has no options."""
    return Kernels()


def choose_matmul(recorded: str | None, device: str, training_step: Callable[[], object]) -> tuple[str, dict[str, Any]]:
    """Return what torch.set_float32_matmul_precision is to be given, and why: JSON values for run.json.

    `recorded` is what the resumed run computed with; `training_step` is what the kernels are timed on. The precision
    in force is changed meanwhile.
    """
    if device != "cpu":
        return recorded or "highest", {"matmul": "recorded" if recorded else "fixed: faster ones round on this device"}
    if recorded == "highest":
        return recorded, {"matmul": "recorded"}
    errors = {kernel: _product_error(kernel) for kernel in ("highest", "medium")}
    measured: dict[str, Any] = {"relative_error": errors}
    if errors["medium"] > EXACT:
        reason = "the recorded medium rounds on this processor" if recorded else "measured: medium rounds"
        return "highest", {"matmul": reason, **measured}
    if recorded == "medium":
        return recorded, {"matmul": "recorded", **measured}
    speedups = _time_kernels(training_step)
    times_faster = sum(speedup >= CLEARLY_FASTER for speedup in speedups)
    measured |= {"speedup": statistics.median(speedups), "rounds": len(speedups), "rounds_clearly_faster": times_faster}
    faster = times_faster >= NEARLY_EVERY * len(speedups)
    reason = "measured: medium is exact and faster" if faster else "measured: medium is not clearly faster"
    return "medium" if faster else "highest", {"matmul": reason, **measured}


def keep_freed_memory() -> bool:
    """Have the C library keep the memory of freed tensors for the next ones, and return whether it does.

    Every step frees the memory that the next one allocates again. By default glibc returns large blocks to the system,
    which hands them out page by page, zeroed, at the next touch: a tenth of a step and more
    (`benchmarks/kept_memory.py`). Other C libraries have no such switch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(M_MMAP_THRESHOLD, 2**30))


def _training_step(loss: nn.Module, batch: Batch, context: WrapContext) -> None:
    """Run forward and backward on the first rows of a batch. No random state and no gradient changes."""
    model = context.model
    seq_len = batch.input_ids.shape[1]
    rows = max(1, int(TIMED_FLOPS / (1 + seq_len * model.flops_per_token(seq_len))))
    parts: dict[str, Any] = {name: it[:rows] for name, it in vars(batch).items() if isinstance(it, Tensor)}
    objective = Objective(model, loss)
    with random_state_kept():
        batch_loss(model, replace(batch, **parts), context.device, objective)
        objective.backward(1.0)
    for _, parameter in model.named_parameters():
        parameter.grad = None


def _product_error(kernel: str) -> float:
    """Return the largest relative error, against float64, of the kinds of products that training computes."""
    torch.set_float32_matmul_precision(kernel)
    generator = torch.Generator().manual_seed(0)  # its own: measuring must not move the run's random state
    largest = 0.0
    for left_shape, right_shape in [((256, 512), (512, 384)), ((16, 64, 32), (16, 32, 64))]:
        left = torch.randn(left_shape, generator=generator)
        right = torch.randn(right_shape, generator=generator)
        exact = left.double() @ right.double()
        # A backward pass multiplies transposed tensors: the same numbers, laid out the other way.
        for a, b in [(left, right), (left.mT.contiguous().mT, right), (left, right.mT.contiguous().mT)]:
            error = torch.linalg.vector_norm((a @ b).double() - exact) / torch.linalg.vector_norm(exact)
            largest = max(largest, float(error))
    return largest


def _time_kernels(step: Callable[[], object]) -> list[float]:
    """Return how many times faster a step is under `medium`, round by round.

    Within a round one follows the other, each as often first, so that other load on the machine slows both alike.
    """
    for kernel in ("highest", "medium"):  # to warm up
        _timed(step, kernel)
    speedups: list[float] = []
    started_at = time.perf_counter()
    while len(speedups) < LEAST_ROUNDS or time.perf_counter() - started_at < TIMED_SECONDS:
        order = ("highest", "medium") if len(speedups) % 2 == 0 else ("medium", "highest")
        seconds = {kernel: _timed(step, kernel) for kernel in order}
        speedups.append(seconds["highest"] / seconds["medium"])
    return speedups


def _timed(step: Callable[[], object], kernel: str) -> float:
    """Return the seconds that a step takes under a kernel."""
    torch.set_float32_matmul_precision(kernel)
    started_at = time.perf_counter()
    step()
    return time.perf_counter() - started_at


@contextmanager
def _precision_kept() -> Iterator[None]:
    kernel = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(kernel)
