"""The machine a run computes on: device, threads, and the precision that float32 matrix products are asked for.

All three decide the last bits of every result, so they are chosen once per run, written into run.json and every
checkpoint, and obeyed by resume and evaluation. What the configuration says comes before what was recorded.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tfs_core.config.schema import RuntimeConfig
from tfs_core.errors import ConfigError, PluginError, TrainingError

_TORCH_THREADS = torch.get_num_threads()  # its own choice, before any run of this process set another


@dataclass(frozen=True)
class Machine:
    """What a run computes on, and where each choice came from."""

    device: str  # cpu, cuda or mps
    threads: int
    matmul: str  # what torch.set_float32_matmul_precision is given
    how: Mapping[str, Any]


def choose_machine(runtime: RuntimeConfig, recorded: Mapping[str, Any] | None = None) -> Machine:
    """Return what to compute on; nothing of it is in force before `apply_machine`.

    `recorded` has `device`, `threads` and `matmul` of the run that goes on. Raises ConfigError when the configuration
    asks for a device that is not there.
    """
    recorded = recorded or {}
    device, device_from = _choose_device(runtime.device, recorded.get("device"))
    # The word for a precision means something else on another device: there the exact one is taken.
    old_matmul = recorded.get("matmul") if recorded.get("device", device) == device else None
    threads, threads_from = _choose(runtime.threads, recorded.get("threads"), available_threads())
    matmul, matmul_from = _choose(runtime.matmul, old_matmul, "highest")
    return Machine(device, threads, matmul, {"device": device_from, "threads": threads_from, "matmul": matmul_from})


def apply_machine(machine: Machine) -> None:
    """Put the choice in force for this process; on CUDA also deterministic kernels, where torch has them."""
    torch.set_num_threads(machine.threads)
    torch.set_float32_matmul_precision(machine.matmul)
    if machine.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
        torch.use_deterministic_algorithms(True, warn_only=True)


def _choose(configured: Any, recorded: Any, found: Any) -> tuple[Any, str]:
    if configured != "auto":
        return configured, "configured"
    return (found, "found") if recorded is None else (recorded, "recorded")


def _choose_device(configured: str, recorded: str | None) -> tuple[str, str]:
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present.insert(0, "cuda")
    if configured != "auto" and configured not in present:
        raise ConfigError(
            f"runtime.device is '{configured}', but this torch ({torch.__version__}) finds only: "
            f"{', '.join(present)}. Choose one of them, or 'auto'."
        )
    if configured == "auto" and recorded not in (None, *present):
        return present[0], f"the recorded {recorded} is not here"
    return _choose(configured, recorded, present[0])


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


@contextmanager
def enough_memory(doing: str) -> Iterator[None]:
    """Raise TrainingError, with what to do, when memory runs out inside; `doing` says what was being done."""
    try:
        yield
    except (MemoryError, RuntimeError, PluginError) as error:
        cause = error.__cause__ if isinstance(error, PluginError) else error  # it ran out while a plugin built a model
        is_ours = isinstance(cause, MemoryError | torch.OutOfMemoryError)
        if not is_ours and "allocate memory" not in str(cause):  # what PyTorch's CPU allocator says
            raise
        raise TrainingError(
            f"{doing} takes more memory than there is. Halve training.batch_size and double "
            "training.gradient_accumulation_steps, the updates stay the same; or make the model smaller."
        ) from error
