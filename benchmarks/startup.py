"""CPU time of `tfs --help` against that of a bare `import click, pluggy`: at most 2.5 times as much.

Each is a process of its own; the two take turns, and the median of each is taken, so that a busy machine
disturbs both alike.

    python benchmarks/startup.py [--rounds 15]
"""

import argparse
import resource
import statistics
import subprocess
import sys

COMMANDS = {
    "import click, pluggy": [sys.executable, "-c", "import click, pluggy"],
    "tfs --help": [sys.executable, "-c", "from tfs_core.cli.main import main; main()", "--help"],
}


def cpu_seconds(command: list[str]) -> float:
    """Return the user and system time that a process and its children took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        cpu_seconds(command)  # the first of each reads from the disk
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            seconds[name].append(cpu_seconds(command))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<22} {1000 * value:6.1f} ms CPU")
    print(f"ratio {medians['tfs --help'] / medians['import click, pluggy']:.2f} (at most 2.5)")


if __name__ == "__main__":
    main()
