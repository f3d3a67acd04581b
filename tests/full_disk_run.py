"""The command `tfs` in a process whose disk becomes full, or which is killed, at a chosen moment.

Used by `tests/test_full_disk.py`. A moment is an operation on a file below the folder `disk`, such as
`write metrics.jsonl`, `fsync manifest.json`, `open state.json` (for writing), `save model.safetensors`,
`replace run.json` or `mkdir checkpoints`. A filler takes all room directly before the moment, and is removed directly
before a later one, if given.

The global `arguments` (set by the caller of this file):

    command         the words after `tfs`
    disk            the mount point of the small disk; the filler is `disk/filler`
    fill_at         (moment, n): before its n-th occurrence; or n: before the n-th of all moments; or None
    free_after      the filler is removed so many moments later; None: it stays
    kills           the process kills itself (SIGKILL) instead of filling the disk
    left            bytes that stay free
    takes_names     the filler also takes all inodes, so that no file or folder can be created
    constants       {"module.NAME": value}: replaced module constants
    moments_path    file for the list of moments, written at the end
    output_path     file for stdout and stderr of the process
"""

import errno
import importlib
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tfs_core.tensor_files
from tfs_core.cli.main import tfs


class Disk:
    """A small disk that is filled and freed at moments of the process."""

    def __init__(
        self,
        folder: str,
        *,
        fill_at: tuple[str, int] | int | None,
        free_after: int | None,
        kills: bool,
        left: int,
        takes_names: bool,
    ) -> None:
        self.filler = Path(folder, "filler")
        self.moments: list[str] = []
        self._folder = folder
        self._seen: Counter[str] = Counter()
        self._fill_at, self._free_after = fill_at, free_after
        self._kills, self._left, self._takes_names = kills, left, takes_names
        self._filled_at: int | None = None
        self._is_busy = False

    def at(self, operation: str, path: Any) -> None:
        """Count a moment, and fill or free the disk if it is the one."""
        place = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if self._is_busy or not place.startswith(self._folder):
            return
        self._is_busy = True
        moment = f"{operation} {re.sub(r'^[.]|[.][0-9]+$', '', os.path.basename(place))}"
        self.moments.append(moment)
        self._seen[moment] += 1
        now = len(self.moments)
        if self._filled_at is None and self._fill_at in (now, (moment, self._seen[moment])):
            self._filled_at = now
            if self._kills:
                os.kill(os.getpid(), signal.SIGKILL)
            fill(self.filler, left=self._left, takes_names=self._takes_names)
        elif self._filled_at is not None and self._free_after and now == self._filled_at + self._free_after:
            free(self.filler)
        self._is_busy = False

    def watch(self) -> None:
        """Count the moments of this process from now on."""
        originals: Any = os.write, os.fsync, vars(tfs_core.tensor_files)["save_file"]

        def name_of(descriptor: int) -> str:
            return os.readlink(f"/proc/self/fd/{descriptor}")

        def write(descriptor: int, content: Any) -> Any:
            self.at("write", name_of(descriptor))
            return originals[0](descriptor, content)

        def fsync(descriptor: int) -> None:
            self.at("fsync", name_of(descriptor))
            originals[1](descriptor)

        def save_file(tensors: Any, path: Any, **named: Any) -> None:
            self.at("save", path)
            originals[2](tensors, path, **named)

        def audit(event: str, details: tuple[Any, ...]) -> None:
            if event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR):
                self.at("open", details[0])
            elif event == "os.rename":
                self.at("replace", details[1])
            elif event == "os.mkdir":
                self.at("mkdir", details[0])

        for module, function in ((os, write), (os, fsync), (tfs_core.tensor_files, save_file)):
            setattr(module, function.__name__, function)
        sys.addaudithook(audit)


def fill(filler: Path, *, left: int, takes_names: bool) -> None:
    """Take all room of the disk, except `left` bytes, and on request all inodes."""
    filler.mkdir()
    with until_full(), (filler / "bytes").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        finally:
            file.truncate(max(0, file.tell() - left))
    with until_full():
        number = 0
        while takes_names:
            (filler / str(number)).touch()
            number += 1


def free(filler: Path) -> None:
    """Remove the filler."""
    for path in filler.iterdir():
        path.unlink()
    filler.rmdir()


@contextmanager
def until_full() -> Iterator[None]:
    """Suppress the OSError of a full disk, and no other (context manager)."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def main(
    *,
    command: list[str],
    disk: str,
    fill_at: tuple[str, int] | int | None = None,
    free_after: int | None = None,
    kills: bool = False,
    left: int = 0,
    takes_names: bool = False,
    constants: dict[str, Any] | None = None,
    moments_path: str | None = None,
    output_path: str,
) -> None:
    output = os.open(output_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name, value in (constants or {}).items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    watched = Disk(disk, fill_at=fill_at, free_after=free_after, kills=kills, left=left, takes_names=takes_names)
    watched.watch()
    try:
        tfs.main(command)
    finally:
        if moments_path is not None:
            Path(moments_path).write_text(json.dumps(watched.moments), encoding="utf-8")


main(**arguments)  # type: ignore[name-defined]  # noqa: F821
