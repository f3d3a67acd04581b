"""Measure what training gains when packed windows move from epoch to epoch, against windows that stay.

Both sides train the same model on the same 1 MB of text (modules of Python's standard library), with the same seeds.
`--seeds 3 --epochs 1 --epochs 3 --epochs 10` is the experiment in docs/experiments.md (half an hour); by default one
pair of three epochs.
"""

import argparse
import statistics
import sysconfig
import tempfile
from pathlib import Path
from unittest.mock import patch

from tfs_core import run
from tfs_core.data.batches import Batches

TEXT_BYTES = 1_000_000


def write_text(folder: Path) -> None:
    """Write about 1 MB of Python source files to a folder."""
    left = TEXT_BYTES
    for file in sorted((Path(sysconfig.get_path("stdlib"))).glob("*.py")):
        text = file.read_bytes()
        if 2_000 < len(text) < 40_000 and left > 0:
            (folder / file.name).write_bytes(text)
            left -= len(text)


def validation_loss(folder: Path, *, epochs: int, seed: int, moves: bool) -> float:
    """Train, and return the last validation loss in nats per byte of text."""
    config = {
        "experiment_name": "windows",
        "seed": seed,
        "data": {
            "dataset": {"name": "text", "path": str(folder / "text")},
            "tokenizer": {"name": "bpe", "vocab_size": 1024},
            "max_length": 128,
            "validation_fraction": 0.08,
        },
        "model": {"name": "baseline", "d_model": 128, "n_heads": 4, "n_kv_heads": 2, "n_blocks": 4, "max_seq_len": 128},
        "training": {"batch_size": 16, "num_epochs": epochs, "learning_rate": 3e-3, "warmup_ratio": 0.05},
        "loggers": ["jsonl"],
    }
    with patch.object(Batches, "_find_offset", Batches._find_offset if moves else lambda _self, _epoch: 0):
        ended = run(config, assets=folder)
    validation = ended.validation()[-1]
    return float(validation["bits_per_byte"]) * 0.6931471805599453


def main() -> None:
    """Print the loss of both sides for each seed and number of epochs, and the mean difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").mkdir()
        write_text(folder / "text")
        for epochs in options.epochs or [3]:
            differences = []
            for seed in range(1, options.seeds + 1):
                stay, move = (validation_loss(folder, epochs=epochs, seed=seed, moves=moves) for moves in (False, True))
                differences.append(move - stay)
                print(
                    f"{epochs} epochs, seed {seed}: {stay:.4f} staying, {move:.4f} moving, {move - stay:+.4f}",
                    flush=True,
                )
            mean = statistics.mean(differences)
            print(f"{epochs} epochs: {mean:+.4f} nats per byte, the mean of {len(differences)} pairs", flush=True)


if __name__ == "__main__":
    main()
