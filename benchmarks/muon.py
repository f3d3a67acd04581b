"""Loss of `muon` and `adamw` with equal steps and with equal time, on the demo's model and corpus.

    python benchmarks/muon.py           three seeds of 400 steps each, each optimizer with its best learning rate
    python benchmarks/muon.py --rates   one seed with several learning rates, to find the best
    python benchmarks/muon.py --times   only the time per step
    python benchmarks/muon.py --quick   one seed of 100 steps, as a test of the script

The time per step is measured in one process, with alternating steps, as the 10th percentile. In the comparison with
equal time, muon takes fewer steps, by the ratio of the times, and its schedule ends at the last one. The loss is that
of the whole validation split at the end of the run, so it does not depend on the machine's load.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tfs_core import run
from tfs_core.config import RunConfig, config_from_mapping
from tfs_core.contracts import LanguageModel
from tfs_core.models import build_model
from tfs_core.run import build_optimizer

VOCAB_SIZE = 512
WARMUP_RATIO = 0.2
BEST_RATE = {"adamw": 6e-3, "muon": 1.2e-2}
RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2)


def settings(optimizer: str, *, steps: int, seed: int, rate: float) -> dict[str, Any]:
    """Return the configuration of a run: the demo's, without samples and with the given optimizer."""
    return {
        "experiment_name": f"{optimizer}-{steps}",
        "seed": seed,
        "data": {
            "dataset": "python-stdlib",
            "tokenizer": {"name": "bpe", "vocab_size": VOCAB_SIZE},
            "max_length": 128,
            "validation_fraction": 0.05,
        },
        "model": {
            "name": "torch",
            "d_model": 128,
            "n_heads": 4,
            "n_blocks": 4,
            "max_seq_len": 128,
            "gelu": "exact",
            "attention": "explicit",
        },
        "training": {
            "batch_size": 16,
            "max_steps": steps,
            "learning_rate": rate,
            "warmup_ratio": WARMUP_RATIO,
            "eval_every": None,
            "optimizer": optimizer,
        },
        "loggers": ["jsonl"],
    }


def final_loss(assets: Path, optimizer: str, *, steps: int, seed: int, rate: float) -> float:
    """Return the validation loss at the end of a run, in nats per token."""
    finished = run(settings(optimizer, steps=steps, seed=seed, rate=rate), assets=assets)
    return float(finished.validation()[-1]["loss"])


def step_times(rounds: int) -> dict[str, float]:
    """Return the seconds of a training step with each optimizer, measured alternately."""
    sides: dict[str, tuple[RunConfig, LanguageModel, torch.optim.Optimizer]] = {}
    for optimizer in BEST_RATE:
        config = config_from_mapping(settings(optimizer, steps=1, seed=0, rate=1e-3))
        model = build_model(config.model, vocab_size=VOCAB_SIZE, seed=0)
        sides[optimizer] = (config, model, build_optimizer(config.training, model))
    times: dict[str, list[float]] = {optimizer: [] for optimizer in sides}
    generator = torch.Generator().manual_seed(0)
    for number in range(rounds + 2):
        for name, (config, model, optimizer) in sides.items():
            shape = (config.training.batch_size, config.data.max_length)
            input_ids = torch.randint(VOCAB_SIZE, shape, generator=generator)  # [batch_size, seq_len]
            started_at = time.perf_counter()
            model.loss(input_ids, input_ids)
            model.backward(1.0 / input_ids.numel())
            optimizer.step()
            optimizer.zero_grad()
            if number >= 2:  # the first two steps are warm-up
                times[name].append(time.perf_counter() - started_at)
    return {name: sorted(values)[len(values) // 10] for name, values in times.items()}


def print_losses(label: str, losses: list[float]) -> None:
    spread = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
    print(f"{label:<44} {statistics.mean(losses):.4f}{spread}   {[round(loss, 4) for loss in losses]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed of 100 steps")
    parser.add_argument("--rates", action="store_true", help="one seed of 400 steps for each of several rates")
    parser.add_argument("--times", action="store_true", help="only the time per step")
    arguments = parser.parse_args()
    steps, seeds = (100, [1]) if arguments.quick else (400, [1, 2, 3])
    with tempfile.TemporaryDirectory() as folder:
        assets = Path(folder)
        if arguments.rates:
            for optimizer in BEST_RATE:
                for rate in RATES:
                    print_losses(
                        f"{optimizer}, {steps} steps at {rate}",
                        [final_loss(assets, optimizer, steps=steps, seed=1, rate=rate)],
                    )
            return
        seconds = step_times(20 if arguments.quick else 100)
        ratio = seconds["muon"] / seconds["adamw"]
        times = ", ".join(f"{name} {1e3 * taken:.1f} ms" for name, taken in seconds.items())
        print(f"a step: {times}, {ratio:.2f} times as long")
        if arguments.times:
            return
        print(f"validation loss at the end, nats per token; seeds {seeds}")
        fewer = round(steps / ratio)
        for label, optimizer, count in (
            (f"adamw, {steps} steps", "adamw", steps),
            (f"muon, equal steps ({steps})", "muon", steps),
            (f"muon, equal seconds ({fewer} steps)", "muon", fewer),
        ):
            rate = BEST_RATE[optimizer]
            print_losses(label, [final_loss(assets, optimizer, steps=count, seed=seed, rate=rate) for seed in seeds])


if __name__ == "__main__":
    main()
