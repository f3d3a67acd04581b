"""The input that a data set leaves out or repairs, counted by reason, or refused."""

from collections import Counter
from pathlib import Path

from tfs_core.errors import DataError
from tfs_datasets.config import TextOnError
from tfs_datasets.kinds import Kind

MAX_FILES_REPORTED = 10
"""Maximum number of files that a report names. Further files are only counted."""

SKIP = "To skip invalid input, set on_error: skip."


class BadInput:
    """The invalid input in the files of one split, and the files that cannot be read as text."""

    def __init__(self, on_error: TextOnError) -> None:
        self.on_error = on_error
        self.clear()

    def clear(self) -> None:
        """Reset the counts at the beginning of a pass over the files."""
        self._found: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._replaced: Counter[str] = Counter()
        self._kinds: Counter[Kind] = Counter()
        self.empty_documents = 0

    def found(self, file: str | Path, message: str, *, advice: str = SKIP) -> None:
        """Count one piece of invalid input that is left out, with a message such as "line 3 is not JSON".

        Raises DataError, with the advice, if `on_error` is `refuse`.
        """
        if self.on_error == "refuse":
            raise DataError(f"{file}, {message}. ({advice})")
        self._found[str(file)] += 1
        self._first.setdefault(str(file), message)

    def replaced(self, file: str, count: int, message: str) -> None:
        """Count invalid bytes that were replaced; the message is about the first one."""
        self._replaced[file] += count
        self._first.setdefault(file, message)

    def left_out_file(self, file: str, kind: Kind) -> None:  # noqa: ARG002
        """Count a file that cannot be read as text."""
        self._kinds[kind] += 1

    def report(self) -> list[str]:
        """Return a line of text for each reason, with counts."""
        lines = self._files()
        lines += [f"{file}: {count:,} left out, the first: {self._first[file]}" for file, count in self._found.items()]
        lines += [
            f"{file}: {count:,} invalid byte{'s' * (count > 1)} replaced by U+FFFD, the first: {self._first[file]}"
            for file, count in self._replaced.items()
        ]
        if len(lines) > MAX_FILES_REPORTED + 1:
            lines[MAX_FILES_REPORTED:] = [f"and {len(lines) - MAX_FILES_REPORTED:,} more files with invalid input"]
        return lines

    def _files(self) -> list[str]:
        """Return the lines about files that cannot be read: one for each kind with text, one for all others."""
        with_text = [kind for kind in self._kinds if kind.holds_text]
        lines = [f"left out: {kind.counted(self._kinds[kind])}. {kind.advice}" for kind in with_text]
        others = {kind: count for kind, count in self._kinds.most_common() if not kind.holds_text}
        if others:
            count = sum(others.values())
            counted = ", ".join(kind.counted(count) for kind, count in others.items())
            lines.append(f"{count:,} file{'s' * (count > 1)} left out: {counted}")
        return lines
