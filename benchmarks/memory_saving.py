"""What does it cost to hold less in memory? A training step as it is, and with each of the two ways of saving.

    python benchmarks/memory_saving.py            memory (a process a side) and time (one process, the sides in turn)
    python benchmarks/memory_saving.py --quick    fewer steps

    loss in pieces    `runtime.loss_chunk: auto`: the logits of GPT-2's vocabulary, 50,257 tokens, never exist at once
    blocks again      `runtime.activation_checkpointing: true`: what blocks compute is computed again in backward

Each is held against the same step of the same model without it. Peak memory is what the process holds at most, over
what it held with the model just built; what counts is the ratio.
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
    """A model and a batch, as they are and with memory saved."""

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
    """Return the loss of the model of a side, `plain` or `saving`."""
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
    """Return a batch [batch_size, seq_len] of random ids, since neither time nor memory depends on them."""
    shape = (2, case.batch_size, case.model["max_seq_len"])
    input_ids, target_ids = torch.randint(case.vocab_size, shape, generator=torch.Generator().manual_seed(1))
    return Batch(input_ids, target_ids, target_ids.numel())


def step(objective: Objective, batch: Batch) -> float:
    """Compute loss and gradients, and return the seconds they took."""
    started_at = time.perf_counter()
    batch_loss(objective.model, batch, "cpu", objective)
    objective.backward(1.0 / batch.valid_targets)
    return time.perf_counter() - started_at


def peak_mebibytes() -> float:
    """Return the most memory this process has held so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: its ru_maxrss would begin with what the process that started this one held
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource  # not on Windows, where only the time is measured

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory_here(case: Case, side: str) -> float:
    """Return the peak of two steps in MiB, over what this process held with the model just built."""
    objective = build(case, side)
    built = peak_mebibytes()
    for _ in range(2):
        step(objective, batch(case))
    return peak_mebibytes() - built


def memory(name: str, side: str) -> float:
    """Return the same, of a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name, side]
    return float(subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout)


def times(case: Case, rounds: int) -> tuple[float, float]:
    """Return the seconds of a plain step and of a saving one: the fastest of `rounds`, taken in turn."""
    keep_freed_memory()  # as a run does
    sides = build(case, "plain"), build(case, "saving")
    seconds = [[step(objective, batch(case)) for objective in sides] for _ in range(rounds + 1)][1:]
    plain, saving = (min(side) for side in zip(*seconds, strict=True))
    return plain, saving


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds in place of ten")
    parser.add_argument("--memory-of", nargs=2, metavar=("CASE", "SIDE"), help="measure one side in this process")
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
