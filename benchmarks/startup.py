"""CPU time of `tfs --help` against that of `import click, pluggy`: the ratio must be at most 2.5.

Each runs in its own process. The two alternate, so that other load on the machine affects both, and the medians are
compared.

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
    """Return the user and system time of a process and its children, in seconds."""
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
        cpu_seconds(command)  # warm-up: the first start reads from the disk
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            seconds[name].append(cpu_seconds(command))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<22} {1000 * value:6.1f} ms CPU")
    print(f"ratio {medians['tfs --help'] / medians['import click, pluggy']:.2f} (at most 2.5)")


if __name__ == "__main__":
    main()
