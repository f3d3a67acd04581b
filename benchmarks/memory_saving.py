"""Memory and time of a training step with the two memory-saving settings, against the same step without them.

    python benchmarks/memory_saving.py            memory (one process per variant) and time (one process, alternating)
    python benchmarks/memory_saving.py --quick    fewer steps

    loss in chunks              `runtime.loss_chunk: auto`: the logits of GPT-2's vocabulary, 50,257 tokens, are never
                                in memory all at the same time
    activation checkpointing    `runtime.activation_checkpointing: true`: activations of the blocks are recomputed in
                                the backward pass

Peak memory is the peak of the process, minus the peak after the model was built. Compare the ratios.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from objective import objective_of
from tfs_speed.kernels import keep_freed_memory

from tfs_core.config import config_from_mapping
from tfs_core.contracts import Batch
from tfs_core.models import Objective, batch_loss, build_model


@dataclass(frozen=True)
class Case:
    """A model, a batch, and the setting that saves memory."""

    model: dict[str, Any]
    vocab_size: int
    batch_size: int
    plain: dict[str, Any]
    saving: dict[str, Any]


CASES = {
    "loss in pieces": Case(
        model={"name": "torch", "d_model": 64, "n_heads": 2, "n_blocks": 2, "max_seq_len": 256},
        vocab_size=50_257,
        batch_size=8,
        plain={"loss_chunk": None},
        saving={"loss_chunk": "auto"},
    ),
    "blocks again": Case(
        model={"name": "torch", "d_model": 128, "n_heads": 4, "n_blocks": 12, "max_seq_len": 256},
        vocab_size=512,
        batch_size=8,
        plain={},
        saving={"activation_checkpointing": True},
    ),
}


def build(case: Case, side: str) -> Objective:
    """Return the loss module of a variant, `plain` or `saving`."""
    config = config_from_mapping(
        {
            "experiment_name": "memory",
            "data": {"dataset": "python-stdlib", "tokenizer": "byte", "max_length": case.model["max_seq_len"]},
            "model": case.model,
            "training": {"max_steps": 1},
            "runtime": {"matmul": "highest", **getattr(case, side)},
        }
    )
    model = build_model(config.model, vocab_size=case.vocab_size, seed=1337)
    return objective_of(model, config, batch(case))


def batch(case: Case) -> Batch:
    """Return a batch [batch_size, seq_len] of random ids. Time and memory do not depend on the values."""
    shape = (2, case.batch_size, case.model["max_seq_len"])
    input_ids, target_ids = torch.randint(case.vocab_size, shape, generator=torch.Generator().manual_seed(1))
    return Batch(input_ids, target_ids, target_ids.numel())


def step(objective: Objective, batch: Batch) -> float:
    """Compute loss and gradients, and return the elapsed seconds."""
    started_at = time.perf_counter()
    batch_loss(objective.model, batch, "cpu", objective)
    objective.backward(1.0 / batch.valid_targets)
    return time.perf_counter() - started_at


def peak_mebibytes() -> float:
    """Return the peak memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss includes the peak of the parent process
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource  # missing on Windows, where only the time is measured

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory_here(case: Case, side: str) -> float:
    """Return the peak memory of two steps in MiB, minus the peak after the model was built."""
    objective = build(case, side)
    built = peak_mebibytes()
    for _ in range(2):
        step(objective, batch(case))
    return peak_mebibytes() - built


def memory(name: str, side: str) -> float:
    """Return the same, measured in a new process."""
    command = [sys.executable, __file__, "--memory-of", name, side]
    return float(subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout)


def times(case: Case, rounds: int) -> tuple[float, float]:
    """Return the seconds of a step of both variants: the fastest of `rounds` alternating steps."""
    keep_freed_memory()  # as a run does
    sides = build(case, "plain"), build(case, "saving")
    seconds = [[step(objective, batch(case)) for objective in sides] for _ in range(rounds + 1)][1:]
    plain, saving = (min(side) for side in zip(*seconds, strict=True))
    return plain, saving


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds instead of ten")
    parser.add_argument("--memory-of", nargs=2, metavar=("CASE", "SIDE"), help="measure one variant in this process")
    arguments = parser.parse_args()
    if arguments.memory_of:
        name, side = arguments.memory_of
        print(memory_here(CASES[name], side))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32; forward and backward")
    for name, case in CASES.items():
        sizes = ", ".join(f"{key} {value}" for key, value in case.model.items() if key != "name")
        print(f"{name}: {sizes}, batch {case.batch_size}, vocabulary {case.vocab_size:,}")
        if sys.platform != "win32":
            plain, saving = memory(name, "plain"), memory(name, "saving")
            print(f"  peak memory  {plain:>8,.0f} MiB  -> {saving:>8,.0f} MiB  {saving / plain:.2f} of it")
        plain, saving = times(case, 3 if arguments.quick else 10)
        print(f"  time         {1e3 * plain:>8,.0f} ms   -> {1e3 * saving:>8,.0f} ms   {saving / plain:.2f} times")


if __name__ == "__main__":
    main()
