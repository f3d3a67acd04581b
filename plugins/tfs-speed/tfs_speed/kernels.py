"""`runtime.matmul: auto`: the fastest kernel for exact float32 matrix products, measured on this CPU.

On many CPUs `torch.set_float32_matmul_precision("medium")` selects oneDNN's product: twice as fast as the default and
as exact. On others the same setting rounds to bfloat16, and attention kernels with many small products may be slower
under it. Therefore the error of products and the time of a training step are measured.

The kernel affects the last bits of every result, so a resumed run keeps the recorded one.
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
from tfs_core.random_state import preserved_random_state

EXACT = 2e-6
"""Maximum relative error of an exact float32 product. Exact kernels have 3e-7; rounding to bfloat16 gives 3e-3."""

CLEARLY_FASTER = 1.15
"""The speedup that `medium` must reach to be chosen; when the two are close, `highest` is always chosen."""

REQUIRED_FRACTION = 0.8
"""The fraction of rounds that must reach the speedup: other load on the machine may slow down either kernel."""

MIN_ROUNDS, TIMED_SECONDS = 5, 0.5
"""The minimum number of rounds and their minimum total time in seconds, after a warm-up round."""

TIMED_FLOPS = 2e10
"""Maximum FLOPs of the timed training step, unless one row needs more. Enough to distinguish the kernels."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class Kernels:
    """The wrapper `kernels`: sets the chosen kernel for this process, and returns the loss unchanged."""

    stage: Literal["tune"] = "tune"
    changes_weights = False

    def wrap(self, loss: nn.Module, *, context: WrapContext) -> nn.Module:
        """Set the matmul precision and return `loss` unchanged. On a CPU, also call `keep_freed_memory`."""

        def training_step() -> None:
            if context.trial_batch is None:
                _ = torch.ones(1024, 256) @ torch.ones(256, 1024)
            else:
                _training_step(loss, context.trial_batch, context)

        if context.device == "cpu":
            keep_freed_memory()
        # The names mean other kernels on another device: use the exact one there.
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
    """Return the argument for torch.set_float32_matmul_precision, and the reason with measurements (JSON for run.json).

    `recorded` is the setting of the run that is resumed, None for a new one; the kernels are timed on `training_step`.
    The current precision is not restored.
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
    faster = times_faster >= REQUIRED_FRACTION * len(speedups)
    reason = "measured: medium is exact and faster" if faster else "measured: medium is not clearly faster"
    return "medium" if faster else "highest", {"matmul": reason, **measured}


def keep_freed_memory() -> bool:
    """Configure glibc's malloc to keep freed memory for reuse; return True on success.

    Every step frees the memory that the next step allocates again. By default glibc returns large blocks to the system.
    The system then zeroes and maps every page at its next access, which takes a tenth of a step or more
    (`benchmarks/kept_memory.py`). Returns False for other C libraries, because they have no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(M_MMAP_THRESHOLD, 2**30))


def _training_step(loss: nn.Module, batch: Batch, context: WrapContext) -> None:
    """Run forward and backward on the first rows of a batch. Random states are restored, gradients reset to None."""
    model = context.model
    seq_len = batch.input_ids.shape[1]
    rows = max(1, int(TIMED_FLOPS / (1 + seq_len * model.flops_per_token(seq_len))))
    parts: dict[str, Any] = {name: it[:rows] for name, it in vars(batch).items() if isinstance(it, Tensor)}
    objective = Objective(model, loss)
    with preserved_random_state():
        batch_loss(model, replace(batch, **parts), context.device, objective)
        objective.backward(1.0)
    for _, parameter in model.named_parameters():
        parameter.grad = None


def _product_error(kernel: str) -> float:
    """Return the largest relative error, against float64, of the kinds of products that training computes."""
    torch.set_float32_matmul_precision(kernel)
    generator = torch.Generator().manual_seed(0)  # its own, so that measuring does not change the run's random state
    largest = 0.0
    for left_shape, right_shape in [((256, 512), (512, 384)), ((16, 64, 32), (16, 32, 64))]:
        left = torch.randn(left_shape, generator=generator)
        right = torch.randn(right_shape, generator=generator)
        exact = left.double() @ right.double()
        # A backward pass multiplies transposed tensors: the same values in another memory layout.
        for a, b in [(left, right), (left.mT.contiguous().mT, right), (left, right.mT.contiguous().mT)]:
            error = torch.linalg.vector_norm((a @ b).double() - exact) / torch.linalg.vector_norm(exact)
            largest = max(largest, float(error))
    return largest


def _time_kernels(step: Callable[[], object]) -> list[float]:
    """Return the speedup of a step under `medium` in each round.

    A round times both kernels in alternating order, so that other load on the machine affects both equally.
    """
    for kernel in ("highest", "medium"):  # warm-up
        _timed(step, kernel)
    speedups: list[float] = []
    started_at = time.perf_counter()
    while len(speedups) < MIN_ROUNDS or time.perf_counter() - started_at < TIMED_SECONDS:
        order = ("highest", "medium") if len(speedups) % 2 == 0 else ("medium", "highest")
        seconds = {kernel: _timed(step, kernel) for kernel in order}
        speedups.append(seconds["highest"] / seconds["medium"])
    return speedups


def _timed(step: Callable[[], object], kernel: str) -> float:
    """Return the time of a step under a kernel, in seconds."""
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
