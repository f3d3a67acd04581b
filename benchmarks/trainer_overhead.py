"""Time per step of the trainer against a minimal PyTorch loop with the same model, optimizer and batches.

    python benchmarks/trainer_overhead.py

Both alternate in one process, a few steps at a time, so that changes of the machine's speed affect both. The minimal
loop: batch, loss, backward, clipping, update, and reading the loss. The trainer additionally counts tokens, checks that
loss and gradients are finite, follows the schedule, and writes a line of metrics.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from step_by_step import step_by_step

from tfs_core.builtin.jsonl import JsonlLogger
from tfs_core.checkpoint import CheckpointKeeper
from tfs_core.config import config_from_mapping
from tfs_core.contracts import LanguageModel
from tfs_core.data.batches import Batches, Rows
from tfs_core.data.store import TokenSplit
from tfs_core.loggers import Loggers
from tfs_core.models import LossModule, Objective, build_model
from tfs_core.ranks import OneRank
from tfs_core.run import build_optimizer, build_schedule
from tfs_core.run_folder import RunFolder
from tfs_core.stop_signal import StopSignal
from tfs_core.trainer import Plan, Progress, Trainer

AT_MOST = 1.03
VOCAB_SIZE = 512


class OneByteEach:
    """Minimal tokenizer for the trainer: every id is one byte."""

    def byte_lengths(self) -> np.ndarray:
        return np.ones(VOCAB_SIZE, np.int64)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--steps", type=int, default=5, help="steps of each loop per round")
    arguments.add_argument("--d-model", type=int, default=128)
    chosen = arguments.parse_args()

    torch.set_num_threads(1)
    config = config_from_mapping(
        {
            "experiment_name": "overhead",
            "data": {"dataset": "python-stdlib", "tokenizer": "byte", "max_length": 128},
            "model": {"name": "torch", "d_model": chosen.d_model, "n_heads": 4, "n_blocks": 2, "max_seq_len": 128},
            "training": {"batch_size": 8, "max_steps": 10**6, "checkpoint_interval_minutes": None, "eval_every": None},
        }
    )
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, VOCAB_SIZE - 1, 1_000_000).astype(np.uint16)
    tokens[999::1000] = VOCAB_SIZE - 1
    split = TokenSplit(tokens, np.arange(0, len(tokens) + 1, 1000), len(tokens))
    rows = Rows(split=split, batching="packed", max_length=128, end_of_text_id=VOCAB_SIZE - 1)
    batches = Batches(rows, batch_size=8, seed=1)

    def model() -> LanguageModel:
        return build_model(config.model, vocab_size=VOCAB_SIZE, seed=1)

    def bare_loop() -> Iterator[None]:
        bare = model()
        optimizer = build_optimizer(config.training, bare)
        parameters = [parameter for _, parameter in bare.named_parameters()]
        for step in itertools.count():
            (batch,) = batches.step(step)
            loss = bare.loss(batch.input_ids, batch.target_ids)
            bare.backward(1.0 / batch.valid_targets)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            yield

    def trainer_loop(folder: Path) -> Iterator[None]:
        trained = model()
        logger = JsonlLogger(folder)
        logger.on_start()
        plan = Plan(total_steps=10**6, warmup_steps=10)
        run_folder = RunFolder.create(folder, "overhead", "overhead")
        trainer = Trainer(
            config=config.training,
            plan=plan,
            progress=Progress(),
            model=trained,
            objective=Objective(trained, LossModule(trained)),
            optimizer=build_optimizer(config.training, trained),
            schedule=build_schedule(config.training, plan),
            device="cpu",
            batching=batches,
            tokenizer=OneByteEach(),
            run_folder=run_folder,
            checkpoints=CheckpointKeeper(folder / "checkpoints", keep=1),
            loggers=Loggers([logger], print),
            ranks=OneRank(),
            stop=StopSignal(),
        )
        with run_folder:
            yield from step_by_step(trainer)

    with tempfile.TemporaryDirectory() as folder:
        loops = {"bare": bare_loop(), "trainer": trainer_loop(Path(folder))}
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for number in range(chosen.rounds + 1):
            for name in sorted(loops, reverse=number % 2 == 1):
                started_at = time.perf_counter()
                for _ in range(chosen.steps):
                    next(loops[name])
                if number > 0:  # the first round is warm-up
                    seconds[name].append((time.perf_counter() - started_at) / chosen.steps)
        loops["trainer"].close()

    ratios = [trainer / bare for trainer, bare in zip(seconds["trainer"], seconds["bare"], strict=True)]
    ratio = statistics.median(ratios)
    for name in loops:
        print(f"{name:8} {1000 * statistics.median(seconds[name]):8.2f} ms per step")
    print(f"ratio    {ratio:8.3f} (median of {chosen.rounds} rounds; at most {AT_MOST})")
    sys.exit(ratio > AT_MOST)


if __name__ == "__main__":
    main()
