"""Time to read a batch from the disk with a cold page cache, against the time of a training step.

A store of random tokens, 2 GB, is written to a temporary folder. Each round evicts the whole store from the page cache.
Then follow a batch, a training step (forward, backward and update, with the model, batch size and row length of
`configs/quickstart.yaml`), and the next batch. So no page is in memory, as with a store much larger than memory, except
the pages that tfs prefetches one step ahead. Major page faults are counted. Medians are compared.

    python benchmarks/cold_batches.py              2 GB, about a minute
    python benchmarks/cold_batches.py --quick      a tenth of that
"""

import argparse
import os
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from token_store import IDENTITY, write_store

from tfs_core.config import load_config
from tfs_core.contracts import Batch
from tfs_core.data.batches import Batches, BatchingName, Rows
from tfs_core.data.store import open_store
from tfs_core.models import build_model
from tfs_core.run import build_optimizer

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
VOCAB_SIZE = 512
AT_MOST = 0.01


def evict(folder: Path) -> None:
    """Evict the store's files from the page cache."""
    for file in folder.glob("*.npy"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def open_batches(folder: Path, batching: BatchingName, *, max_length: int, batch_size: int) -> Batches:
    """Open the store."""
    opened = open_store(folder, IDENTITY)
    assert opened is not None
    rows = Rows(split=opened.train, batching=batching, max_length=max_length, end_of_text_id=VOCAB_SIZE - 1)
    return Batches(rows, batch_size=batch_size, seed=1337)


def timed(batches: Batches, step: int) -> tuple[float, int]:
    """Return the seconds to read the batch of a step, and the number of major page faults meanwhile."""
    faults, started_at = resource.getrusage(resource.RUSAGE_SELF).ru_majflt, time.perf_counter()
    batches.step(step)
    seconds = time.perf_counter() - started_at
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults


def training_step() -> tuple[Callable[[], float], int, int]:
    """Return a function that takes a training step and returns its seconds; its row length; its batch size."""
    config = load_config(QUICKSTART)
    model = build_model(config.model, vocab_size=VOCAB_SIZE, seed=1)
    optimizer = build_optimizer(config.training, model)
    parameters = [parameter for _, parameter in model.named_parameters()]
    max_length, batch_size = config.data.max_length, config.training.batch_size
    ids = torch.randint(VOCAB_SIZE - 1, (batch_size, max_length))  # [batch_size, seq_len]
    batch = Batch(ids, ids, ids.numel())

    def step() -> float:
        started_at = time.perf_counter()
        loss = model.loss(batch.input_ids, batch.target_ids)
        model.backward(1.0 / batch.valid_targets)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        return time.perf_counter() - started_at

    return step, max_length, batch_size


def main() -> None:
    """Measure both in one run and print milliseconds and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000_000, help="2-byte tokens in the store (%(default)s)")
    parser.add_argument("--rounds", type=int, default=50, help="number of measured steps (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the tokens and of the rounds")
    options = parser.parse_args()
    part = 10 if options.quick else 1
    step, max_length, batch_size = training_step()
    step()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "store")
        write_store(folder, options.tokens // part)
        places = random.Random(1)
        step_seconds: list[float] = []
        batchings: tuple[BatchingName, ...] = ("packed", "padded")
        for batching in batchings:
            first_seconds, first_faults, next_seconds, next_faults = [], 0, [], 0
            for _ in range(max(options.rounds // part, 3)):
                evict(folder)
                batches = open_batches(folder, batching, max_length=max_length, batch_size=batch_size)
                place = places.randrange(10**6)
                batches.row_numbers(place, 0)  # computes the permutation of the epoch, once
                seconds, faults = timed(batches, place)
                first_seconds.append(seconds)
                first_faults += faults
                step_seconds.append(step())
                seconds, faults = timed(batches, place + 1)
                next_seconds.append(seconds)
                next_faults += faults
                del batches  # mapped pages cannot be evicted
            typical = statistics.median(step_seconds)
            rounds = len(next_seconds)
            print(f"{batching}, rows of {max_length}, batch of {batch_size}; a training step {1000 * typical:.1f} ms")
            print(
                f"  first batch {1000 * statistics.median(first_seconds):6.2f} ms "
                f"({first_faults / rounds:.0f} page faults from the disk), once per run"
            )
            print(
                f"  next batch  {1000 * statistics.median(next_seconds):6.2f} ms "
                f"({next_faults / rounds:.0f} page faults from the disk): "
                f"{statistics.median(next_seconds) / typical:.2%} of a step (at most {AT_MOST:.0%})"
            )


if __name__ == "__main__":
    main()
