"""The worth of each part of `baseline`: train it without the part, over three seeds, and compare.

    python plugins/tfs-baseline/ablation.py                 trains what is not yet trained (an hour of one thread),
                                                            measures seconds, prints the table
    python plugins/tfs-baseline/ablation.py --print-only    the table of the runs there are, without measuring again

Every curve goes past the point where it is read, which is `baseline`'s step 375: at as many FLOPs as `baseline` has
spent there, and at as many seconds. The seconds of a step are measured apart, all sides in one process and turn and
turn about: processor seconds of one thread, which other work on the machine changes least. Between two validations the
loss is a straight line.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tfs_core import run
from tfs_core.contracts import LanguageModel
from tfs_core.registry import get_registry
from tfs_core.runs import Run, read_run

CONFIG = Path(__file__).parent / "ablation.yaml"
SEEDS = (1, 2, 3)
READ_AT_STEP = 375
SIZES = {"d_model": 128, "n_heads": 4, "n_blocks": 4, "max_seq_len": 128}
VOCAB_SIZE, BATCH_SIZE = 1024, 16

# `baseline` with all parts switched off: `torch` without biases.
NOTHING = {"norm": "layer", "positions": "learned", "feed_forward": "gelu", "n_kv_heads": 4, "qk_norm": False}
SIDES: dict[str, dict[str, Any]] = {
    "baseline": {},
    "LayerNorm instead of RMSNorm": {"norm": "layer"},
    "learned positions instead of rotary": {"positions": "learned"},
    "GELU instead of SwiGLU": {"feed_forward": "gelu"},
    "4 key/value heads instead of 2": {"n_kv_heads": 4},
    "without QK-norm": {"qk_norm": False},
    "untied": {"tied": False},
    "all of these but untied": NOTHING,
    "and with biases: torch": {"name": "torch", "gelu": "exact", "attention": "explicit"},
}


def options_of(side: str) -> dict[str, Any]:
    """Return a side's model options, its name among them."""
    return {"name": "baseline", "n_kv_heads": 2} | SIDES[side] if "name" not in SIDES[side] else SIDES[side]


def run_name(side: str, seed: int) -> str:
    return f"ablation-{list(SIDES).index(side)}-{seed}"


def train(side: str, seed: int, assets: Path) -> None:
    """Train one side with one seed, unless that was done before."""
    folder = assets / "runs" / run_name(side, seed)
    earlier = read_run(folder)
    if earlier is not None and earlier.status == "finished":
        return
    print(f"{time.strftime('%H:%M:%S')} {side}, seed {seed}", flush=True)
    overrides = [f"model={json.dumps(SIZES | options_of(side))}", f"seed={seed}", f"group={json.dumps(side)}"]
    run(CONFIG, overrides=overrides, name=run_name(side, seed), assets=assets)


def build(side: str) -> tuple[LanguageModel, torch.optim.Optimizer]:
    """Return a side's model and its optimizer."""
    options = dict(options_of(side))
    entry = get_registry().find("model", options.pop("name"))
    config_class = entry.load_config_class()
    assert config_class is not None
    generator = torch.Generator().manual_seed(1)
    model = entry.load_factory()(config_class(**SIZES, **options), vocab_size=VOCAB_SIZE, generator=generator)
    model.to(device="cpu", dtype=torch.float32)
    model.train()
    return model, torch.optim.AdamW([parameter for _, parameter in model.named_parameters()], lr=1e-3, fused=True)


def batch() -> tuple[Tensor, Tensor]:
    """Return random (input_ids, target_ids) [batch_size, seq_len]: time does not depend on them."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCAB_SIZE, (BATCH_SIZE, SIZES["max_seq_len"] + 1), generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def measure_milliseconds(rounds: int) -> dict[str, float]:
    """Return each side's milliseconds a step of one thread: the median of the quieter half of its rounds."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    with suppress(OSError, AttributeError):  # glibc: freed memory is kept for the next step, as a run on a CPU does
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
    sides = {side: build(side) for side in SIDES}
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    input_ids, target_ids = batch()
    for taken in range(rounds + 3):
        for side, (model, optimizer) in sides.items():
            started_at = time.process_time()
            model.loss(input_ids, target_ids)
            model.backward(1.0 / target_ids.numel())
            optimizer.step()
            optimizer.zero_grad()
            if taken >= 3:  # the first warm up memory and kernels
                times[side].append(1e3 * (time.process_time() - started_at))
    return {side: statistics.median(sorted(values)[: (len(values) + 1) // 2]) for side, values in times.items()}


def loss_at(run: Run, step: float) -> float | None:
    """Return the validation loss at a step, in a straight line between two validations; None past the end."""
    rows = run.validation()
    for before, after in itertools.pairwise(rows):
        if before["step"] <= step <= after["step"]:
            share = (step - before["step"]) / (after["step"] - before["step"])
            return float(before["loss"] + share * (after["loss"] - before["loss"]))
    return None


def cell(losses: list[float | None]) -> str:
    """Return the mean of the seeds and half of what lies between the lowest and the highest."""
    known = [loss for loss in losses if loss is not None]
    if len(known) < len(losses):
        return "past the end"
    return f"{statistics.mean(known):.4f} ± {(max(known) - min(known)) / 2:.4f}"


def print_table(assets: Path, milliseconds: dict[str, float]) -> None:
    """Print a row a side: parameters, FLOPs and time of a step, and the loss where steps, FLOPs, seconds are equal."""
    print("| | parameters | FLOPs a token | time a step | equal steps | equal FLOPs | equal seconds |")
    print("|---|---|---|---|---|---|---|")
    runs: dict[str, list[Run]] = {}
    for side in SIDES:
        found = [read_run(assets / "runs" / run_name(side, seed)) for seed in SEEDS]
        runs[side] = [run for run in found if run is not None and run.status == "finished"]
    runs = {side: of_side for side, of_side in runs.items() if of_side}
    flops = {side: of_side[0].info["flops_per_token"] for side, of_side in runs.items()}
    for side, of_side in runs.items():
        steps = {
            "steps": float(READ_AT_STEP),
            "flops": READ_AT_STEP * flops["baseline"] / flops[side],
            "seconds": READ_AT_STEP * milliseconds["baseline"] / milliseconds[side],
        }
        cells = [cell([loss_at(run, step) for run in of_side]) for step in steps.values()]
        parameters = of_side[0].info["parameters"]["total"]
        print(
            f"| {side} | {parameters:,} | {flops[side] / flops['baseline']:.2f} | "
            f"{milliseconds[side] / milliseconds['baseline']:.2f} | {' | '.join(cells)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print-only", action="store_true", help="train nothing, measure nothing")
    parser.add_argument("--train-only", action="store_true", help="measure nothing, print nothing")
    parser.add_argument("--rounds", type=int, default=40, help="steps of each side that are timed")
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    arguments = parser.parse_args()
    measured = arguments.assets / "ablation-milliseconds.json"
    if not arguments.print_only:
        for seed in SEEDS:
            for side in SIDES:
                train(side, seed, arguments.assets)
    if arguments.train_only:
        return
    if not arguments.print_only or not measured.exists():
        measured.write_text(json.dumps(measure_milliseconds(arguments.rounds), indent=2), encoding="utf-8")
    print_table(arguments.assets, json.loads(measured.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
