"""Time and memory of a training step: the hand-written backward pass of `custom` against `torch`.

    python benchmarks/custom_step.py            time (one process, alternating) and memory (one process per variant)
    python benchmarks/custom_step.py --rounds 9

Three variants in float32, with the same weights, batches and AdamW optimizer:

    custom           all gradients by hand
    torch explicit   the same mathematics, gradients by autograd (`attention: explicit`)
    torch fused      the default of `torch`: attention is one fused kernel

Freed memory stays in the process, as `tfs run` does on a CPU. Otherwise much of the time goes into memory pages that
the C library returns to the system and requests again.

Other programs may run on the machine. So the variants alternate, step by step, and the time of a variant is the 10th
percentile of its steps. Compare the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tfs_speed.kernels import keep_freed_memory
from torch import Tensor

from tfs_core.contracts import LanguageModel
from tfs_core.registry import get_registry

SIZES = {"d_model": 256, "n_heads": 4, "n_blocks": 6, "max_seq_len": 256}
VOCAB_SIZE = 4096
BATCH_SIZE = 8
SIDES: dict[str, dict[str, str]] = {
    "custom": {"name": "custom"},
    "torch explicit": {"name": "torch", "attention": "explicit"},
    "torch fused": {"name": "torch", "attention": "fused"},
}


def build(side: str) -> tuple[LanguageModel, torch.optim.Optimizer]:
    """Return the model of a variant, with the initial weights that all variants share, and its optimizer."""
    options = dict(SIDES[side])
    entry = get_registry().find("model", options.pop("name"))
    config_class = entry.load_config_class()
    assert config_class is not None
    generator = torch.Generator().manual_seed(1337)
    model = entry.load_factory()(config_class(**SIZES, **options), vocab_size=VOCAB_SIZE, generator=generator)
    model.to(device="cpu", dtype=torch.float32)
    model.train()
    return model, torch.optim.AdamW([parameter for _, parameter in model.named_parameters()], lr=3e-4, fused=True)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Return random (input_ids, target_ids) [batch_size, seq_len]. The time does not depend on the values."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(VOCAB_SIZE, (BATCH_SIZE, SIZES["max_seq_len"] + 1), generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def training_step(model: LanguageModel, optimizer: torch.optim.Optimizer, step: int) -> float:
    """Take a training step and return its loss, in nats per token."""
    input_ids, target_ids = batch(step)
    loss = float(model.loss(input_ids, target_ids))
    model.backward(1.0 / target_ids.numel())
    optimizer.step()
    optimizer.zero_grad()
    return loss / target_ids.numel()


def milliseconds(run: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started_at)


def measure_time(rounds: int) -> None:
    """Print the time per step of each variant, and its ratio to `custom`, for both precisions."""
    print(
        f"{'matmul':<9} {'side':<16} {'ms a step':>10} {'median':>8} {'of custom':>10}   loss after {rounds + 2} steps"
    )
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        sides = {side: build(side) for side in SIDES}
        times: dict[str, list[float]] = {side: [] for side in SIDES}
        losses: dict[str, float] = {}

        def take(side: str, step: int) -> None:
            losses[side] = training_step(*sides[side], step)  # noqa: B023 - called in the same iteration

        for step in range(rounds + 2):
            for side in SIDES:
                taken = milliseconds(lambda: take(side, step))  # noqa: B023
                if step >= 2:  # the first two steps are warm-up
                    times[side].append(taken)
        quiet = {side: sorted(values)[len(values) // 10] for side, values in times.items()}
        for side, values in times.items():
            ratio = quiet[side] / quiet["custom"]
            print(
                f"{precision:<9} {side:<16} {quiet[side]:>10.1f} {statistics.median(values):>8.1f} {ratio:>9.2f}x"
                f"   {losses[side]:.6f}"
            )


def peak_memory() -> float:
    """Return the peak memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss includes the peak of the parent process
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource  # missing on Windows, where only the time is measured

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_memory_here(side: str) -> None:
    """Print the peak memory of a few steps of one variant, minus the peak after the model was built."""
    keep_freed_memory()
    torch.set_float32_matmul_precision("medium")
    model, optimizer = build(side)
    built = peak_memory()
    for step in range(4):
        training_step(model, optimizer, step)
    print(f"{peak_memory() - built:.0f}")


def measure_memory() -> None:
    """Print the peak memory of each variant, each in its own process."""
    for side in SIDES:
        command = [sys.executable, __file__, "--memory-of", side]
        found = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout.strip()
        print(f"peak memory over the built model, MiB: {side:<16} {found:>6}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="number of timed steps of each variant")
    parser.add_argument("--memory-of", choices=list(SIDES), help="measure the memory of one variant in this process")
    arguments = parser.parse_args()
    if arguments.memory_of:
        measure_memory_here(arguments.memory_of)
        return
    keep_freed_memory()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {SIZES}, batch {BATCH_SIZE}, "
        f"vocabulary {VOCAB_SIZE}, float32"
    )
    if sys.platform != "win32":
        measure_memory()
    measure_time(arguments.rounds)


if __name__ == "__main__":
    main()
