"""The runs of an assets folder and their logs, cached in memory and refreshed on request.

`RunIndex` lists the runs from their `run.json` files. `RunStore` adds the columns of their logs, in a least recently
used (LRU) cache of bounded size.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tfs_core.runs import Run, file_of, parse_line, read_run, run_folders
from tfs_dash.column_cache import ColumnCache, user_cache
from tfs_dash.log_columns import LogColumns
from tfs_dash.once import Once
from tfs_dash.run_info import TOO_LARGE, well_formed

Columns = dict[str, np.ndarray]

MAX_BYTES = 512 << 20
"""Memory limit for the columns of all runs."""

MAX_LINES_BYTES = 32 << 20
"""Only this many bytes at the end of the samples and events logs are read."""

MAX_CONFIG_BYTES = 256 << 10
"""Larger configurations are not read: YAML of megabytes takes a minute to parse."""

T = TypeVar("T")

LOGS = ("metrics", "validation", "samples", "events")


@dataclass(frozen=True)
class RunData:
    """A run for figures and tables. `read(log, names)` returns columns of a log, float64 [rows] each."""

    name: str
    position: int  # rank by start time; sets color and dash
    info: dict[str, Any] = field(repr=False)
    status: str
    read: Callable[[str, Sequence[str]], Columns] = field(repr=False)
    read_config: Callable[[], dict[str, Any]] = field(repr=False, default=dict)
    read_lines: Callable[[str], list[dict[str, Any]]] = field(repr=False, default=lambda _: [])
    read_tail: Callable[[str], list[dict[str, Any]]] = field(repr=False, default=lambda _: [])  # the last lines
    bad_lines: Callable[[], int] = field(repr=False, default=lambda: 0)  # in the part read so far
    files: Callable[[], list[Path | None]] = field(repr=False, default=list)  # input files of charts, without run.json
    stamp: object = field(repr=False, default=None)  # file state of run.json when `info` was read

    def training(self, *names: str) -> Columns:
        """Return columns of `metrics.jsonl`."""
        return self.read("metrics", names)

    def validation(self, *names: str) -> Columns:
        """Return columns of `validation.jsonl`."""
        return self.read("validation", names)


class RunIndex:
    """The runs of an assets folder, by name. A refresh without changes costs one `stat` per run."""

    def __init__(self, assets: Path) -> None:
        self.assets = assets
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int, int], Run]] = {}
        self._runs: list[Run] = []
        self._names: dict[str, int] = {}
        self._looked_at = -np.inf
        self._state: object = None
        self.version = 0  # incremented when a run is added, removed, or rewrites its run.json

    def refresh(self, max_age_seconds: float = 0.0) -> int:
        """Rescan the folder, unless the last scan is at most `max_age_seconds` old; return the version."""
        with self._lock:
            if time.monotonic() - self._looked_at > max_age_seconds:
                self._look()
                self._looked_at = time.monotonic()
            return self.version

    def _look(self) -> None:
        known: dict[str, tuple[tuple[int, int, int], Run]] = {}
        for folder in run_folders(self.assets):
            stamp = _stamp(folder / "run.json")
            if stamp is None:
                continue
            before = self._known.get(folder.name)
            if before is not None and before[0] == stamp:
                known[folder.name] = before
            elif (run := read_run(folder)) is not None:
                known[folder.name] = (stamp, replace(run, info=well_formed(run.info)))
        statuses = [run.status for _, run in known.values() if run.info.get("status") == "running"]
        state = (sorted((name, entry[0]) for name, entry in known.items()), statuses)
        if state != self._state:
            self._state, self._known = state, known
            by_name = [(str(run.info.get("started_at")), name, run) for name, (_, run) in known.items()]
            self._runs = [run for *_, run in sorted(by_name, key=lambda entry: entry[:2])]
            self._names = {run.folder.name: position for position, run in enumerate(self._runs)}
            self.version += 1

    def runs(self) -> list[Run]:
        """Return all runs in the order of their start."""
        return list(self._runs)

    def find(self, name: str) -> tuple[int, Run] | None:
        """Return a run's position and the run, or None. The name is only looked up, never joined to a path."""
        position = self._names.get(name)
        return None if position is None else (position, self._runs[position])

    def stamp_of(self, name: str) -> object:
        """Return the file state of a run's run.json, to detect changes; None for an unknown run."""
        known = self._known.get(name)
        return None if known is None else known[0]


class RunStore:
    """The runs and their logs. Thread-safe."""

    def __init__(self, assets: Path, *, max_bytes: int = MAX_BYTES, cache: ColumnCache | None = None) -> None:
        """Open the runs of `assets`. `cache` stores the columns of long logs on disk between starts."""
        self.index = RunIndex(assets)
        self.max_bytes = max_bytes
        self.cache = cache
        self._lock = threading.Lock()
        self._logs: OrderedDict[tuple[str, str], tuple[threading.Lock, LogColumns]] = OrderedDict()
        self._bad: dict[tuple[str, str], int] = {}
        self._read: dict[Path, tuple[object, object]] = {}
        self.charts: Once[dict[str, Any]] = Once(24)
        """Cache of encoded figures, used by figures/kept.py."""

    def runs(self) -> list[RunData]:
        """Return all runs in the order of their start."""
        return [self._data(position, run) for position, run in enumerate(self.index.runs())]

    def find(self, name: str) -> RunData | None:
        """Return a run by its name, or None."""
        found = self.index.find(name)
        return None if found is None else self._data(*found)

    def data_of(self, run: Run, *, position: int, name: str | None = None) -> RunData:
        """Return the data of any run, also one outside of the assets folder, optionally under another name."""
        return self._data(position, replace(run, info=well_formed(run.info)), name)

    def _data(self, position: int, run: Run, name: str | None = None) -> RunData:
        return RunData(
            name=name or run.name,
            position=position,
            info=run.info,
            status=run.status,
            read=lambda log, names: self._columns(run, log, names),
            read_config=lambda: self._config(run),
            read_lines=lambda log: self._read_lines(run, log),
            read_tail=lambda log: last_lines(run.log_path(log)),
            bad_lines=lambda: self._bad_lines(run),
            files=lambda: [run.log_path("metrics"), run.log_path("validation"), file_of(run.folder, "config.yaml")],
            stamp=self.index.stamp_of(run.folder.name),
        )

    def log_sizes(self, names: Sequence[str]) -> list[list[int]]:
        """Return the sizes in bytes of the logs of some runs, to detect new lines."""
        found = [self.index.find(name) for name in names]
        stamps = ([_stamp(entry[1].log_path(log)) for log in LOGS] for entry in found if entry)
        return [[stamp[1] if stamp else 0 for stamp in of_run] for of_run in stamps]

    def state_of(self, runs: Sequence[RunData]) -> object:
        """Return a hashable cache key for charts of these runs: name, position, status and file states."""
        return tuple((run.name, run.position, run.status, run.stamp, *map(_stamp, run.files())) for run in runs)

    def _columns(self, run: Run, log: str, names: Sequence[str]) -> Columns:
        path = run.log_path(log)
        if path is None:
            return {name: np.empty(0) for name in names}
        key = (str(run.folder), log)
        with self._lock:
            lock, columns = self._logs.setdefault(key, (threading.Lock(), LogColumns(path, self.cache)))
            self._logs.move_to_end(key)
        with lock:
            result = columns.read(names)
            self._bad[key] = columns.bad_lines
        self._evict()
        return result

    def _evict(self) -> None:
        with self._lock:
            total = sum(columns.n_bytes for _, columns in self._logs.values())
            while total > self.max_bytes and len(self._logs) > 1:
                _, (_, columns) = self._logs.popitem(last=False)
                total -= columns.n_bytes

    def _bad_lines(self, run: Run) -> int:
        return sum(self._bad.get((str(run.folder), log), 0) for log in LOGS)

    def _read_lines(self, run: Run, log: str) -> list[dict[str, Any]]:
        """Return the JSON objects in the lines of a log. Only its last MAX_LINES_BYTES are read."""

        def read(size: int) -> list[dict[str, Any]]:
            return run.read(log, max(size - MAX_LINES_BYTES, 0)).rows

        return self._read_if_changed(run.log_path(log), read, [])

    def _config(self, run: Run) -> dict[str, Any]:
        path = file_of(run.folder, "config.yaml")
        return self._read_if_changed(path, lambda size: _read_config(path, size), {})

    def _read_if_changed(self, path: Path | None, read: Callable[[int], T], nothing: T) -> T:
        """Return the cached result of `read(size)` for a file; `read` is called again when the file changes."""
        stamp = _stamp(path)
        if path is None or stamp is None:
            return nothing
        if self._read.get(path, (None, nothing))[0] != stamp:
            self._read[path] = (stamp, read(stamp[1]))
        return self._read[path][1]  # type: ignore[return-value]


def _read_config(path: Path | None, size: int) -> dict[str, Any]:
    import yaml  # lazy: slow to import, and the first chart does not need it

    if path is None or size > MAX_CONFIG_BYTES:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except Exception:  # PyYAML raises errors of any type, such as AttributeError for `!!timestamp x`
        return {}
    return config if isinstance(config, dict) and _is_reasonable(config) else {}


def open_store(assets: Path) -> RunStore:
    """Return a store of the runs of an assets folder, with the user's on-disk cache for long logs."""
    return RunStore(assets, cache=user_cache())


def _is_reasonable(config: dict[str, Any], *, most_values: int = 20_000, deepest: int = 20) -> bool:
    """Return False if a configuration is too large or too deep, or holds a number of thousands of digits.

    YAML aliases can be cyclic or expand exponentially, and Python does not write such a number as text.
    """
    values, left = 0, [(0, config)]
    while left and values < most_values:
        depth, value = left.pop()
        values += 1
        inside = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        if depth > deepest or (isinstance(value, int) and abs(value) > TOO_LARGE):
            return False
        left += [(depth + 1, item) for item in inside]
    return not left


def last_lines(path: Path | None, *, tail_bytes: int = 32768) -> list[dict[str, Any]]:
    """Return the JSON objects among the complete lines in the last `tail_bytes` of a log, in file order."""
    try:
        with open(path or os.devnull, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - tail_bytes, 0))
            content = file.read()
    except OSError:
        return []
    first = content.find(b"\n") + 1 if size > tail_bytes else 0  # start of the first complete line
    rows = map(parse_line, content[first : content.rfind(b"\n") + 1].splitlines())
    return [row for row in rows if row is not None]


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """Return (modification time in ns, size, inode) of a file; None when it does not exist."""
    try:
        state = path.stat() if path else None
    except OSError:
        return None
    return None if state is None else (state.st_mtime_ns, state.st_size, state.st_ino)
