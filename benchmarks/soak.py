"""Memory, descriptors, threads, disk and time per step of one long run, followed from outside.

    python benchmarks/soak.py [--steps 50000] [--keep FOLDER]

`tfs run` trains a small model in a process of its own: every step writes a line, and checkpoints (with rotation),
validations and samples come regularly. This process follows the log as the dashboard does, with `Run.read` from the
last offset on, and measures the training process every --every steps. At the end it prints a table of tenths of the run
and the verdict. The time per step is that of the loop: from the log's tokens and tokens_per_second, without validation,
saving and sampling. Linux only (/proc).
"""

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from tfs_core.runs import Run, find_run

MEGABYTE = 1e6
GROWTH_AT_MOST = 5.0, 0.01
"""Growth of memory in the last 80 percent of the run: megabytes, or the fraction of the mean if that is more."""

SLOWER_AT_MOST = 1.10
"""Time per step in the last tenth, relative to the second tenth."""


@dataclass(frozen=True)
class Sample:
    """The training process and its run folder at a step."""

    step: int
    memory: float  # megabytes, resident
    descriptors: int
    threads: int
    logs: float  # megabytes
    checkpoints: float  # megabytes: everything else in the run folder
    reader: float  # megabytes, resident, of this process


def write_config(folder: Path, steps: int) -> Path:
    """Write a configuration and its text, and return the path of the configuration."""
    words = random.Random(0).choices(["one ", "two ", "three ", "four.\n", "five, "], k=100_000)
    (folder / "words.txt").write_text("".join(words), encoding="utf-8")
    config = {
        "experiment_name": "soak",
        "data": {
            "dataset": {"name": "text", "path": "words.txt", "separator": ".\n"},
            "tokenizer": "byte",
            "max_length": 32,
        },
        "model": {"name": "torch", "d_model": 32, "n_heads": 2, "n_blocks": 2, "max_seq_len": 32, "dropout": 0.1},
        "training": {
            "batch_size": 8,
            "max_steps": steps,
            "learning_rate": 1e-3,
            "eval_every": 500,
            "max_eval_batches": 8,
            "checkpoint_every": 250,
            "keep_checkpoints": 3,
        },
        "samples": {"prompts": ["one"], "max_length": 16},
        "runtime": {"device": "cpu", "threads": 1},
    }
    file = folder / "soak.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def resident(pid: int) -> float:
    """Return the resident memory of a process in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def look(step: int, pid: int, folder: Path) -> Sample:
    """Return the state of the training process."""
    logs = everything = 0
    for path in folder.rglob("*"):
        try:
            size = path.stat().st_blocks * 512
        except FileNotFoundError:  # a checkpoint that is being rotated
            continue
        everything += size
        logs += size if path.suffix == ".jsonl" else 0
    return Sample(
        step=step,
        memory=resident(pid),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        logs=logs / MEGABYTE,
        checkpoints=(everything - logs) / MEGABYTE,
        reader=resident(os.getpid()),
    )


def follow(process: subprocess.Popen[bytes], assets: Path, every: int) -> tuple[list[Sample], np.ndarray, Run]:
    """Follow the log until the process ends. Return the samples, the log's numbers, and the run.

    The numbers are float64 [lines, 3]: tokens, tokens_per_second, elapsed_seconds.
    """
    samples: list[Sample] = []
    numbers: list[tuple[float, float, float]] = []
    offset = 0
    while not list(assets.glob("runs/*/run.json")) and process.poll() is None:
        time.sleep(0.1)
    if process.poll() is not None:
        return [], np.empty((0, 3)), Run(assets, {})
    run = find_run("soak", assets)
    while True:
        has_ended = process.poll() is not None
        lines = run.read("metrics", offset)
        offset = lines.next_offset
        expected = range(len(numbers) + 1, len(numbers) + 1 + len(lines.rows))
        assert lines.bad == 0, "a line of the log is damaged"
        assert [row["step"] for row in lines.rows] == list(expected), "a line of the log is missing, or comes twice"
        numbers += [(row["tokens"], row["tokens_per_second"], row["elapsed_seconds"]) for row in lines.rows]
        if has_ended:
            return samples, np.array(numbers), find_run("soak", assets)
        if len(numbers) >= (samples[-1].step if samples else 0) + every:
            try:
                samples.append(look(len(numbers), process.pid, run.folder))
            except FileNotFoundError:  # the process has just ended
                continue
        time.sleep(0.5)


def mean_ms(values: np.ndarray) -> float:
    """Return the mean of seconds, in milliseconds."""
    return float(values.mean() * 1e3)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=50_000)
    arguments.add_argument("--every", type=int, default=500, help="steps between two looks at the process")
    arguments.add_argument("--keep", type=Path, help="folder for the run, which is kept (default: a temporary one)")
    chosen = arguments.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        config = write_config(folder, chosen.steps)
        command = [Path(sys.executable).with_name("tfs"), "run", "--config", config, "--assets", folder / "assets"]
        printed = folder / "output.txt"
        with printed.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            samples, numbers, run = follow(process, folder / "assets", chosen.every)
        if process.returncode != 0 or len(samples) < 20:
            sys.exit(f"exit code {process.returncode}, {len(samples)} samples:\n{printed.read_text(encoding='utf-8')}")

    tokens, speed, elapsed = numbers.T
    loop = np.diff(tokens, prepend=0) / speed  # seconds of each step
    wall = np.diff(elapsed, prepend=elapsed[0])
    edges = np.linspace(0, len(loop), 11).astype(int)
    tenths = [slice(first, last) for first, last in itertools.pairwise(edges)]
    in_tenth = [[it for it in samples if tenth.start < it.step <= tenth.stop] for tenth in tenths]
    print("| tenth | memory | descriptors | threads | logs | checkpoints | a step | with saving etc. | reader |")
    print("|---|---|---|---|---|---|---|---|---|")
    for number, (tenth, seen) in enumerate(zip(tenths, in_tenth, strict=True), start=1):
        last = seen[-1]
        print(
            f"| {number} | {np.mean([it.memory for it in seen]):.1f} MB | {span(it.descriptors for it in seen)} "
            f"| {span(it.threads for it in seen)} | {last.logs:.1f} MB | {max(it.checkpoints for it in seen):.2f} MB "
            f"| {mean_ms(loop[tenth]):.2f} ms | {mean_ms(wall[tenth]):.2f} ms | {last.reader:.1f} MB |"
        )
    sys.exit(1 if verdict(samples, loop, tenths, run) else 0)


def span(values: Iterable[int]) -> str:
    """Return `12`, or `12 to 14` for different values."""
    found = sorted(set(values))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def verdict(samples: list[Sample], loop: np.ndarray, tenths: list[slice], run: Run) -> list[str]:
    """Print the figures that are promised, and return those that are missed."""
    last = [it for it in samples if it.step > len(loop) // 5]
    steps = np.array([it.step for it in last], float)
    memory = np.array([it.memory for it in last])
    growth = float(np.polyfit(steps, memory, 1)[0] * (steps[-1] - steps[0]))
    at_most = max(GROWTH_AT_MOST[0], GROWTH_AT_MOST[1] * float(memory.mean()))
    slower = mean_ms(loop[tenths[-1]]) / mean_ms(loop[tenths[1]])
    halves = last[: len(last) // 2], last[len(last) // 2 :]
    # Medians: during a save, a file more is open, and a checkpoint more is on the disk.
    descriptors = [float(np.median([it.descriptors for it in half])) for half in halves]
    checkpoints = [float(np.median([it.checkpoints for it in half])) for half in halves]
    judged = {
        f"memory grows by {growth:.2f} MB in the last 80 percent (at most {at_most:.1f})": growth <= at_most,
        f"descriptors {descriptors[0]:.0f}, later {descriptors[1]:.0f}": descriptors[1] <= descriptors[0],
        f"threads {span(it.threads for it in last)}": last[-1].threads <= last[0].threads,
        f"checkpoints {checkpoints[0]:.2f} MB, later {checkpoints[1]:.2f} MB": checkpoints[1] <= 1.01 * checkpoints[0],
        f"a step takes {slower:.3f} times as long at the end (at most {SLOWER_AT_MOST})": slower <= SLOWER_AT_MOST,
        f"the run is {run.status}, its log has {len(loop)} lines": run.status == "finished",
    }
    for figure, is_kept in judged.items():
        print(f"{'ok' if is_kept else 'MISSED'}: {figure}")
    return [figure for figure, is_kept in judged.items() if not is_kept]


if __name__ == "__main__":
    main()
