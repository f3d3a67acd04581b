"""Prefetch at the start of the dashboard, in two ways.

A second process, `python -m tfs_dash.read_ahead ASSETS`, decodes the newest runs' loss curves into the on-disk column
cache. It starts before the dashboard imports Dash and runs on another processor core. The dashboard itself decodes the
columns that are not in the cache yet.

A thread of the dashboard draws the first chart while Dash is imported.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tfs_core.runs import run_folders
from tfs_dash.column_cache import MIN_CACHED_LOG_BYTES, user_cache

if TYPE_CHECKING:
    from tfs_dash.store import RunStore


def start(assets: Path) -> subprocess.Popen[bytes] | None:
    """Start the prefetch process and return it; None if all long logs are cached, or without a cache."""
    if user_cache() is None or all_cached(assets):
        return None
    command = [sys.executable, "-m", "tfs_dash.read_ahead", str(assets)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def all_cached(assets: Path) -> bool:
    """Return True if the loss columns of all long logs are in the cache."""
    cache = user_cache()
    return all(cache is not None and cache.is_cached(log, "loss") for log in _long_logs(assets))


def _long_logs(assets: Path) -> Iterator[Path]:
    for folder in run_folders(assets):
        log = folder / "metrics.jsonl"
        with suppress(OSError):
            if log.stat().st_size >= MIN_CACHED_LOG_BYTES:
                yield log


def end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the prefetch process, if it still runs, and wait for it."""
    process.terminate()
    process.wait()


def prefetch_first_chart(store: "RunStore") -> None:
    """Draw the loss chart of the default view, to fill the caches for the first request.

    Called in a thread of the dashboard's own process.
    """
    from tfs_dash.figures.kept import cached_figure
    from tfs_dash.figures.loss import loss_figure
    from tfs_dash.view import DEFAULT, chosen_runs

    store.index.refresh()
    cached_figure(loss_figure, chosen_runs(DEFAULT, store)[0], DEFAULT, store)


def main() -> None:
    """Decode the loss columns of the newest runs into the cache."""
    from tfs_dash.store import open_store
    from tfs_dash.view import NEWEST

    store = open_store(Path(sys.argv[1]))
    store.index.refresh()
    for run in reversed(store.runs()[-NEWEST:]):
        run.training("step", "loss")


if __name__ == "__main__":
    main()
