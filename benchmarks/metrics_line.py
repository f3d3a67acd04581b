"""Time to write a line of metrics.jsonl: microseconds, and the ratio to the minimum.

The minimum is `json.dumps` of the same values and one `os.write`. Both write to the same disk and alternate, round by
round. The fastest round of each is compared.

    python benchmarks/metrics_line.py
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tfs_core.builtin.jsonl import JsonlLogger
from tfs_core.records import StepRecord

ROUNDS = 15
LINES = 2000


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        epoch=step // 1000,
        tokens=8192 * step,
        flops=1.2345678e12 * step,
        elapsed_seconds=0.4771234567 * step,
        loss=8.2059712 / (1 + step / 1000),
        learning_rate=2.7182818e-4,
        grad_norm=1.2345678,
        tokens_per_second=17180.123456,
    )


def seconds_per_line(write: Callable[[StepRecord], None], records: list[StepRecord]) -> float:
    started_at = time.perf_counter()
    for item in records:
        write(item)
    return (time.perf_counter() - started_at) / len(records)


def main() -> None:
    records = [record(step) for step in range(1, LINES + 1)]
    with tempfile.TemporaryDirectory() as folder:
        logger = JsonlLogger(Path(folder))
        logger.on_start()
        descriptor = os.open(Path(folder) / "bare.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def write_bare(item: StepRecord) -> None:
            os.write(descriptor, f"{json.dumps(vars(item))}\n".encode())

        ours, bare = float("inf"), float("inf")
        for _ in range(ROUNDS):
            ours = min(ours, seconds_per_line(logger.on_step, records))
            bare = min(bare, seconds_per_line(write_bare, records))
        logger.on_end("finished")
        os.close(descriptor)
    print(f"a metrics line: {ours * 1e6:.1f} us (at most 20), {ours / bare:.2f} times json.dumps and os.write")


if __name__ == "__main__":
    main()
