"""Difference between the float32 loss curves of `custom` and `torch`, over two hundred steps.

    python benchmarks/curves_apart.py       one or two minutes

Two models that add the same numbers in a different order differ in the last bit, and training may amplify the
difference. The table shows the maximum relative difference of two curves, for three learning rates and both float32
precisions.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

from tfs_core import run

SIDES: dict[str, dict[str, str]] = {
    "custom": {"name": "custom"},
    "torch explicit": {"name": "torch", "attention": "explicit"},
    "torch fused": {"name": "torch", "attention": "fused"},
}
CASES = [(3e-4, "highest"), (1e-3, "highest"), (3e-3, "highest"), (3e-3, "medium")]


def losses(side: str, learning_rate: float, matmul: str, steps: int, assets: Path) -> list[float]:
    """Return the training loss of every step."""
    config: dict[str, Any] = {
        "experiment_name": f"{side} {learning_rate} {matmul}".replace(" ", "-"),
        "data": {"dataset": "python-stdlib", "tokenizer": "byte", "max_length": 64},
        "model": {"d_model": 64, "n_heads": 4, "n_blocks": 3, "max_seq_len": 64, **SIDES[side]},
        "training": {"batch_size": 8, "max_steps": steps, "learning_rate": learning_rate, "warmup_steps": 10},
        "runtime": {"device": "cpu", "threads": 1, "matmul": matmul},
        "loggers": ["jsonl"],
    }
    return [line["loss"] for line in run(config, assets=assets).metrics()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        curves = {(side, case): losses(side, *case, arguments.steps, Path(folder)) for case in CASES for side in SIDES}
    print("| | " + " | ".join(f"{rate:g}, {matmul}" for rate, matmul in CASES) + " |")
    print("|---" * (len(CASES) + 1) + "|")
    for first, second in itertools.combinations(SIDES, 2):
        apart = [
            max(abs(a - b) / b for a, b in zip(curves[first, case], curves[second, case], strict=True))
            for case in CASES
        ]
        print(f"| `{first}` and `{second}` | " + " | ".join(f"{distance:.1e}" for distance in apart) + " |")


if __name__ == "__main__":
    main()
