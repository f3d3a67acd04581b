"""Time of a training step of each model with the float32 matrix-product kernels `highest` and `medium`.

    python benchmarks/matmul_kernels.py                 custom, torch, baseline; float32 and bfloat16; rows of 64 to 512
    python benchmarks/matmul_kernels.py --compiled      also with torch.compile (a minute or more per line)
    python benchmarks/matmul_kernels.py --models baseline --lengths 256

d_model 256, 6 blocks, 4 heads, vocabulary 4096, always 2048 tokens per step. The two kernels alternate, step by step.
The time of each is the 10th percentile of its steps. The column `auto` is the choice of `runtime.matmul: auto` for this
ratio. With bfloat16, only the few remaining float32 products can differ.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from objective import objective_of
from tfs_speed.kernels import CLEARLY_FASTER, keep_freed_memory

from tfs_core.config import config_from_mapping
from tfs_core.contracts import Batch
from tfs_core.machine import available_threads
from tfs_core.models import AutogradModel, Objective, batch_loss, build_model

SIZES: dict[str, Any] = {"d_model": 256, "n_heads": 4, "n_blocks": 6}
VOCAB_SIZE, N_TOKENS = 4096, 2048
KERNELS = ("highest", "medium")


def build(name: str, dtype: str, length: int, *, compiled: bool) -> tuple[Objective, Batch]:
    """Return a model's loss module, compiled with the current kernel if requested, and a batch for it."""
    config = config_from_mapping(
        {
            "experiment_name": "kernels",
            "data": {"dataset": "python-stdlib", "tokenizer": "byte", "max_length": length},
            "model": {"name": name, **SIZES, "max_seq_len": length, "dtype": dtype},
            "training": {"max_steps": 1},
            "runtime": {"compile": compiled, "matmul": "highest"},  # `measure` sets the kernel
        }
    )
    model = build_model(config.model, vocab_size=VOCAB_SIZE, seed=1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCAB_SIZE, (N_TOKENS // length, length + 1), generator=generator)
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), N_TOKENS)
    return objective_of(model, config, batch, lambda message: print(f"  {message}", flush=True)), batch


def step_seconds(objective: Objective, batch: Batch) -> float:
    """Return the seconds of a forward and a backward pass, the only parts that depend on the kernel."""
    started_at = time.perf_counter()
    batch_loss(objective.model, batch, "cpu", objective)
    objective.backward(1.0 / N_TOKENS)
    return time.perf_counter() - started_at


def measure(name: str, dtype: str, length: int, rounds: int, *, compiled: bool) -> dict[str, float]:
    """Return the seconds of a step with each kernel."""
    models = {}
    for kernel in KERNELS:  # one model per kernel: compiled code is specific to a kernel
        torch.set_float32_matmul_precision(kernel)
        models[kernel] = build(name, dtype, length, compiled=compiled)
    seconds: dict[str, list[float]] = {kernel: [] for kernel in KERNELS}
    for turn in range(rounds + 2):
        for kernel in KERNELS:
            torch.set_float32_matmul_precision(kernel)
            taken = step_seconds(*models[kernel])
            if turn >= 2:  # the first two steps are warm-up
                seconds[kernel].append(taken)
    return {kernel: sorted(values)[len(values) // 10] for kernel, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["custom", "torch", "baseline"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[64, 256, 512])
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="four rounds")
    chosen = parser.parse_args()
    torch.set_num_threads(available_threads())
    keep_freed_memory()  # as a run does
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; ms of forward and backward")
    print(f"{'model':<9} {'dtype':<9} {'rows of':>7} {'':<9} {'highest':>8} {'medium':>8} {'ratio':>7}  auto")
    for name in chosen.models:
        for dtype in chosen.dtypes:
            for length in chosen.lengths:
                model_class = type(build(name, dtype, length, compiled=False)[0].model)
                for compiled in (
                    (False, True) if chosen.compiled and issubclass(model_class, AutogradModel) else (False,)
                ):
                    found = measure(name, dtype, length, 4 if chosen.quick else chosen.rounds, compiled=compiled)
                    ratio = found["highest"] / found["medium"]
                    auto = "medium" if ratio >= CLEARLY_FASTER else "highest"
                    print(
                        f"{name:<9} {dtype:<9} {length:>7} {'compiled' if compiled else 'eager':<9} "
                        f"{1e3 * found['highest']:>8.1f} {1e3 * found['medium']:>8.1f} {ratio:>6.2f}x  {auto}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
