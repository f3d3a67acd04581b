"""Time of a training step of `baseline` against nanoGPT's eager step, with the same size and the same batches.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/nanogpt_step.py --nanogpt nanoGPT            all variants (some minutes: three are compiled)
    python benchmarks/nanogpt_step.py --nanogpt nanoGPT --quick    without the compiled variants

d_model 256, 6 blocks, 4 heads, sequence 256, batch 8, vocabulary 4096. nanoGPT's step is that of its train.py without
torch.compile, in float32, with its own model, optimizer and clipping. The step of tfs is that of its trainer: the same
functions in the same order, the optimizer `adamw`, freed memory kept in the process.

Each variant runs in its own process, since some settings affect the whole process. The processes alternate, a few steps
at a time, so that changes of the machine's speed affect all. The ratio of a variant is nanoGPT's time divided by its
own time: the median over the rounds.

The same rounds measure an upper bound of the speed: the matrix products of a step alone, in the number format and with
the kernel of the variant. The last column is the share of this speed that a whole step reaches; only the FLOPs of
matrix products count.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from objective import objective_of
from tfs_speed.kernels import keep_freed_memory

from tfs_core.config import config_from_mapping
from tfs_core.contracts import Batch
from tfs_core.machine import available_threads
from tfs_core.models import batch_loss, build_model
from tfs_core.run import build_optimizer

D_MODEL, N_BLOCKS, N_HEADS, SEQ_LEN, BATCH_SIZE, VOCAB_SIZE = 256, 6, 4, 256, 8, 4096
MAX_GRAD_NORM = 1.0
NANOGPT = "nanoGPT eager"
SIDES: dict[str, dict[str, Any]] = {
    "float32 highest": {"dtype": "float32", "matmul": "highest", "compile": False},
    "float32 medium": {"dtype": "float32", "matmul": "medium", "compile": False},
    "bfloat16": {"dtype": "bfloat16", "matmul": "medium", "compile": False},
    "float32 highest compiled": {"dtype": "float32", "matmul": "highest", "compile": True},
    "float32 medium compiled": {"dtype": "float32", "matmul": "medium", "compile": True},
    "bfloat16 compiled": {"dtype": "bfloat16", "matmul": "medium", "compile": True},
}


def batch(step: int) -> Batch:
    """Return the batch of a step: random ids. The time does not depend on the values."""
    ids = torch.randint(VOCAB_SIZE, (BATCH_SIZE, SEQ_LEN + 1), generator=torch.Generator().manual_seed(step))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), BATCH_SIZE * SEQ_LEN)


# --- the process of a variant -----------------------------------------------------------------------------------------


def nanogpt_steps(folder: str) -> Iterator[float]:
    """Iterate over training steps of nanoGPT; each yields its loss in nats per token."""
    sys.path.insert(0, folder)
    from model import GPT, GPTConfig

    sizes = {"n_embd": D_MODEL, "n_layer": N_BLOCKS, "n_head": N_HEADS, "block_size": SEQ_LEN}
    model = GPT(GPTConfig(**sizes, vocab_size=VOCAB_SIZE, dropout=0.0, bias=False))
    optimizer = model.configure_optimizers(0.1, 3e-4, (0.9, 0.95), "cpu")
    for step in itertools.count():
        taken = batch(step)
        _, loss = model(taken.input_ids, taken.target_ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item()


def our_steps(model_name: str, side: str) -> tuple[Iterator[float], Callable[[], float], float]:
    """Return the trainer's training steps, `products_speed` for this variant, and the FLOPs of a step."""
    chosen = SIDES[side]
    config = config_from_mapping(
        {
            "experiment_name": "step",
            "data": {"dataset": "python-stdlib", "tokenizer": "byte", "max_length": SEQ_LEN},
            "model": {"name": model_name, "d_model": D_MODEL, "n_heads": N_HEADS, "n_blocks": N_BLOCKS}
            | {"max_seq_len": SEQ_LEN, "dtype": chosen["dtype"]},
            "training": {"batch_size": BATCH_SIZE, "max_steps": 1, "max_grad_norm": MAX_GRAD_NORM},
            "runtime": {"compile": chosen["compile"], "matmul": chosen["matmul"]},
        }
    )
    torch.set_num_threads(available_threads())
    torch.set_float32_matmul_precision(chosen["matmul"])
    keep_freed_memory()
    model = build_model(config.model, vocab_size=VOCAB_SIZE, seed=1)
    objective = objective_of(model, config, batch(0), lambda message: print(f"{side}: {message}", file=sys.stderr))
    optimizer = build_optimizer(config.training, model)
    parameters = [parameter for _, parameter in model.named_parameters()]

    def steps() -> Iterator[float]:
        for step in itertools.count():
            part = batch(step)
            loss = batch_loss(model, part, "cpu", objective)
            objective.backward(1.0 / part.valid_targets)
            norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
            nats, grad_norm = torch.stack([loss, norm]).tolist()
            if grad_norm > MAX_GRAD_NORM:
                torch.nn.utils.clip_grads_with_norm_(parameters, MAX_GRAD_NORM, norm)
            optimizer.step()
            optimizer.zero_grad()
            yield nats / part.valid_targets

    shapes = [tuple(tensor.shape) for name, tensor in model.named_parameters() if name.startswith("blocks.")]
    matrices = [shape for shape in shapes if len(shape) == 2] + [(VOCAB_SIZE, D_MODEL)]
    dtype = torch.bfloat16 if chosen["dtype"] == "bfloat16" else torch.float32
    operations = BATCH_SIZE * SEQ_LEN * model.flops_per_token(SEQ_LEN)
    return steps(), lambda: products_speed(matrices, dtype), operations


def products_speed(matrices: list[tuple[int, ...]], dtype: torch.dtype) -> float:
    """Return the FLOP/s of the matrix products of a step with its weights, forward and backward."""
    n_tokens = BATCH_SIZE * SEQ_LEN
    seconds = 0.0
    for d_out, d_in in matrices:
        weight = torch.randn(d_out, d_in, dtype=dtype)  # [d_out, d_in]
        x = torch.randn(n_tokens, d_in, dtype=dtype)  # [n_tokens, d_in]
        grad_output = torch.randn(n_tokens, d_out, dtype=dtype)  # [n_tokens, d_out]
        started_at = time.perf_counter()
        for left, right in ((x, weight.T), (grad_output, weight), (grad_output.T, x)):
            torch.mm(left, right)
        seconds += time.perf_counter() - started_at
    return 6 * n_tokens * sum(d_out * d_in for d_out, d_in in matrices) / seconds


def serve(nanogpt: str, model_name: str, side: str) -> None:
    """Execute commands from stdin, one per line.

    A number n: take n steps, and print their seconds and the loss. `products`: measure the speed of the products.
    """
    with contextlib.redirect_stdout(sys.stderr):  # nanoGPT prints messages
        if side == NANOGPT:
            steps, speed, operations = nanogpt_steps(nanogpt), lambda: 0.0, 0.0
        else:
            steps, speed, operations = our_steps(model_name, side)
        for _ in range(3):
            next(steps)  # warm-up
    print(json.dumps(operations), flush=True)
    for line in sys.stdin:
        if line.strip() == "products":
            print(json.dumps(speed()), flush=True)
            continue
        seconds = []
        for _ in range(int(line)):
            started_at = time.perf_counter()
            loss = next(steps)
            seconds.append(time.perf_counter() - started_at)
        print(json.dumps([seconds, loss]), flush=True)


# --- the main process -------------------------------------------------------------------------------------------------


class Worker:
    """A side's process."""

    def __init__(self, options: list[str], side: str) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), *options, "--side", side]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self.operations = self.answer()
        self.seconds: list[list[float]] = []  # of the steps, by round
        self.speeds: list[float] = []
        self.loss = float("nan")

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the process of a variant has ended; its output is above")
        return json.loads(line)

    def ask(self, request: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()
        return self.answer()

    def take_turn(self, n_steps: int) -> None:
        seconds, self.loss = self.ask(n_steps)
        self.seconds.append(seconds)
        self.speeds.append(self.ask("products"))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", required=True, help="the folder with nanoGPT's model.py")
    parser.add_argument("--model", default="baseline", help="model of tfs (%(default)s)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3, help="steps of each variant per round (%(default)s)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="only these variants of tfs")
    parser.add_argument("--quick", action="store_true", help="five rounds, without the compiled variants")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        serve(chosen.nanogpt, chosen.model, chosen.side)
        return
    if not Path(chosen.nanogpt, "model.py").exists():
        sys.exit(
            f"{chosen.nanogpt} has no model.py: git clone https://github.com/karpathy/nanoGPT, and name its folder"
        )
    sides = chosen.sides or [side for side in SIDES if not (chosen.quick and SIDES[side]["compile"])]
    sides = [NANOGPT, *sides]
    workers: dict[str, Worker] = {}
    try:
        for side in sides:
            workers[side] = Worker(["--nanogpt", chosen.nanogpt, "--model", chosen.model], side)
        for turn in range(5 if chosen.quick else chosen.rounds):
            for side in sides if turn % 2 else reversed(sides):
                workers[side].take_turn(chosen.steps)
    finally:
        for worker in workers.values():
            worker.end()
    show(chosen.model, workers)


def show(model_name: str, workers: dict[str, Worker]) -> None:
    print(f"{model_name}, torch {torch.__version__}, {available_threads()} threads; milliseconds per step")
    print(f"{'side':<25} {'median':>7} {'p10':>7} {'ratio':>7} {'loss':>6} {'GFLOP/s':>8} {'products':>9} {'share':>6}")
    rounds = {side: np.array([statistics.median(seconds) for seconds in w.seconds]) for side, w in workers.items()}
    for side, worker in workers.items():
        every = sorted(itertools.chain(*worker.seconds))
        typical, quiet = statistics.median(every), every[len(every) // 10]
        ratio = float(np.median(rounds[NANOGPT] / rounds[side]))
        line = f"{side:<25} {1e3 * typical:>7.1f} {1e3 * quiet:>7.1f} {ratio:>6.2f}x {worker.loss:>6.3f}"
        if worker.operations:
            reached = worker.operations / rounds[side]
            share = float(np.median(reached / np.array(worker.speeds)))
            line += f" {np.median(reached) / 1e9:>8.0f} {np.median(worker.speeds) / 1e9:>9.0f} {share:>6.2f}"
        print(line)


if __name__ == "__main__":
    main()
