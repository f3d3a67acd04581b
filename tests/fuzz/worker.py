"""The process that runs the cases of `python tests/fuzz`.

It writes a line with the names of all targets, then for each case that it reads from stdin a line with its finds: JSON.
"""

import faulthandler
import json
import os
import platform
import random
import re
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from click.testing import Result
from mutations import Mutator
from targets import ROOT, TARGETS, Action, make_base, prepare, prepare_kept

from tfs_core.errors import TfsError

HANG_SECONDS = 20.0
MEMORY_BYTES = 3 << 30
"""Memory that a case may take, in addition to that of the process."""
SECRET = "secret-of-another-user"
RAW_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
WRITES = {"os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.truncate": 1, "os.chmod": 1, "os.link": 2}
"""Audit events of writes, and how many of their first arguments are paths."""
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")


class Hang(BaseException):
    """Raised by the alarm of a case."""


class Watch:
    """Records writes outside of a folder, started programs and connections, by Python's audit events."""

    def __init__(self, allowed: list[Path]) -> None:
        self.allowed = allowed
        self.seen: list[str] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is None:
            return
        if event == "open" and isinstance(arguments[0], str | bytes) and self._writes(arguments):
            self._check(event, os.path.realpath(os.fsdecode(arguments[0])))
        elif event in WRITES and all(argument in (-1, None) for argument in arguments[WRITES[event] :][-1:]):
            for path in arguments[: WRITES[event]]:
                parent, name = os.path.split(os.fsdecode(path).rstrip("/"))
                self._check(event, os.path.join(os.path.realpath(parent or "."), name))
        elif event in STARTS and arguments[0] != "git":  # a run records the commit of its folder
            self.seen.append(f"{event} {arguments[:2]!r}"[:300])

    @staticmethod
    def _writes(arguments: tuple[Any, ...]) -> bool:
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))

    def _check(self, event: str, path: str) -> None:
        seen, self.seen = self.seen, None  # looking at a path is no event of the case
        if not any(Path(path).is_relative_to(folder) for folder in self.allowed):
            assert seen is not None
            seen.append(f"{event} of {path}")
        self.seen = seen


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return states and contents of all files below a folder."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        entries[str(path.relative_to(folder))] = (state.st_mode, state.st_size, state.st_mtime_ns, content)
    return entries


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of the files that differ."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def run_case(case: str | dict[str, Any], work: Path, watch: Watch) -> list[dict[str, str]]:
    """Make the case of a name such as `state:7-12`, or of a kept find, run its actions, and return its finds."""
    folder, canary = work / "case", work / "canary"
    (work / "notes.json").write_text(json.dumps({"action": "none yet", "notes": "", "touched": ""}))
    os.chdir(work)
    for old in (folder, canary):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(work / "base", folder)
    canary.mkdir()
    (canary / "secret.txt").write_text(SECRET)
    os.chdir(folder)
    mutator = Mutator(random.Random(str(case)), canary)
    actions = prepare(case.partition(":")[0], mutator) if isinstance(case, str) else prepare_kept(case, mutator)
    seconds = HANG_SECONDS if isinstance(case, str) else case.get("seconds", HANG_SECONDS)
    touched = "\n".join(str(path) for path in mutator.touched)
    about = {"notes": "\n".join(mutator.notes), "touched": touched}
    finds: list[dict[str, str]] = []
    for action in actions:
        about["action"] = " ".join(word[:200] for word in action.words)
        (work / "notes.json").write_text(json.dumps(about))  # in case that the process dies
        before = snapshot(canary)
        finds += [find | about for find in run_action(action, watch, seconds)]
        if (changed := changes(before, snapshot(canary))) and not finds:
            finds.append({"kind": "write outside", "signature": f"of {changed}", "detail": ""} | about)
    return finds


def run_action(action: Action, watch: Watch, seconds: float) -> Iterator[dict[str, str]]:
    """Run an action with an alarm, and yield its finds."""
    for name in [name for name in sys.modules if name.startswith("tfs_local_model")]:
        del sys.modules[name]  # it is imported once per process, and the next import has to be seen
    watch.seen = []
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    try:
        result = action.run()
    except Hang as hang:
        signal.setitimer(signal.ITIMER_REAL, 0)
        yield find_of("hang", hang)
        return
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        seen, watch.seen = watch.seen or [], None
    yield from find_in(result, action)
    for event in dict.fromkeys(seen):
        kind = "write outside" if " of " in event else "started"
        yield {"kind": kind, "signature": re.sub(r"\S*tfs-fuzz-\w+|\d+", "*", event), "detail": event}
    if Path("executed").exists():
        Path("executed").unlink()
        if not action.own:
            yield {"kind": "executed", "signature": f"a file, by {action.words[0]}", "detail": result.output}


def find_in(result: Result, action: Action) -> Iterator[dict[str, str]]:
    """Yield the finds that the end and the output of an action show."""
    error = result.exception
    if error is not None and not isinstance(error, SystemExit | TfsError):
        yield find_of("memory" if isinstance(error, MemoryError) else "exception", error)
    elif result.exit_code not in (0, 1, 2):
        yield {"kind": "exit code", "signature": str(result.exit_code), "detail": result.output}
    printed = result.output + (str(error) if isinstance(error, TfsError) and action.function is None else "")
    for title in ("Traceback (most recent call last)", "Exception ignored in"):
        if title in printed:
            frames = re.findall(r'File "(?:.*/)?(\w+/\w+\.py)", line (\d+)', printed)
            where = ":".join(frames[-1]) if frames else ""
            yield {"kind": "printed", "signature": f"{title} {where}", "detail": printed}
    if raw := RAW_CONTROL.search(printed):
        line = printed[printed.rfind("\n", 0, raw.start()) + 1 : raw.start()]
        text = re.sub(r"\S*[/\d]\S*", "*", line)[:80]
        yield {"kind": "raw", "signature": f"after {text!r}", "detail": repr(printed)[:5000]}
    if SECRET in printed and not action.own:
        yield {"kind": "read outside", "signature": action.words[0], "detail": printed}


def find_of(kind: str, error: BaseException) -> dict[str, str]:
    """Return the find of an exception. Its signature is the innermost frame in the project."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if re.match(rf"{ROOT}/(?!\.venv|tests)", frame.filename)] or frames
    where = f"{inner[-1].filename.removeprefix(f'{ROOT}/')}:{inner[-1].lineno} {inner[-1].name}"
    detail = "".join(traceback.format_exception(error))
    what = "" if kind == "hang" else f"{type(error).__name__} at "
    return {"kind": kind, "signature": f"{what}{where}", "detail": f"{detail[:3000]}\n[...]\n{detail[-3000:]}"}


def raise_hang(number: int, frame: FrameType | None) -> None:
    """Raise Hang in the main thread."""
    raise Hang


def main() -> None:
    """Make the base once, then run the cases that stdin names."""
    work = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    console = os.open(work / "console.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(console, descriptor)
    faulthandler.enable()
    platform.processor()  # starts a program, once for each process
    watch = Watch([work / "case", work / "home", Path("/dev/null")])
    if not (work / "base").exists():
        (work / "case").mkdir()  # the same path as that of the cases: a configuration contains it
        os.chdir(work / "case")
        make_base()
        (work / "case").replace(work / "base")
    signal.signal(signal.SIGALRM, raise_hang)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES,) * 2)
    answers.write(json.dumps(list(TARGETS)).encode() + b"\n")
    for line in sys.stdin.buffer:
        os.truncate(console, 0)
        finds = run_case(json.loads(line), work, watch)
        printed = (work / "console.txt").read_text(errors="replace")
        if not finds and RAW_CONTROL.search(printed):
            about = json.loads((work / "notes.json").read_text())
            finds = [{"kind": "raw", "signature": "by a library", "detail": repr(printed)[:3000]} | about]
        answers.write(json.dumps(finds).encode() + b"\n")


if __name__ == "__main__":
    main()
