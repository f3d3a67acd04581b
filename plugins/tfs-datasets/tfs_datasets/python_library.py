"""The data set `python-stdlib`: the source code of the running Python's standard library, available on every machine.

Tests and generated tables (half of the library, and poor training text) and installed packages are excluded. Each
Python version has a different library, so losses are comparable only between runs on the same version.
"""

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

from tfs_core.errors import DataError

LEFT_OUT_FOLDERS = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "encodings",  # generated: tables of code pages
        "idle_test",
        "pydoc_data",  # generated: the language reference in one dictionary
        "site-packages",
        "test",
        "tests",
    }
)
LEFT_OUT_FILES = ("_sysconfigdata*.py", "_opcode_metadata.py", "entities.py", "stringprep.py", "sitecustomize.py")
"""Generated files, and files of the installation rather than of Python."""


class PythonLibrary:
    """The source files, one document each, sorted by path. Raises DataError when the folder has none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = sorted(_source_files(folder), key=lambda file: file.relative_to(folder).parts)
        self.description = f"the standard library of Python {platform.python_version()} ({len(self._files)} files)"
        if not self._files:
            raise DataError(
                f"python-stdlib: there is no Python source in {folder}, the library folder of this Python. "
                "Use a Python that comes with its source, or the data set 'text' with files of your own."
            )

    def splits(self) -> Sequence[str]:
        """Return the only split, `train`."""
        return ("train",)

    def documents(self, split: str) -> Iterator[str]:  # noqa: ARG002 (there is only one)
        """Iterate over the texts of the files. Files that are not UTF-8 are skipped."""
        for file in self._files:
            try:
                yield file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
            except UnicodeDecodeError:
                continue

    def fingerprint(self) -> str:
        """Return a hash of all documents."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for document in self.documents("train"):
            digest.update(hashlib.sha256(document.encode("utf-8")).digest())
        return digest.hexdigest()[:20]


def _source_files(folder: Path) -> Iterator[Path]:
    """Iterate over the Python files, without tests, generated files and installed packages."""
    for inside, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_OUT_FOLDERS]  # os.walk skips the removed ones
        for name in files:
            if name.endswith(".py") and not any(fnmatch(name, pattern) for pattern in LEFT_OUT_FILES):
                yield Path(inside, name)


def build(config: None, *, assets: Path, offline: bool) -> PythonLibrary:  # noqa: ARG001
    """Return the standard library of the running Python, also inside a virtual environment."""
    return PythonLibrary(Path(sysconfig.get_path("stdlib")))
