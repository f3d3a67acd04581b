"""Choice of the device, the number of CPU threads, and the precision of float32 matrix products.

All three affect the last bits of every result. They are therefore chosen once per run, saved in run.json and every
checkpoint, and used again by resume and evaluation. Settings in the configuration take precedence over saved ones.
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

_TORCH_THREADS = torch.get_num_threads()  # PyTorch's default, before a run in this process changes it


@dataclass(frozen=True)
class Machine:
    """The device, threads and matmul precision of a run, and the origin of each choice."""

    device: str  # cpu, cuda or mps
    threads: int
    matmul: str  # argument of torch.set_float32_matmul_precision
    how: Mapping[str, Any]  # device, threads, matmul -> "configured", "recorded", "found", or a longer reason


def choose_machine(runtime: RuntimeConfig, recorded: Mapping[str, Any] | None = None) -> Machine:
    """Return the device, threads and matmul precision of a run. `apply_machine` applies them.

    `recorded` has the values `device`, `threads` and `matmul` of the checkpoint. Raises ConfigError when the configured
    device is not available.
    """
    recorded = recorded or {}
    device, device_from = _choose_device(runtime.device, recorded.get("device"))
    # The precisions have different meanings on different devices. After a change of device, use the default, the exact
    # one.
    old_matmul = recorded.get("matmul") if recorded.get("device", device) == device else None
    threads, threads_from = _choose(runtime.threads, recorded.get("threads"), available_threads())
    matmul, matmul_from = _choose(runtime.matmul, old_matmul, "highest")
    return Machine(device, threads, matmul, {"device": device_from, "threads": threads_from, "matmul": matmul_from})


def apply_machine(machine: Machine) -> None:
    """Apply the settings to this process. On CUDA, also select deterministic kernels where PyTorch has them."""
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
        return present[0], f"the recorded {recorded} is not available"
    return _choose(configured, recorded, present[0])


def available_threads() -> int:
    """Return the default number of threads: PyTorch's default, limited to the CPUs that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_TORCH_THREADS, allowed, _container_limit()))


def memory_bytes() -> int:
    """Return the memory that this process may use: that of the machine, or of its container; 2**60 if unknown."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            return min(installed, int(file.read()))
    except AttributeError:  # Windows
        return 1 << 60
    except (OSError, ValueError):  # no container, or "max": no limit
        return installed


def _container_limit(path: str = "/sys/fs/cgroup/cpu.max") -> int:
    """Return the CPU quota of a Linux container (cgroup v2) in CPUs, rounded up; 2**30 without a quota."""
    try:
        with open(path, encoding="ascii") as file:
            quota, period = file.read().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return 1 << 30


@contextmanager
def as_out_of_memory_error(doing: str) -> Iterator[None]:
    """Convert out-of-memory errors in the block to a TrainingError with advice. `doing` describes the block."""
    try:
        yield
    except (MemoryError, RuntimeError, PluginError) as error:
        cause = error.__cause__ if isinstance(error, PluginError) else error  # a PluginError hides the original error
        is_memory_error = isinstance(cause, MemoryError | torch.OutOfMemoryError)
        if not is_memory_error and "allocate memory" not in str(cause):  # message of PyTorch's CPU allocator
            raise
        raise TrainingError(
            f"{doing} needs more memory than is available. Halve training.batch_size and double "
            "training.gradient_accumulation_steps, which leaves the updates the same, or make the model smaller."
        ) from error
