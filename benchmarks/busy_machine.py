"""Measure training beside other busy processes: tfs's limit on spinning threads against the default of OpenMP.

The demo's model trains with two threads: on a quiet machine, beside two busy processes, and beside six, in turn. A fair
share of the processor is cores / (threads + busy processes) of the quiet speed, at most all of it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
THREADS = 2
SIDES = {"tfs": {}, "default": {"GOMP_SPINCOUNT": "300000"}}  # libgomp's own when nothing is set
STEPS = {0: 120, 2: 60, 6: 25}
LIMIT_SECONDS = 120.0


def tokens_per_second(environment: dict[str, str], *, busy: int, assets: Path, steps: int) -> float:
    """Train the demo's model for some steps beside busy processes, and return the median speed."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                *(str(Path(sys.executable).with_name("tfs")), "run", "--config", str(ROOT / "configs/quickstart.yaml")),
                *("--assets", str(assets), "--name", Path(folder).name),
                *("--set", f"training.max_steps={steps}", "--set", f"runtime.threads={THREADS}"),
                *("--set", "samples=null", "--set", "training.eval_every=1000000", "--set", "training.log_every=1"),
            ]
            with suppress(subprocess.TimeoutExpired):  # some steps are enough
                subprocess.run(
                    command, env=os.environ | environment, check=True, capture_output=True, timeout=LIMIT_SECONDS
                )
            lines = (assets / "runs" / Path(folder).name / "metrics.jsonl").read_text().splitlines()
    finally:
        for other in others:
            other.kill()
            other.wait()
    steps_taken = [json.loads(line) for line in lines]
    first, last = steps_taken[min(2, len(steps_taken) - 2)], steps_taken[-1]
    return (last["tokens"] - first["tokens"]) / (last["elapsed_seconds"] - first["elapsed_seconds"])


def main() -> None:
    """Print the speed of both sides, their ratio, and the share of the fair share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spin", action="append", default=[], help="also measure this spin count")
    options = parser.parse_args()
    sides = SIDES | {f"spin {count}": {"GOMP_SPINCOUNT": count} for count in options.spin}
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        assets = Path(folder)
        tokens_per_second({}, busy=0, assets=assets, steps=4)  # trains the tokenizer, tokenizes
        speeds: dict[tuple[str, int], list[float]] = {}
        for _ in range(options.rounds):
            for busy, steps in STEPS.items():
                for side, environment in sides.items():
                    speed = tokens_per_second(environment, busy=busy, assets=assets, steps=steps)
                    speeds.setdefault((side, busy), []).append(speed)
                    print(f"  {side:<12} beside {busy}: {speed:,.0f}", flush=True)
    quiet = statistics.median(speeds["default", 0])
    for busy in STEPS:
        fair = quiet * min(1.0, cores / (THREADS + busy))
        for side in sides:
            speed = statistics.median(speeds[side, busy])
            print(f"beside {busy}  {side:<12} {speed:>8,.0f} tokens/s, {speed / fair:.2f} of the fair share")


if __name__ == "__main__":
    main()
