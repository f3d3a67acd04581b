"""Time of explicit and of fused attention, for rows of 64 to 1024 tokens and three number formats.

    python benchmarks/attention_forms.py            forward and backward of one attention, as in `baseline`
    python benchmarks/attention_forms.py --quick    fewer rounds

Every line of the table processes 2048 tokens: only the row length differs. The two forms alternate, call by call. The
time of a form is the median of the faster half of its calls. The rule of `attention: auto` in plugins/tfs-baseline is
based on this benchmark.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from tfs_baseline.config import BaselineConfig
from tfs_baseline.model import Attention
from tfs_speed.kernels import keep_freed_memory
from torch import Tensor

TOKENS, N_HEADS, N_KV_HEADS, D_HEAD = 2048, 4, 2, 64
LENGTHS = (64, 128, 256, 512, 1024)
KINDS = {
    "float32, highest": (torch.float32, "highest"),
    "float32, medium": (torch.float32, "medium"),
    "bfloat16": (torch.bfloat16, "medium"),
}


def inputs(seq_len: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return queries, keys and values in the layout of a block, and the mask that the explicit form adds."""
    generator = torch.Generator().manual_seed(1)

    def heads(number: int) -> Tensor:
        shape = (TOKENS // seq_len, seq_len, number, D_HEAD)
        drawn = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
        return drawn.transpose(1, 2)  # [batch_size, number, seq_len, d_head]

    hidden = torch.full((seq_len, seq_len), -torch.inf, dtype=dtype).triu(1)  # [seq_len, seq_len]
    mask = hidden.repeat(N_HEADS // N_KV_HEADS, 1)[None, None]  # [1, 1, n_shared*seq_len, seq_len]
    return heads(N_HEADS), heads(N_KV_HEADS), heads(N_KV_HEADS), mask


def measure(seq_len: int, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Return the time of forward and backward of each form, in milliseconds."""
    attention = Attention(BaselineConfig(d_model=N_HEADS * D_HEAD, n_heads=N_HEADS, n_kv_heads=N_KV_HEADS))
    queries, keys, values, mask = inputs(seq_len, dtype)
    grad = torch.ones_like(queries)
    forms = {
        "explicit": lambda: attention.attend(queries, keys, values, mask),
        "fused": lambda: attention.attend_fused(queries, keys, values, None),
    }
    times: dict[str, list[float]] = {form: [] for form in forms}
    for taken in range(rounds + 3):
        for form, attend in forms.items():
            started_at = time.perf_counter()
            attend().backward(grad)
            if taken >= 3:  # the first calls warm up memory and kernels
                times[form].append(1e3 * (time.perf_counter() - started_at))
    return {form: statistics.median(sorted(values)[: (len(values) + 1) // 2]) for form, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 calls of each form instead of 40")
    arguments = parser.parse_args()
    keep_freed_memory()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {TOKENS} tokens, {N_HEADS} query heads, "
        f"{N_KV_HEADS} key/value heads, {D_HEAD} wide; forward and backward"
    )
    print(f"{'type':<18} {'length':>6} {'explicit ms':>12} {'fused ms':>9} {'fused / explicit':>17}")
    for kind, (dtype, precision) in KINDS.items():
        torch.set_float32_matmul_precision(precision)
        for seq_len in LENGTHS:
            taken = measure(seq_len, dtype, 10 if arguments.quick else 40)
            ratio = taken["fused"] / taken["explicit"]
            print(f"{kind:<18} {seq_len:>6} {taken['explicit']:>12.2f} {taken['fused']:>9.2f} {ratio:>16.2f}x")


if __name__ == "__main__":
    main()
