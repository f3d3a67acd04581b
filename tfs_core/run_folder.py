"""The run folder, written: `run.json`, replaced in one piece, and the lock that keeps two processes out of one run.

docs/formats.md says what the files hold; `tfs_core.runs` reads them.
"""

import json
import os
import platform
import secrets
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from tfs_core.config import folder_name_problem
from tfs_core.durable import write_durably
from tfs_core.errors import CheckpointError, TrainingError, UsageError
from tfs_core.runs import FORMAT_VERSION, HEARTBEAT_SECONDS, read_run

GIT_SECONDS = 2.0
"""A repository that takes longer to answer than this is written down as unknown."""

UNTIL_KNOWN = """
host pid platform versions plugins git group seed tags model total_steps parameters flops_per_token bigram_bits_per_byte
device threads matmul compiled machine forked_from
""".split()  # noqa: SIM905 (a column of twenty words is no easier to read)
"""What is filled in on entering, and by whoever trains; every key is there from the start."""


class RunFolder:
    """One run's folder, locked while the `with` block lasts.

    Entering marks the run as running, here and now. Whoever trains sets the status before leaving; an exception on
    its way out sets it to `failed` (`stopped` when it is an interruption).
    """

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder = folder
        self.info = info
        self._lock = FileLock(folder / "run.lock")
        self._written_at = float("-inf")

    @classmethod
    def create(cls, assets: Path, name: str | None, experiment_name: str) -> "RunFolder":
        """Make `assets/runs/<name>`, or the first free one of `<experiment_name>`, `<experiment_name>-2`, ...

        Raises UsageError when `name` exists already, or cannot name a folder.
        """
        return cls.create_in(assets / "runs", name, experiment_name)

    @classmethod
    def create_in(cls, parent: Path, name: str | None, experiment_name: str) -> "RunFolder":
        """Make the folder in `parent`; see `create`."""
        folder = _make_folder(parent, name, experiment_name)
        info = {
            "format_version": FORMAT_VERSION,
            "run_id": secrets.token_hex(8),
            "name": folder.name,
            "experiment_name": experiment_name,
            "status": "running",
            "started_at": now(),
            "heartbeat_at": now(),
            "ended_at": None,
        }
        summary = {"last_step": 0, "tokens": 0, "flops": 0.0, "best_validation": None}
        empty: dict[str, Any] = {**dict.fromkeys(UNTIL_KNOWN), "versions": {}, "plugins": {}, "tags": []}
        return cls(folder, {**info, **empty, "summary": summary})

    @classmethod
    def open(cls, folder: Path) -> "RunFolder":
        """Return the folder of a run that exists, to go on with it; raises CheckpointError when there is none."""
        run = read_run(folder)
        if run is None:
            raise CheckpointError(f"{folder} is no run folder: it has no readable run.json")
        if run.info.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{folder / 'run.json'} has format {run.info.get('format_version')}, and this tfs writes format "
                f"{FORMAT_VERSION}: go on with the version of tfs that began it."
            )
        return cls(folder, run.info)

    def __enter__(self) -> Self:
        """Lock the folder; raises TrainingError that names the holder when another process has it."""
        try:
            self._lock.acquire(timeout=1.0)
        except Timeout:
            raise TrainingError(
                f"The run '{self.folder.name}' is in use by {self._holder()}. "
                "Wait until it has ended, or end it, or begin another run with --name."
            ) from None
        except OSError as error:  # among others for a run.lock that is a symbolic link
            raise TrainingError(f"{self._lock.lock_file} cannot be locked: {error.strerror or error}.") from error
        self.write_info(
            status="running",
            ended_at=None,
            host=socket.gethostname(),
            pid=os.getpid(),
            platform=platform.platform(),
            versions={"python": platform.python_version(), **package_versions(["tfs-core", "torch"])},
            git=git_state(Path.cwd()),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self.info["status"] == "running" and error is not None:
                with suppress(TrainingError):  # the disk is full, say: the error on its way tells more
                    self.end("failed" if isinstance(error, Exception) else "stopped")
        finally:
            self._lock.release()

    def _holder(self) -> str:
        """Return what `run.json` says about the process that has the lock."""
        run = read_run(self.folder)
        info = run.info if run else {}
        if info.get("pid") is None:
            return "another process"
        return f"process {info['pid']} on {info.get('host')}, last active at {info.get('heartbeat_at')}"

    def write_info(self, **changes: Any) -> None:
        """Put JSON values into `run.json`, keeping the rest, and renew the heartbeat.

        Raises TrainingError when the disk is full, or not ours, and TypeError for what is not JSON.
        """
        changes["heartbeat_at"] = now()
        content = json.dumps({**self.info, **changes}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self.info.update(changes)  # only now: values that are not JSON would spoil every later writing
        path = self.folder / "run.json"
        try:
            write_durably(path, content.encode("utf-8", "replace"))
        except OSError as error:
            raise TrainingError(
                f"{path} cannot be written: {error.strerror or error}. Make room or change the permissions, then go on "
                "with --resume."
            ) from error
        self._written_at = time.monotonic()

    def heartbeat(self, **changes: Any) -> None:
        """Do as `write_info` when the last writing is `HEARTBEAT_SECONDS` ago; to be called after every step."""
        if time.monotonic() - self._written_at >= HEARTBEAT_SECONDS:
            self.write_info(**changes)

    def end(self, status: str, **changes: Any) -> None:
        """Write down that the run ended: `finished`, `stopped` or `failed`."""
        self.write_info(status=status, ended_at=now(), **changes)


def now() -> str:
    """Return the time as run folders have it: UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _make_folder(parent: Path, name: str | None, experiment_name: str) -> Path:
    wanted = experiment_name if name is None else name
    problem = folder_name_problem(wanted)
    if problem:
        raise UsageError(f"'{wanted}' cannot name a run: {problem}. Letters, digits, '-', '_' and '.' are always safe.")
    parent.mkdir(parents=True, exist_ok=True)
    if name is not None:
        try:
            (parent / name).mkdir()
        except FileExistsError:
            raise UsageError(
                f"{parent / name} exists already. Choose another --name, leave it out, or go on with that run: "
                f"--resume {name}"
            ) from None
        return parent / name
    number = 1
    while True:
        folder = parent / (experiment_name if number == 1 else f"{experiment_name}-{number}")
        try:
            folder.mkdir()  # two that begin at once: mkdir lets one of them through
            return folder
        except FileExistsError:
            number += 1


def package_versions(distributions: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each distribution, None for one that is not installed."""
    versions: dict[str, str | None] = {}
    for name in distributions:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def git_state(folder: Path) -> Mapping[str, Any] | None:
    """Return `{"commit": ..., "dirty": ...}` of the repository around a folder, None without one or without git.

    Dirty means that tracked files differ from the commit. Nothing else is asked: no remote, no name, no message.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    # A repository of somebody else's may name programs to run on `status`: these settings keep git from it.
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *arguments]
    try:
        answer = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.decode("utf-8", "replace").strip()
