"""Invalid lines and bytes that are not UTF-8: refused, or skipped, counted and reported."""

from pathlib import Path

from tfs_core.errors import DataError
from tfs_datasets.config import OnError

MAX_FILES_REPORTED = 10
"""Maximum number of files that a report names. Further files are only counted."""


class BadInput:
    """The invalid input in the files of one split."""

    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self._found: dict[Path, int] = {}
        self._first: dict[Path, str] = {}

    def clear(self) -> None:
        """Reset the counts at the beginning of a pass over the files."""
        self._found.clear()
        self._first.clear()

    def found(self, file: Path, message: str) -> None:
        """Count one piece of invalid input, with a message such as "line 3 is not JSON".

        Raises DataError if `on_error` is `refuse`.
        """
        if self._on_error == "refuse":
            raise DataError(f"{file}, {message}. (To skip invalid input, set on_error: skip.)")
        self._found[file] = self._found.get(file, 0) + 1
        self._first.setdefault(file, message)

    def report(self) -> list[str]:
        """Return a line of text for each file with skipped input."""
        lines = [
            f"{file}: {count:,} left out, the first: {self._first[file]}"
            for file, count in list(self._found.items())[:MAX_FILES_REPORTED]
        ]
        if len(self._found) > MAX_FILES_REPORTED:
            lines.append(f"and {len(self._found) - MAX_FILES_REPORTED:,} more files with invalid input")
        return lines
