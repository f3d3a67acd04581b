"""The machine a run computes on: device, threads, and the kernel of float32 matrix products.

All three decide the last bits of every result, so they are chosen once per run, written into run.json and every
checkpoint, and obeyed by resume, evaluation and other ranks. What the configuration says comes before what was
recorded, and that before what is measured.

On many CPUs `torch.set_float32_matmul_precision("medium")` selects oneDNN's product: twice as fast as the default and
just as exact. On others the same word means rounding to bfloat16, and attention kernels that make many small products
may slow down under it. So both are tried: the error on products, the time on a training step.
"""

import ctypes
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tfs_core.config.schema import RuntimeConfig
from tfs_core.errors import ConfigError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
EXACT = 2e-6
"""The largest relative error of a product that counts as float32: both kernels show 3e-7, bfloat16 shows 3e-3."""

CLEARLY_FASTER = 1.15
"""How many times faster `medium` must be to be chosen; where they are close it is always `highest`."""

NEARLY_EVERY = 0.8
"""The share of rounds in which it must be: a machine that is busy now and then slows either kernel by chance."""

LEAST_ROUNDS, TIMED_SECONDS = 5, 0.5
"""How often the kernels are compared at least, and for how long in all, after a round to warm up."""

_TORCH_THREADS = torch.get_num_threads()  # its own choice, before any run of this process set another


@dataclass(frozen=True)
class Machine:
    """What a run computes on."""

    device: str  # cpu, cuda or mps
    threads: int
    matmul: str  # what torch.set_float32_matmul_precision was given
    compiled: bool = False  # whether torch.compile computes the loss
    how: dict[str, Any] = field(default_factory=dict)  # why: where each came from, and what was measured


def choose_machine(
    runtime: RuntimeConfig,
    recorded: Mapping[str, Any] | None = None,
    *,
    training_step: Callable[[], object] | None = None,
) -> Machine:
    """Return what to compute on; nothing of it is in force before `apply_machine`.

    `recorded` has `device`, `threads` and `matmul` of the run that goes on. `training_step`, a forward and backward
    pass on the CPU that leaves nothing behind, is what the kernels are timed on; without it a product is.
    Raises ConfigError when the configuration asks for a device that is not there.
    """
    recorded = recorded or {}
    device, device_from = _choose_device(runtime.device, recorded.get("device"))
    threads, threads_from = _choose_threads(runtime.threads, recorded.get("threads"))
    how: dict[str, Any] = {"device": device_from, "threads": threads_from}
    with _settings_kept():
        torch.set_num_threads(threads)
        # A kernel's name means something else on another device: there the exact one is taken.
        kernel = recorded.get("matmul") if recorded.get("device", device) == device else "highest"
        matmul, measured = _choose_matmul(runtime.matmul, kernel, device, training_step)
    return Machine(device, threads, matmul, how={**how, **measured})


def apply_machine(machine: Machine) -> None:
    """Put the choice in force for this process; on CUDA also deterministic kernels, where torch has them."""
    torch.set_num_threads(machine.threads)
    torch.set_float32_matmul_precision(machine.matmul)
    if machine.device == "cpu":
        keep_freed_memory()
    if machine.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
        torch.use_deterministic_algorithms(True, warn_only=True)


def keep_freed_memory() -> bool:
    """Have the C library keep the memory of freed tensors for the next ones, and return whether it does.

    Every step frees what the next one asks for again. By default glibc gives large blocks back to the system, which
    hands them out page by page, zeroed, at the next touch: a tenth of a step and more (`benchmarks/kept_memory.py`).
    Other C libraries have no such switch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(M_MMAP_THRESHOLD, 2**30))


def _choose_device(configured: str, recorded: str | None) -> tuple[str, str]:
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present.insert(0, "cuda")
    if configured != "auto":
        if configured not in present:
            raise ConfigError(
                f"runtime.device is '{configured}', but this torch ({torch.__version__}) finds only: "
                f"{', '.join(present)}. Choose one of them, or 'auto'."
            )
        return configured, "configured"
    if recorded in present:
        return str(recorded), "recorded"
    return present[0], f"the recorded {recorded} is not here" if recorded else "found"


def _choose_threads(configured: int | str, recorded: int | None) -> tuple[int, str]:
    if configured != "auto":
        return int(configured), "configured"
    if recorded is not None:
        return recorded, "recorded"
    return available_threads(), "found"


def available_threads() -> int:
    """Return how many threads are worth having: torch's own choice, within what this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_TORCH_THREADS, allowed, _container_limit()))


def _container_limit(path: str = "/sys/fs/cgroup/cpu.max") -> int:
    """Return the processors that a Linux container may use, rounded up; without a limit a number past any."""
    try:
        with open(path, encoding="ascii") as file:
            quota, period = file.read().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return 1 << 30


def _choose_matmul(
    configured: str, recorded: str | None, device: str, training_step: Callable[[], object] | None
) -> tuple[str, dict[str, Any]]:
    if configured != "auto":
        return configured, {"matmul": "configured"}
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
    speedups = _time_kernels(training_step or _product)
    times_faster = sum(speedup >= CLEARLY_FASTER for speedup in speedups)
    measured |= {"speedup": statistics.median(speedups), "rounds": len(speedups), "rounds_clearly_faster": times_faster}
    faster = times_faster >= NEARLY_EVERY * len(speedups)
    reason = "measured: medium is exact and faster" if faster else "measured: medium is not clearly faster"
    return "medium" if faster else "highest", {"matmul": reason, **measured}


def _product_error(kernel: str) -> float:
    """Return the largest relative error, against float64, of the products that training is made of."""
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

    Within a round the two follow one another, each as often first, so that what else the machine does meets both.
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


def _product() -> object:
    return torch.ones(1024, 256) @ torch.ones(256, 1024)


@contextmanager
def _settings_kept() -> Iterator[None]:
    threads, kernel = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(kernel)
