"""Reading before anybody asks.

In a second process: `python -m tfs_dash.read_ahead ASSETS` decodes the newest runs' curves into the cache. It begins
before the dashboard imports what it serves with, and takes nothing of the one processor that answers the browser. The
dashboard finds the columns in the cache; what is not there yet it reads itself.

And in a thread of the dashboard, which draws the first chart while Dash is imported.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tfs_core.runs import run_folders
from tfs_dash.column_cache import WORTH_KEEPING_BYTES, users_cache

if TYPE_CHECKING:
    from tfs_dash.store import RunStore


def start(assets: Path) -> subprocess.Popen[bytes] | None:
    """Start it, and return the process; None when there is nothing to decode, or no cache."""
    if users_cache() is None or nothing_to_decode(assets):
        return None
    command = [sys.executable, "-m", "tfs_dash.read_ahead", str(assets)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def nothing_to_decode(assets: Path) -> bool:
    """Say whether the columns of all long logs are in the cache."""
    cache = users_cache()
    return all(cache is not None and cache.is_kept(log, "loss") for log in _long_logs(assets))


def _long_logs(assets: Path) -> Iterator[Path]:
    for folder in run_folders(assets):
        log = folder / "metrics.jsonl"
        with suppress(OSError):
            if log.stat().st_size >= WORTH_KEEPING_BYTES:
                yield log


def end(process: subprocess.Popen[bytes]) -> None:
    """End it, unless it has ended by itself."""
    process.terminate()
    process.wait()


def draw_first_chart(store: "RunStore") -> None:
    """Draw the chart that most look at first while the browser loads the page: what it needs is then read and smoothed.

    For a thread of the dashboard's own process.
    """
    from tfs_dash.figures.kept import kept_figure
    from tfs_dash.figures.loss import loss_figure
    from tfs_dash.view import DEFAULT, chosen_runs

    store.index.refresh()
    kept_figure(loss_figure, chosen_runs(DEFAULT, store)[0], DEFAULT, store)


def main() -> None:
    """Read and end."""
    from tfs_dash.store import open_store
    from tfs_dash.view import NEWEST

    store = open_store(Path(sys.argv[1]))
    store.index.refresh()
    for run in reversed(store.runs()[-NEWEST:]):
        run.training("step", "loss")


if __name__ == "__main__":
    main()
