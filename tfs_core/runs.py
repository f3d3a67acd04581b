"""Reading run folders: finding runs and checkpoints by name, and reading logs. The dashboard uses only this module.

It needs neither torch nor plugins, and writes nothing. The files are specified in docs/formats.md. Against path
traversal, names are looked up in a listing or validated before they become part of a path, and links that lead out of
the folder are ignored.
"""

import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import Any, Literal

from tfs_core.durable import is_locked
from tfs_core.errors import CheckpointError, NewerFormatError
from tfs_core.stored_json import parse_json, read_bytes, read_json

FORMAT_VERSION = 1
"""The version of the run folder's format that this code reads and writes."""

HEARTBEAT_SECONDS = 10.0
"""The interval in which a running run updates `heartbeat_at`, between two steps."""

CRASHED_AFTER_SECONDS = 60.0
"""A run with the status `running`, no lock, and no heartbeat for this long has crashed."""

CHECKPOINT_NAME = re.compile(r"step-(\d{8,})")

MAX_INFO_BYTES = 1 << 20
"""Limit on the size of `run.json`, a thousand times its usual size: a larger file is not from tfs."""

MAX_DEPTH = 20
"""Limit on the depth of folders in a run folder: what deletes folders calls itself for each level."""

MAX_LINE_BYTES = 1 << 22
"""Limit on the length of a line of a log file; a longer line counts as damaged."""

INFO = {
    "format_version?": int,
    "name?": (str, None),
    "experiment_name?": (str, None),
    "status?": str,
    "started_at?": (str, None),
    "heartbeat_at?": (str, None),
    "ended_at?": (str, None),
    "host?": (str, None),
    "pid?": (int, None),
    "model?": (str, None),
    "total_steps?": (int, None),
    "parameters?": ({str: int}, None),
    "flops_per_token?": (float, None),
    "bigram_bits_per_byte?": (float, None),
    "plugins?": {str: str},
    "summary?": {"last_step?": int, "best_validation?": ({"step": int, "loss": float}, None)},
}
"""The shape of `run.json`, as far as this code uses it (see `tfs_core.stored_json`)."""

Which = Literal["latest", "best"]


@dataclass(frozen=True)
class Lines:
    """Lines read from a log file."""

    rows: list[dict[str, Any]]
    bad: int  # number of lines that are not a JSON object; they are not among the rows
    next_offset: int  # offset for the next read: the byte after the last complete line


def read_lines(path: Path, offset: int = 0) -> Lines:
    """Read the complete lines of a log file from a byte offset on; none for a missing file.

    A last line without a newline is incomplete, perhaps still being written: it is left for the next read.
    """
    rows: list[dict[str, Any]] = []
    bad = begun = 0  # `begun`: bytes of a line whose end has not come yet; it is read in pieces if it is too long
    try:
        with path.open("rb") as file:
            file.seek(offset)
            while piece := file.readline(MAX_LINE_BYTES):
                if not piece.endswith(b"\n"):
                    begun += len(piece)
                    continue
                row = None if begun else parse_line(piece)
                if row is None:
                    bad += 1
                else:
                    rows.append(row)
                offset, begun = offset + begun + len(piece), 0
    except FileNotFoundError:
        pass
    return Lines(rows, bad, offset)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object on a line of a log file, or None when the line is not a JSON object."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


@dataclass(frozen=True)
class Run:
    """A run folder. `info` is a snapshot of run.json; the methods read the current files."""

    folder: Path
    info: dict[str, Any] = field(repr=False)  # run.json

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.folder.resolve().name

    @property
    def status(self) -> str:
        """`running`, `finished`, `stopped`, `failed`, or `crashed`: marked running, without lock or heartbeat."""
        status = str(self.info.get("status"))
        if status != "running":
            return status
        lock = file_of(self.folder, "run.lock")
        if lock is not None and is_locked(lock):
            return status
        return "crashed" if self._seconds_since_heartbeat() > CRASHED_AFTER_SECONDS else status

    def _seconds_since_heartbeat(self) -> float:
        try:
            heartbeat_at = datetime.fromisoformat(str(self.info.get("heartbeat_at")))
            return (datetime.now(UTC) - heartbeat_at).total_seconds()
        except (ValueError, TypeError):  # not a time, or a time without a time zone
            return float("inf")

    def read(self, name: str, offset: int = 0) -> Lines:
        """Read `<name>.jsonl` from a byte offset on: metrics, validation, samples, events, metrics.<component>."""
        path = self.log_path(name)
        return read_lines(path, offset) if path else Lines([], 0, offset)

    def log_path(self, name: str) -> Path | None:
        """Return the path of `<name>.jsonl`, or None in the cases that `file_of` describes. The file need not exist."""
        return file_of(self.folder, f"{name}.jsonl")

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of `metrics.jsonl`, one per logged optimizer step."""
        return self.read("metrics").rows

    def validation(self) -> list[dict[str, Any]]:
        """Return the lines of `validation.jsonl`, one per validation."""
        return self.read("validation").rows

    def samples(self) -> list[dict[str, Any]]:
        """Return the lines of `samples.jsonl`, one per prompt and validation."""
        return self.read("samples").rows

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of `events.jsonl`."""
        return self.read("events").rows

    def checkpoints(self) -> list[Path]:
        """Return the folders of the complete checkpoints, oldest first."""
        folder = self.folder / "checkpoints"
        names = os.listdir(folder) if folder.is_dir() else []
        found = [folder / name for name in names if CHECKPOINT_NAME.fullmatch(name)]
        complete = [path for path in found if (path / "manifest.json").is_file() and is_inside(path, self.folder)]
        return sorted(complete, key=lambda path: int(path.name.removeprefix("step-")))

    @property
    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return self._follow_pointer("latest") or next(reversed(self.checkpoints()), None)

    @property
    def best(self) -> Path | None:
        """The checkpoint with the lowest validation loss, or None."""
        return self._follow_pointer("best")

    def _follow_pointer(self, which: Which) -> Path | None:
        pointer = file_of(self.folder / "checkpoints", which)
        try:
            name = "" if pointer is None else read_bytes(pointer, limit=100).decode().strip()
        except (OSError, ValueError, CheckpointError):
            return None
        return next((path for path in self.checkpoints() if path.name == name), None)


def file_of(folder: Path, name: str) -> Path | None:
    """Return the path of a file in a run folder; the file need not exist.

    Return None for path traversal (a name or link that leads out of the folder), and when the path is not a regular
    file: opening a named pipe would block.
    """
    if os.path.basename(name) != name:
        return None
    path = folder / name
    try:
        state = os.lstat(path)
        if S_ISLNK(state.st_mode):
            if not is_inside(path, folder):
                return None
            state = os.stat(path)
    except (OSError, ValueError):  # missing, or an invalid name
        return path
    return path if S_ISREG(state.st_mode) else None


def check_nothing_leads_out(folder: Path) -> None:
    """Raise CheckpointError unless a folder holds nothing but files, folders, and links to something inside it.

    Call it before reading a checkpoint, and before writing to a run folder that exists: reading, writing, locking and
    deleting follow links, and wait at named pipes.
    """
    waiting = [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        try:
            entries = [(place / name, os.lstat(place / name).st_mode) for name in os.listdir(place)]
        except FileNotFoundError:  # deleted meanwhile, by a process that has locked the run
            continue
        except OSError as error:
            raise CheckpointError(f"{place} cannot be read: {error.strerror or error}") from None
        for path, mode in entries:
            if S_ISDIR(mode) and depth < MAX_DEPTH:
                waiting.append((path, depth + 1))
            elif S_ISDIR(mode) or not (S_ISREG(mode) or (S_ISLNK(mode) and is_inside(path, folder))):
                raise CheckpointError(
                    f"{path} is a link that leads out of {folder}, a special file, or a deeply nested folder, and tfs "
                    "makes no such thing: neither read nor written. Remove it, or replace a link by a copy."
                )


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path is in a folder, or is the folder, when all links are followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a cycle of links
        return False


def assets_folder(option: str | Path | None) -> Path:
    """Return the folder of data, tokens and runs: `--assets`, else TFS_ASSETS, else `./assets`."""
    return Path(option or os.environ.get("TFS_ASSETS") or "assets")


def read_run(folder: Path) -> Run | None:
    """Return the run of a folder, of any format version, or None when it has no readable `run.json`."""
    try:
        return _load(folder)
    except CheckpointError:
        return None


def load_run(folder: Path) -> Run:
    """Return the run of a folder. Raises CheckpointError when its `run.json` is missing, damaged, or of a newer tfs."""
    run = _load(folder)
    if (version := run.info.get("format_version", FORMAT_VERSION)) != FORMAT_VERSION:
        place = folder / "run.json"
        raise NewerFormatError(f"{place} has format {version}, and this tfs reads format {FORMAT_VERSION}: upgrade tfs")
    return run


def _load(folder: Path) -> Run:
    path = file_of(folder, "run.json")
    if path is None:
        raise CheckpointError(f"{folder / 'run.json'} is no regular file of this folder, so it is not read")
    return Run(folder, read_json(path, INFO, limit=MAX_INFO_BYTES))


def list_runs(assets: Path) -> list[Run]:
    """Return the runs in `assets/runs`, in the order in which they were started."""
    runs = [run for folder in run_folders(assets) if (run := read_run(folder))]
    return sorted(runs, key=lambda run: (str(run.info.get("started_at")), run.name))


def run_folders(assets: Path, wanted: str | None = None) -> list[Path]:
    """Return the entries of `assets/runs`, or only the one named `wanted`, without links that lead out of it."""
    root = assets / "runs"
    names = os.listdir(root) if root.is_dir() else []
    found = [root / name for name in names if wanted in (None, name)]
    return [path for path in found if not path.is_symlink() or is_inside(path, root)]


def find_run(target: str, assets: Path) -> Run:
    """Return a run by its name or folder. Raises CheckpointError that suggests the nearest name."""
    for folder in [*run_folders(assets, target), Path(target)]:
        if os.path.lexists(folder / "run.json"):
            return load_run(folder)
    raise CheckpointError(_no_run_message(target, assets))


def _no_run_message(target: str, assets: Path) -> str:
    names = [run.name for run in list_runs(assets)]
    if not names:
        return (
            f"There is no run '{target}', and no runs yet in {assets / 'runs'}. "
            "Start one: tfs run --config configs/quickstart.yaml"
        )
    nearest = get_close_matches(Path(target).name, names, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    listed = ", ".join(reversed(names[-10:])) + (", ..." if len(names) > 10 else "")
    return (
        f"There is no run '{target}' in {assets / 'runs'}, nor a run folder of that path.{hint} Newest first: {listed}"
    )


def find_checkpoint(target: str, assets: Path, which: Which = "latest") -> Path:
    """Return a checkpoint folder: `target` itself, or the latest or best checkpoint of the run that `target` names.

    `target` may also be one of the pointer files `latest` and `best`. Raises CheckpointError.
    """
    path = Path(target)
    if os.path.isfile(path / "manifest.json"):  # os.path: Path.is_file raises for a very long name
        return path
    around = read_run(path.parent.parent)
    if CHECKPOINT_NAME.fullmatch(path.name):
        raise CheckpointError(_no_checkpoint_message(path, around))
    if around and path.name in ("latest", "best") and path.is_file():
        run, which = around, "latest" if path.name == "latest" else "best"
    else:
        run = find_run(target, assets)
    found = run.latest if which == "latest" else run.best
    if found is None:
        why = "it was never validated; its latest one is" if run.latest else "nothing was saved in"
        raise CheckpointError(f"The run '{run.name}' has no {which} checkpoint: {why} {run.latest or run.folder}.")
    return found


def _no_checkpoint_message(path: Path, run: Run | None) -> str:
    what = f"{path} is not a complete checkpoint: it has no manifest.json." if path.is_dir() else f"There is no {path}."
    if run is None:
        return f"{what} A checkpoint is a folder in the 'checkpoints' of a run folder."
    there = ", ".join(checkpoint.name for checkpoint in run.checkpoints())
    return f"{what} The run '{run.name}' has {'these checkpoints: ' + there if there else 'no checkpoint'}."
