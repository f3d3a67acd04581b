"""The runs of an assets folder and what is read of them, kept in memory and brought up to date when asked.

`RunIndex` knows which runs there are from their `run.json` alone. `RunStore` adds what their logs hold, and forgets
what was not looked at for longest when it grows past its limit.
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
from tfs_dash.column_cache import ColumnCache, users_cache
from tfs_dash.log_columns import LogColumns
from tfs_dash.once import Once
from tfs_dash.run_info import well_formed

Columns = dict[str, np.ndarray]

MAX_BYTES = 512 << 20
"""Memory for columns, over all runs."""

MAX_LINES_BYTES = 32 << 20
"""How much is read of samples and events, from their end."""

MAX_CONFIG_BYTES = 256 << 10
"""A configuration has a hundredth of this; YAML of megabytes takes a minute to read."""

T = TypeVar("T")

LOGS = ("metrics", "validation", "samples", "events")


@dataclass(frozen=True)
class RunData:
    """A run as figures and tables see it. `read(log, names)` returns columns, float64 and as long as the log."""

    name: str
    position: int  # among all runs by their start: decides color and dash, so that a run keeps them
    info: dict[str, Any] = field(repr=False)
    status: str
    read: Callable[[str, Sequence[str]], Columns] = field(repr=False)
    read_config: Callable[[], dict[str, Any]] = field(repr=False, default=dict)
    read_lines: Callable[[str], list[dict[str, Any]]] = field(repr=False, default=lambda _: [])
    read_tail: Callable[[str], list[dict[str, Any]]] = field(repr=False, default=lambda _: [])  # the last lines
    bad_lines: Callable[[], int] = field(repr=False, default=lambda: 0)  # of what was read so far
    files: Callable[[], list[Path | None]] = field(repr=False, default=list)  # what is drawn from, beside run.json
    stamp: object = field(repr=False, default=None)  # of run.json when `info` was read

    def training(self, *names: str) -> Columns:
        """Return columns of `metrics.jsonl`."""
        return self.read("metrics", names)

    def validation(self, *names: str) -> Columns:
        """Return columns of `validation.jsonl`."""
        return self.read("validation", names)


class RunIndex:
    """The runs of an assets folder, by name. A look at it that finds nothing new costs a `stat` a run."""

    def __init__(self, assets: Path) -> None:
        self.assets = assets
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int, int], Run]] = {}
        self._runs: list[Run] = []
        self._names: dict[str, int] = {}
        self._looked_at = -np.inf
        self._state: object = None
        self.version = 0  # changes when a run appears, goes or writes its run.json

    def refresh(self, max_age_seconds: float = 0.0) -> int:
        """Look again, unless that was done a moment ago; return the version."""
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
        """Return all runs, the one that was started last at the end."""
        return list(self._runs)

    def find(self, name: str) -> tuple[int, Run] | None:
        """Return a run and its position. The name is looked up, never made part of a path."""
        position = self._names.get(name)
        return None if position is None else (position, self._runs[position])

    def stamp_of(self, name: str) -> object:
        """Return what changes when the run's run.json is written."""
        known = self._known.get(name)
        return None if known is None else known[0]


class RunStore:
    """The runs and their logs. Safe for several threads."""

    def __init__(self, assets: Path, *, max_bytes: int = MAX_BYTES, cache: ColumnCache | None = None) -> None:
        """Look at the runs of `assets`; `cache` keeps what is read of long logs for the next start."""
        self.index = RunIndex(assets)
        self.max_bytes = max_bytes
        self.cache = cache
        self._lock = threading.Lock()
        self._logs: OrderedDict[tuple[str, str], tuple[threading.Lock, LogColumns]] = OrderedDict()
        self._bad: dict[tuple[str, str], int] = {}
        self._read: dict[Path, tuple[object, object]] = {}
        self.charts: Once[dict[str, Any]] = Once(24)
        """What was drawn of these runs, for figures/kept.py."""

    def runs(self) -> list[RunData]:
        """Return all runs, the one that was started last at the end."""
        return [self._data(position, run) for position, run in enumerate(self.index.runs())]

    def find(self, name: str) -> RunData | None:
        """Return a run by its name, or None."""
        found = self.index.find(name)
        return None if found is None else self._data(*found)

    def data_of(self, run: Run, *, position: int, name: str | None = None) -> RunData:
        """Return a run whose folder may be anywhere, under a name of one's own."""
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
        """Return the sizes of the logs of some runs: while they stay the same there is nothing new to draw."""
        found = [self.index.find(name) for name in names]
        stamps = ([_stamp(entry[1].log_path(log)) for log in LOGS] for entry in found if entry)
        return [[stamp[1] if stamp else 0 for stamp in of_run] for of_run in stamps]

    def state_of(self, runs: Sequence[RunData]) -> object:
        """Return what changes whenever something that is drawn of these runs does: to be compared, and to be a key."""
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
        self._forget_oldest()
        return result

    def _forget_oldest(self) -> None:
        with self._lock:
            total = sum(columns.n_bytes for _, columns in self._logs.values())
            while total > self.max_bytes and len(self._logs) > 1:
                _, (_, columns) = self._logs.popitem(last=False)
                total -= columns.n_bytes

    def _bad_lines(self, run: Run) -> int:
        return sum(self._bad.get((str(run.folder), log), 0) for log in LOGS)

    def _read_lines(self, run: Run, log: str) -> list[dict[str, Any]]:
        """Return the lines of a short log; of one that is longer than MAX_LINES_BYTES, the last."""

        def read(size: int) -> list[dict[str, Any]]:
            return run.read(log, max(size - MAX_LINES_BYTES, 0)).rows

        return self._read_again_when_changed(run.log_path(log), read, [])

    def _config(self, run: Run) -> dict[str, Any]:
        path = file_of(run.folder, "config.yaml")
        return self._read_again_when_changed(path, lambda size: _read_config(path, size), {})

    def _read_again_when_changed(self, path: Path | None, read: Callable[[int], T], nothing: T) -> T:
        """Return what `read` makes of a file of that size, read once for each state of the file."""
        stamp = _stamp(path)
        if path is None or stamp is None:
            return nothing
        if self._read.get(path, (None, nothing))[0] != stamp:
            self._read[path] = (stamp, read(stamp[1]))
        return self._read[path][1]  # type: ignore[return-value]


def _read_config(path: Path | None, size: int) -> dict[str, Any]:
    import yaml  # here: it takes time to load, and the first chart is drawn without

    if path is None or size > MAX_CONFIG_BYTES:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) and _is_of_a_run(config) else {}


def open_store(assets: Path) -> RunStore:
    """Return the runs of an assets folder, what is read of long logs being kept in the user's cache."""
    return RunStore(assets, cache=users_cache())


def _is_of_a_run(config: dict[str, Any], *, most_values: int = 20_000, deepest: int = 20) -> bool:
    """Say whether a configuration may be one: aliases make YAML that has no end, or a billion values in ten lines."""
    values, left = 0, [(0, config)]
    while left and values < most_values:
        depth, value = left.pop()
        values += 1
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if depth > deepest:
            return False
        left += [(depth + 1, item) for item in inside]
    return not left


def last_lines(path: Path | None, *, tail_bytes: int = 32768) -> list[dict[str, Any]]:
    """Return the whole lines among the last bytes of a log that are objects, in their order."""
    try:
        with open(path or os.devnull, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - tail_bytes, 0))
            content = file.read()
    except OSError:
        return []
    first = content.find(b"\n") + 1 if size > tail_bytes else 0  # where the first whole line begins
    rows = map(parse_line, content[first : content.rfind(b"\n") + 1].splitlines())
    return [row for row in rows if row is not None]


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """Return what changes when a file does; None when it is not there."""
    try:
        state = path.stat() if path else None
    except OSError:
        return None
    return None if state is None else (state.st_mtime_ns, state.st_size, state.st_ino)
