"""Writing a run folder: its creation, its lock, and atomic updates of `run.json`.

The files are specified in docs/formats.md; `tfs_core.runs` reads them.
"""

import json
import os
import platform
import re
import secrets
import socket
import subprocess
import tempfile
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
from tfs_core.durable import is_locked, write_durably
from tfs_core.errors import CheckpointError, TrainingError, UsageError
from tfs_core.runs import FORMAT_VERSION, HEARTBEAT_SECONDS, check_nothing_leads_out, is_inside, load_run, read_run

GIT_SECONDS = 2.0
"""Timeout of a git command; after it the git state is recorded as unknown (null)."""

INITIALLY_NULL = """
host pid platform versions plugins git group seed tags model total_steps parameters flops_per_token bigram_bits_per_byte
device threads matmul compiled machine forked_from
""".split()  # noqa: SIM905 (a list would take twenty lines)
"""Keys of `run.json` that are null at first, and set when the folder is entered or training starts."""


class RunFolder:
    """The folder of one run; a context manager that locks it.

    Entering sets the status to `running`, with host and process id. Call `end` before leaving. If an exception leaves
    the block first, the status becomes `failed`, or `stopped` for KeyboardInterrupt and SystemExit.
    """

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder = folder
        self.info = info
        self._lock = FileLock(folder / "run.lock")
        self._written_at = float("-inf")

    @classmethod
    def create(cls, assets: Path, name: str | None, experiment_name: str) -> "RunFolder":
        """Create `assets/runs/<name>`, or the first free one of `<experiment_name>`, `<experiment_name>-2`, ...

        Raises UsageError when `name` exists already or is not a valid folder name.
        """
        return cls.create_in(assets / "runs", name, experiment_name)

    @classmethod
    def create_in(cls, parent: Path, name: str | None, experiment_name: str) -> "RunFolder":
        """Create the folder in `parent`; see `create`."""
        return cls(folder := _make_folder(parent, name, experiment_name), _new_info(folder, experiment_name))

    @classmethod
    def begin_again(cls, folder: Path, experiment_name: str) -> "RunFolder":
        """Return the folder of a run that ended before its first checkpoint, as that of a new run. Raises as `open`."""
        check_usable(folder)
        run = read_run(folder)
        kept: dict[str, Any] = (
            {} if run is None else {key: run.info[key] for key in ("run_id", "started_at") if key in run.info}
        )
        return cls(folder, {**_new_info(folder, experiment_name), **kept})

    @classmethod
    def open(cls, folder: Path) -> "RunFolder":
        """Return the folder of an existing run, to resume it.

        Raises CheckpointError when there is none, and when something in it leads out of it, and TrainingError when it
        cannot be used. From here on everything below the folder may be written, locked and deleted.
        """
        check_usable(folder)
        info = load_run(folder).info
        original = read_run(folder.with_name(Path(str(info.get("name"))).name or "runs"))
        if original is not None and original.name != folder.name and original.info.get("run_id") == info.get("run_id"):
            forked_from = {"run": original.name, "step": (info.get("summary") or {}).get("last_step")}
            info |= {"run_id": secrets.token_hex(8), "name": folder.name, "forked_from": forked_from}  # a copied folder
        return cls(folder, info)

    def __enter__(self) -> Self:
        """Lock the folder. Raises TrainingError, naming the process that holds the lock, when it is locked."""
        try:
            self._lock.acquire(timeout=1.0)
        except Timeout:
            raise _in_use(self.folder) from None
        except OSError as error:  # such as a folder that may only be read
            raise TrainingError(
                f"{self._lock.lock_file} cannot be locked: {error.strerror or error}. Make room, give yourself write "
                "permission, or train on a copy of the run's folder."
            ) from error
        for leftover in self.folder.glob(".*"):  # of a process that was killed while it wrote one of these files
            if re.fullmatch(r"\.(run\.json|config\.yaml)\.\d+|\..+\.jsonl\.kept", leftover.name):
                with suppress(OSError):  # a folder of this name
                    leftover.unlink(missing_ok=True)
        try:
            self.write_info(
                status="running",
                ended_at=None,
                host=socket.gethostname(),
                pid=os.getpid(),
                platform=platform.platform(),
                versions={"python": platform.python_version(), **package_versions(["tfs-core", "torch"])},
                git=git_state(Path.cwd()),
            )
        except BaseException:
            self._leave_unwritten()
            raise
        return self

    def _leave_unwritten(self) -> None:
        """Release the lock, and delete the folder if nothing else is in it, so that its name is free again."""
        self._lock.release()
        if [path.name for path in self.folder.iterdir()] in ([], ["run.lock"]):
            (self.folder / "run.lock").unlink(missing_ok=True)
            self.folder.rmdir()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self.info["status"] == "running" and error is not None:
                with suppress(TrainingError):  # such as a full disk: the original error is more useful
                    self.end("failed" if isinstance(error, Exception) else "stopped")
        finally:
            self._lock.release()

    def write_info(self, **changes: Any) -> None:
        """Update keys of `run.json` (JSON values), and the heartbeat. The file is replaced atomically.

        Raises TrainingError when the file cannot be written, and TypeError or ValueError for values that are not JSON.
        """
        changes["heartbeat_at"] = now()
        content = json.dumps({**self.info, **changes}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self.info.update(changes)  # after json.dumps, so that invalid values are not stored
        path = self.folder / "run.json"
        try:
            write_durably(path, content.encode("utf-8", "replace"))
        except OSError as error:
            again = "continue with --resume" if path.exists() else "start the run again"
            raise TrainingError(
                f"{path} cannot be written: {error.strerror or error}. Make room or change the permissions, then "
                f"{again}."
            ) from error
        self._written_at = time.monotonic()

    def heartbeat(self, **changes: Any) -> None:
        """Call `write_info` if the last write is at least HEARTBEAT_SECONDS ago. Call this after every step.

        A file that cannot be written, as on a disk that is full, is tried again after the next step.
        """
        if time.monotonic() - self._written_at >= HEARTBEAT_SECONDS:
            with suppress(TrainingError):
                self.write_info(**changes)

    def end(self, status: str, **changes: Any) -> None:
        """Set the final status, `finished`, `stopped` or `failed`, and the time of the end."""
        self.write_info(status=status, ended_at=now(), **changes)


def check_usable(folder: Path) -> None:
    """Raise a TfsError unless the folder of a run can be locked and written, without writing to it."""
    if not is_inside(folder, folder.parent):
        raise CheckpointError(
            f"{folder} is a link to another folder. To write there, give that one: {folder.resolve()}"
        )
    check_nothing_leads_out(folder)
    for path in folder.iterdir():
        if path.is_file() and path.stat().st_nlink > 1:
            raise CheckpointError(
                f"{path} has a second name (a hard link), whose content would change too: train on a copy of the folder"
            )
    if is_locked(folder / "run.lock"):
        raise _in_use(folder)
    if not os.access(folder, os.W_OK):
        raise TrainingError(
            f"{folder} cannot be written: give yourself write permission, or train on a copy of the run's folder"
        )


def _in_use(folder: Path) -> TrainingError:
    """Return the error for a run that another process, described in `run.json`, has locked."""
    run = read_run(folder)
    info = run.info if run else {}
    holder = "another process"
    if info.get("pid") is not None:
        holder = f"process {info['pid']} on {info.get('host')}, last active at {info.get('heartbeat_at')}"
    return TrainingError(
        f"The run '{folder.name}' is in use by {holder}. Wait until it has ended, or end it, or start another run with "
        "--name."
    )


def _new_info(folder: Path, experiment_name: str) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a new run."""
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
    empty: dict[str, Any] = {**dict.fromkeys(INITIALLY_NULL), "versions": {}, "plugins": {}, "tags": []}
    return {**info, **empty, "summary": summary}


def now() -> str:
    """Return the current time in the format of run folders: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def check_name(parent: Path, name: str) -> None:
    """Raise UsageError unless a new run in the folder `parent` can have this name."""
    if problem := folder_name_problem(name):
        raise UsageError(f"'{name}' cannot name a run: {problem}. Letters, digits, '-', '_' and '.' are always safe.")
    if os.path.lexists(parent / name):
        raise UsageError(
            f"{parent / name} exists already. Choose another --name, leave it out, or resume that run: --resume {name}"
        )


def _make_folder(parent: Path, name: str | None, experiment_name: str) -> Path:
    if name is not None:
        check_name(parent, name)
        (parent / name).mkdir(parents=True)
        return parent / name
    if problem := folder_name_problem(experiment_name):
        raise UsageError(f"'{experiment_name}' cannot name a run: {problem}. Change experiment_name.")
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (experiment_name if number == 1 else f"{experiment_name}-{number}")
        try:
            folder.mkdir()  # atomic: of two processes that try at the same time, one succeeds
            return folder
        except FileExistsError:
            number += 1


def package_versions(distributions: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each distribution; None if it is not installed."""
    versions: dict[str, str | None] = {}
    for name in distributions:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def git_state(folder: Path) -> Mapping[str, Any] | None:
    """Return `{"commit": ..., "dirty": ...}` of the repository that contains a folder; None without repository or git.

    Dirty means that tracked files differ from the commit. Remotes, names and messages are not read.

    Security: filters, hooks and monitors of a repository's own configuration are programs. Therefore git compares its
    files in a new, empty repository that shares nothing with it but the objects and the index.
    """
    wanted = ["HEAD", "--show-toplevel", "--git-path", "objects", "--git-path", "index"]
    paths = _git(folder, {}, "rev-parse", *wanted)
    if paths is None or len(lines := paths.splitlines()) != 4:
        return None
    commit, *places = lines
    top, objects, index = (str(folder / place) for place in places)
    with tempfile.TemporaryDirectory() as empty:
        for name in ("objects", "refs"):
            Path(empty, name).mkdir()
        Path(empty, "HEAD").write_text(commit, encoding="ascii")
        shared = {"GIT_DIR": empty, "GIT_WORK_TREE": top, "GIT_OBJECT_DIRECTORY": objects, "GIT_INDEX_FILE": index}
        arguments = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        changed = _git(Path(top), shared, *arguments)
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(folder: Path, environment: Mapping[str, str], *arguments: str) -> str | None:
    """Return what a git command prints, or None if it fails."""
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.decode("utf-8", "replace").strip()
