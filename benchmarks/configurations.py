"""Training speed of the configurations in configs/: tokens per second, and the estimated hours of the whole run.

    python benchmarks/configurations.py                         all configurations of `baseline`, about ten minutes
    python benchmarks/configurations.py configs/baseline_python_1m.yaml

`tfs_core.run` trains each configuration unchanged, except for the number of steps. Data sets of the Hub are replaced by
Python's sources: a step's time does not depend on the text. The script prints the median over the steps after the first
two, and its share of the speed of matrix products of the model's size, measured afterwards in the same process.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from tfs_core import run
from tfs_core.config import load_config
from tfs_core.config.schema import RunConfig

ROOT = Path(__file__).parent.parent
WARM_UP = 2


def products_speed(config: RunConfig, repeats: int = 12) -> float:
    """Return the FLOP/s of products [tokens, d_model] @ [d_model, 4*d_model], in the run's dtype."""
    width = config.model.options.d_model
    dtype = torch.bfloat16 if config.model.options.dtype == "bfloat16" else torch.float32
    x, weight = torch.randn(2048, width, dtype=dtype), torch.randn(width, 4 * width, dtype=dtype)
    seconds = []
    for _ in range(repeats):
        started_at = time.perf_counter()
        torch.mm(x, weight)
        seconds.append(time.perf_counter() - started_at)
    return 8 * 2048 * float(width) ** 2 / statistics.median(seconds)


def measure(path: Path, steps: int, assets: Path) -> str:
    """Train a few steps and return the table row with the results."""
    config = load_config(path)
    shorter = ["max_tokens=null", f"max_steps={WARM_UP + steps}", "eval_every=null", "checkpoint_interval_minutes=null"]
    overrides = ["data.dataset=python-stdlib", "loggers=[jsonl]", *(f"training.{setting}" for setting in shorter)]
    finished = run(path, overrides=overrides, name=path.stem, assets=assets)
    lines = (finished.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    speed = statistics.median(json.loads(line)["tokens_per_second"] for line in lines[WARM_UP:])
    flops_per_token = finished.info["flops_per_token"]
    share = speed * flops_per_token / products_speed(config)
    parameters, tokens = finished.info["parameters"]["total"], config.training.max_tokens or 0
    hours = tokens / speed / 3600
    return (
        f"| `{path.name}` | {parameters / 1e6:.1f} M | {finished.info['matmul']}, "
        f"{config.model.options.dtype} | {speed:,.0f} | {speed * flops_per_token / 1e9:.0f} | "
        f"{share:.2f} | {f'{hours:.1f} hours' if hours >= 1 else f'{60 * hours:.0f} minutes'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configurations", nargs="*", type=Path)
    parser.add_argument("--steps", type=int, default=4, help="number of timed steps (%(default)s)")
    chosen = parser.parse_args()
    print("| configuration | parameters | kernel, type | tokens per second | GFLOP/s | share of products | whole run |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as assets:
        for path in chosen.configurations or sorted((ROOT / "configs").glob("baseline_*.yaml")):
            print(measure(path, chosen.steps, Path(assets)), flush=True)


if __name__ == "__main__":
    main()
