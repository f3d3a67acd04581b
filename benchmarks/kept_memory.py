"""Time of a training step if the C library keeps freed memory, as with tfs-speed's wrapper `kernels`, and by default.

Each variant runs in its own process, since the setting cannot be reverted. The two alternate, and the fastest time of
each is compared. The smaller the model, the smaller the gain: that of configs/quickstart.yaml gains nothing.

    python benchmarks/kept_memory.py [--rounds 3] [--steps 12]
"""

import argparse
import os
import subprocess
import sys
import time


def step_seconds(steps: int, *, kept: bool) -> float:
    """Return the seconds per step in this process: the lower quartile over all steps."""
    import torch
    from tfs_speed.kernels import keep_freed_memory

    from tfs_core.registry import get_registry

    if kept:
        keep_freed_memory()
    torch.set_float32_matmul_precision("medium")
    entry = get_registry().find("model", "torch")
    config = entry.load_config_class()(  # type: ignore[misc]
        d_model=256, n_heads=4, n_blocks=6, max_seq_len=256
    )
    model = entry.load_factory()(config, vocab_size=4096, generator=torch.Generator().manual_seed(0))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(0, 4096, (8, 256))  # [batch_size, seq_len]
    seconds = []
    for _ in range(steps):
        started_at = time.perf_counter()
        model.loss(ids, ids)
        model.backward(1.0 / ids.numel())
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started_at)
    return sorted(seconds)[steps // 4]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--side", choices=("kept", "default"), help="measure one variant in this process")
    options = parser.parse_args()
    if options.side:
        print(step_seconds(options.steps, kept=options.side == "kept"))
        return
    fastest = {"default": float("inf"), "kept": float("inf")}
    for _ in range(options.rounds):
        for side in fastest:
            command = [sys.executable, os.path.abspath(__file__), "--side", side, "--steps", str(options.steps)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
            fastest[side] = min(fastest[side], float(done.stdout))
    for side, seconds in fastest.items():
        print(f"{side:<8} {1000 * seconds:6.1f} ms per step")
    print(f"ratio {fastest['kept'] / fastest['default']:.3f}")


if __name__ == "__main__":
    main()
