"""Local files, found by path, folder or glob in a deterministic order, and their fingerprint."""

import glob
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from tfs_core.durable import sha256_of, write_durably
from tfs_core.errors import CheckpointError, DataError
from tfs_core.plugins import did_you_mean
from tfs_core.progress import Advance, progress
from tfs_core.stored_json import read_json
from tfs_datasets.members import is_visible

Paths = Path | tuple[Path, ...]

BIG_FILE = 1 << 26
"""Size in bytes from which the hash of a file is cached. Hashing this size takes about 0.2 seconds."""

SETTLED_NANOSECONDS = 2_000_000_000
"""Minimum age of a file to cache its hash: soon after a change, another write might keep the same timestamp."""


class LocalFiles:
    """The files of each split of the data set `name`.

    Raises DataError when a path matches no file, or a file is in both splits.
    """

    def __init__(self, name: str, path: Paths, validation_path: Paths | None, *, assets: Path) -> None:
        self._hash_cache = assets / "datasets" / "hashes"
        self._files = {"train": find_files(name, path)}
        if validation_path is not None:
            self._files["validation"] = find_files(name, validation_path)
            if both := set(self._files["train"]) & set(self._files["validation"]):
                raise DataError(f"{name}: {min(both)} is in both path and validation_path. Take it out of one of them.")
        paths = [path, validation_path or ()]
        self._named = {path for given in paths for path in (given if isinstance(given, tuple) else (given,))}
        first = self._files["train"][0].name
        more = sum(map(len, self._files.values())) - 1
        self.description = f"{name} {first}" + (f" and {more} more" if more else "")

    def splits(self) -> Sequence[str]:
        """Return the splits that have files."""
        return tuple(self._files)

    def of(self, split: str) -> Sequence[Path]:
        """Return the files of a split in order."""
        return self._files[split]

    def is_named(self, file: Path) -> bool:
        """Return whether the user has named this file, instead of a folder or a glob that it was found by."""
        return file in self._named

    def fingerprint(self, *options: object) -> str:
        """Return a hash of the contents of the files, in order, and of the options that affect the documents."""
        total = sum(os.path.getsize(file) for files in self._files.values() for file in files if os.path.exists(file))
        with progress("checking for changes", total=total, unit="B") as advance:
            hashes = {split: [self._hash(file, advance) for file in files] for split, files in self._files.items()}
        return hashlib.sha256(json.dumps([hashes, options]).encode("utf-8")).hexdigest()[:20]

    def _hash(self, file: Path, advance: Advance) -> str:
        """Return the SHA-256 of a file. The hash of a big file is cached until its size or timestamps change."""
        try:
            found = file.stat()
            state = [str(file), found.st_size, found.st_mtime_ns, found.st_ctime_ns]
            cached = self._hash_cache / f"{hashlib.sha256(os.fsencode(file)).hexdigest()[:20]}.json"
            if found.st_size >= BIG_FILE and (known := _cached_hash(cached, state)):
                advance(found.st_size)
                return known
            digest = sha256_of(file, advance)
            age = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns)
            if found.st_size >= BIG_FILE and age > SETTLED_NANOSECONDS:
                cached.parent.mkdir(parents=True, exist_ok=True)
                write_durably(cached, json.dumps({"state": state, "sha256": digest}).encode("utf-8"))
        except OSError as error:
            raise DataError(f"{error.filename or file} cannot be read or written: {error.strerror}") from error
        return digest


def _cached_hash(cached: Path, state: list[object]) -> str | None:
    """Return the cached hash of a file in this state; None when there is none, or the cache file is damaged."""
    try:
        known = read_json(cached, {"state": [object], "sha256": str}, limit=1 << 20)
    except CheckpointError:
        return None
    return str(known["sha256"]) if known["state"] == state else None


def find_files(name: str, paths: Paths) -> list[Path]:
    """Return the files that match the paths of the data set `name`, without repeats.

    Hidden files in a folder, and those of file managers, are skipped. The files of a folder or glob are sorted by path.
    Raises DataError when a path matches no file, or `paths` is empty.
    """
    found: dict[Path, None] = {}
    for path in paths if isinstance(paths, tuple) else (paths,):
        if os.path.isfile(path):  # Path.is_file raises for a very long name
            files = [path]
        elif os.path.isdir(path):
            files = _inside(path)
        else:
            files = [Path(file) for file in glob.glob(str(path), recursive=True)]
            files = [file for file in files if os.path.isfile(file)]
        if not files:
            raise DataError(f"{name}: {_no_file_message(path)}")
        found |= dict.fromkeys(sorted(files, key=lambda file: file.parts))
    if not found:
        raise DataError(f"{name}: the list of paths is empty. Name at least one file, folder or glob.")
    return list(found)


def _inside(folder: Path) -> list[Path]:
    """Return the visible files in a folder and its visible folders. Links to folders are not followed."""
    files: list[Path] = []
    with progress("looking for files", unit="files") as advance:
        for path, folders, names in os.walk(folder):
            folders[:] = filter(is_visible, folders)
            found = [Path(path, name) for name in filter(is_visible, names)]
            files += filter(os.path.isfile, found)
            advance(len(found))
    return files


def _no_file_message(path: Path) -> str:
    if os.path.isdir(path):
        return f"there is no file in the folder {path}"
    if os.path.exists(path):  # Path.exists raises for a very long name
        return f"{path} is not a regular file: text is read from files and folders"
    if glob.has_magic(str(path)):
        return f"no file matches {path}"
    parent = path.parent
    if not os.path.isdir(parent):
        return f"there is no folder {parent}"
    return f"there is no file {path}." + did_you_mean(path.name, [entry.name for entry in parent.iterdir()])
