"""Time to open a token store and read the batch of any step: milliseconds, and the ratio for ten times the tokens.

Two stores of random tokens are written to a temporary folder, one ten times as large as the other. A round opens each
store, as a resume at a random step does, and reads the batch of that step. The two alternate, and the medians are
compared. The first round, with a cold page cache, is printed separately.

    python benchmarks/token_store.py                       100 million and 1 billion tokens, 2.2 GB for a minute
    python benchmarks/token_store.py --tokens 10000000     a tenth of that
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from tfs_core.data.batches import Batches, Rows
from tfs_core.data.store import FORMAT_VERSION, SPLITS, SplitWriter, open_store, token_dtype, write_info

ROUNDS = 51
VOCAB_SIZE = 4096
DOCUMENT_TOKENS = 1000
ROWS = {"max_length": 256, "end_of_text_id": VOCAB_SIZE - 1}
IDENTITY = {"format_version": FORMAT_VERSION, "source": "random tokens"}


def write_store(folder: Path, n_tokens: int) -> None:
    """Write a store with the given number of tokens in its training split."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    counts = {}
    for split in SPLITS:
        dtype = token_dtype(VOCAB_SIZE)
        writer = SplitWriter(folder, split, dtype=dtype)
        for _ in range(n_tokens // DOCUMENT_TOKENS if split == "train" else 1):
            tokens = generator.integers(0, VOCAB_SIZE - 1, DOCUMENT_TOKENS, dtype=np.uint16)
            tokens[-1] = VOCAB_SIZE - 1
            writer.add(tokens, np.array([DOCUMENT_TOKENS]), DOCUMENT_TOKENS - 1)
        counts[split] = writer.close()
    write_info(folder, IDENTITY | {"vocab_size": VOCAB_SIZE, "splits": counts})


def open_and_draw(folder: Path, batching: str, step: int) -> float:
    """Return the time to open the store and read the batch of a step, in milliseconds."""
    started_at = time.perf_counter()
    opened = open_store(folder, IDENTITY)
    assert opened is not None
    rows = Rows(split=opened.train, batching=batching, **ROWS)  # type: ignore[arg-type]
    batches = Batches(rows, batch_size=32, seed=1337)
    batches.epoch(step)
    (batch,) = batches.step(step)
    milliseconds = 1000 * (time.perf_counter() - started_at)
    assert batch.valid_targets > 0
    return milliseconds


def main() -> None:
    """Measure both stores in one run and print milliseconds and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000_000, help="number in the smaller store (%(default)s)")
    sizes = [n := parser.parse_args().tokens, 10 * n]
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, str(size)) for size in sizes]
        for folder, size in zip(folders, sizes, strict=True):
            write_store(folder, size)
        for batching in ("packed", "padded"):
            steps = random.Random(1)
            times: dict[Path, list[float]] = {folder: [] for folder in folders}
            for turn in range(ROUNDS):
                for folder in folders if turn % 2 else reversed(folders):
                    times[folder].append(open_and_draw(folder, batching, steps.randrange(10**6)))
            small, large = (statistics.median(times[folder][1:]) for folder in folders)
            for size, folder, typical in zip(sizes, folders, (small, large), strict=True):
                print(f"{batching}: {size:,} tokens {typical:.2f} ms (the first time {times[folder][0]:.2f} ms)")
            print(f"{batching}: ratio for 10 times the tokens {large / small:.2f}")


if __name__ == "__main__":
    main()
