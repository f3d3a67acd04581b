"""Reading in a second process: `python -m tfs_dash.read_ahead ASSETS` decodes the newest runs' curves into the cache.

It begins before the dashboard imports what it serves with, and takes nothing of the one processor that answers the
browser. The dashboard finds the columns in the cache; what is not there yet it reads itself.
"""

import subprocess
import sys
from pathlib import Path


def start(assets: Path) -> subprocess.Popen[bytes]:
    """Start it, and return the process."""
    command = [sys.executable, "-m", "tfs_dash.read_ahead", str(assets)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end(process: subprocess.Popen[bytes]) -> None:
    """End it, unless it has ended by itself."""
    process.terminate()
    process.wait()


def main() -> None:
    """Read and end."""
    from tfs_dash.column_cache import users_cache
    from tfs_dash.store import RunStore
    from tfs_dash.view import NEWEST

    RunStore(Path(sys.argv[1]), cache=users_cache()).read_ahead(NEWEST)


if __name__ == "__main__":
    main()
