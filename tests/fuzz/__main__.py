"""Fuzzing: no input, however broken, may crash tfs, hang it, write outside of its folders, or run code.

    python tests/fuzz                                 ten minutes, all targets in turn (make fuzz)
    python tests/fuzz --target state --minutes 1      one target
    python tests/fuzz --replay state:7-12             one case again

A case is a copy of two tiny runs in which a file is mutated, and commands that read it. Good outcomes are success and a
TfsError. Finds are: any other exception, a hang, memory above the limit, a raw control character in the output, the
content of a file outside, a write outside, a started program, an imported file. Each find is printed once, with the
case to repeat it, and written to a folder.

Miller, Fredriksen & So (1990), "An Empirical Study of the Reliability of UNIX Utilities",
https://doi.org/10.1145/96267.96279
"""

import argparse
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker.py")
START_SECONDS = 300.0
CASE_SECONDS = 60.0
"""Time after which a process is killed: longer than the alarms of a case, to which Python code reacts."""
CASES_PER_PROCESS = 200


def environment_in(work: Path) -> dict[str, str]:
    """Return the environment of a process that runs cases: no network, and all caches in the folder `work`."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("TFS_", "HF_"))}
    folders = {
        name: str(work / "home") for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR")
    }
    hub = {"HF_DATASETS_CACHE": str(work / "case" / "hub-cache"), "HF_HUB_OFFLINE": "1"}
    quiet = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    memory = {"MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system"}  # reserve no memory without using it
    return {**kept, **folders, **hub, **quiet, **memory}


class Worker:
    """The process that runs cases, one after the other. It is started again after a hang, and now and then."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.process: subprocess.Popen[bytes] | None = None
        self.cases = 0

    def start(self) -> list[str]:
        """Start the process, and return the names of all targets. The first process makes the base."""
        self.close()
        words, pipe = [sys.executable, str(WORKER), str(self.work)], subprocess.PIPE
        environment = environment_in(self.work)
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, env=environment, cwd=self.work)
        self.cases = 0
        targets: list[str] | None = self._answer(START_SECONDS)
        if targets is None:
            raise SystemExit((self.work / "console.txt").read_text())
        return targets

    def run(self, case: str | dict[str, Any]) -> list[dict[str, str]]:
        """Return the finds of a case, given by its name or as a kept find; the death of the process is a find too."""
        if self.process is None or self.cases >= CASES_PER_PROCESS:
            self.start()
        self.cases += 1
        assert self.process is not None
        assert self.process.stdin is not None, "it is a pipe"
        self.process.stdin.write(json.dumps(case).encode() + b"\n")
        self.process.stdin.flush()
        finds: list[dict[str, str]] | None = self._answer(CASE_SECONDS)
        if finds is None:
            return [self._death()]
        if any(find["kind"] in ("hang", "memory") for find in finds):
            self.close()  # it may hold locks, or be short of memory
        return finds

    def _answer(self, seconds: float) -> Any:
        assert self.process is not None
        assert self.process.stdout is not None, "it is a pipe"
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None  # no line: the process has ended

    def _death(self) -> dict[str, str]:
        assert self.process is not None
        try:
            how = f"ends with code {self.process.wait(2)}"
        except subprocess.TimeoutExpired:
            how = "does not react"
            self.process.send_signal(signal.SIGABRT)  # prints the stacks of its threads
            time.sleep(2)
        self.close()
        console = (self.work / "console.txt").read_text(errors="replace")
        frames = [line.strip() for line in console.splitlines() if str(ROOT) in line and ".venv" not in line]
        where = frames[0].removeprefix(f'File "{ROOT}/') if frames else ""
        about: dict[str, str] = json.loads((self.work / "notes.json").read_text())
        return {"kind": "death", "signature": f"the process {how}, {where}", "detail": console} | about

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
        self.process = None


def main() -> int:
    """Run cases until the time is over; return 1 if there were finds."""
    parser = argparse.ArgumentParser(description="Fuzz the files and arguments that tfs reads.")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--minutes", type=float, default=10.0, help="default: 10")
    parser.add_argument("--cases", type=int, help="end after this many cases of each target")
    parser.add_argument("--target", action="append", help="only this target; may be repeated")
    parser.add_argument("--replay", metavar="CASE", help="run one case, such as state:7-12")
    parser.add_argument("--finds", type=Path, default=ROOT / "assets" / "fuzz", help="default: assets/fuzz")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tfs-fuzz-") as folder:
        work = Path(folder).resolve()
        (work / "home").mkdir()
        worker = Worker(work)
        try:
            return fuzz(worker, arguments)
        finally:
            worker.close()


def fuzz(worker: Worker, arguments: argparse.Namespace) -> int:
    """Run cases, print each find the first time, and print how often each occurred at the end."""
    found: dict[str, int] = {}
    cases, started_at = 0, time.monotonic()
    all_targets = worker.start()
    targets = [arguments.replay.partition(":")[0]] if arguments.replay else arguments.target or all_targets
    if unknown := {*targets} - {*all_targets}:
        raise SystemExit(f"there is no target {', '.join(unknown)}. Targets: {', '.join(all_targets)}")
    replayed = [arguments.replay] if arguments.replay else None
    numbers = itertools.count() if arguments.cases is None else range(arguments.cases)
    for case in replayed or (f"{target}:{arguments.seed}-{number}" for number in numbers for target in targets):
        if time.monotonic() - started_at > 60 * arguments.minutes:
            break
        cases += 1
        for find in worker.run(case):
            signature = f"{find['kind']}: {find['signature']}"
            found[signature] = found.get(signature, 0) + 1
            if found[signature] == 1:
                print(f"{escaped(signature)}\n  case {case}: {escaped(find['action'])}", flush=True)
                write_find(arguments.finds, f"{len(found):03}-{case.replace(':', '-')}", case, find, worker.work)
    print(f"{cases} cases in {time.monotonic() - started_at:.0f} s, {len(found)} different finds")
    for signature, count in sorted(found.items(), key=lambda entry: -entry[1]):
        print(f"{count:5}  {escaped(signature)}")
    return 1 if found else 0


def escaped(text: str) -> str:
    """Return the text in ASCII, without control characters."""
    return text.encode("unicode_escape").decode("ascii")


def write_find(finds: Path, name: str, case: str, find: dict[str, str], work: Path) -> None:
    """Write the report of a find, and copies of the mutated files unless they are large or special."""
    folder = finds / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    head = [f"{find['kind']}: {find['signature']}", f"python tests/fuzz --replay {case}", find["action"]]
    report = "\n".join([*head, find["notes"], "", find["detail"]])
    (folder / "report.txt").write_text(report, encoding="utf-8", errors="backslashreplace")
    for path in (work / "case" / name for name in find["touched"].split("\n") if name):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20:
            shutil.copyfile(path, folder / path.name)


if __name__ == "__main__":
    sys.exit(main())
