"""The input that a data set leaves out or repairs, counted by reason, or refused."""

from collections import Counter
from pathlib import Path

from tfs_core.errors import DataError
from tfs_core.terminal import counted
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
        self._replaced: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._kinds: Counter[Kind] = Counter()
        self._in_doubt: dict[str, str] = {}
        self._as_text: Counter[tuple[str, str]] = Counter()

    def found(self, file: str | Path, message: str, *, advice: str = SKIP) -> None:
        """Count one piece of invalid input that is left out, with a message such as "line 3 is not JSON".

        Raises DataError, with the advice, if `on_error` is `refuse`.
        """
        if self.on_error == "refuse":
            raise DataError(f"{file}, {message}. ({advice})")
        self._found[str(file)] += 1
        self._first.setdefault(str(file), message)

    def needs_first(self, file: str) -> bool:
        """Return whether there is no message yet about the first invalid input of a file."""
        return file not in self._first

    def note_first(self, file: str, message: str) -> None:
        """Set the message about the first invalid input of a file, which `found` or `replaced` counts."""
        self._first[file] = message

    def replaced(self, file: str, count: int) -> None:
        """Count invalid bytes that were replaced, after `note_first`."""
        self._replaced[file] += count

    def left_out_file(self, kind: Kind) -> None:
        """Count a file that cannot be read as text."""
        self._kinds[kind] += 1

    def in_doubt(self, file: str, message: str) -> None:
        """Report a file that is read, but perhaps not as it is meant."""
        self._in_doubt[file] = message

    def as_text(self, reading: str, advice: str) -> None:
        """Count a file that is read as plain text: how, and advice for another reading; "" if it is meant so."""
        self._as_text[reading, advice] += 1

    def report(self) -> list[str]:
        """Return a line of text for each reason, with counts."""
        lines = [f"{file}: {count:,} left out, the first: {self._first[file]}" for file, count in self._found.items()]
        lines += [
            f"{file}: {counted(count, 'invalid byte')} replaced by U+FFFD, the first: {self._first[file]}"
            for file, count in self._replaced.items()
        ]
        lines += [f"{file} is {message}" for file, message in self._in_doubt.items()]
        if len(lines) > MAX_FILES_REPORTED:
            lines[MAX_FILES_REPORTED:] = [f"and {len(lines) - MAX_FILES_REPORTED:,} more files with invalid input"]
        return self._files_left_out() + lines + self._other_readings()

    def _other_readings(self) -> list[str]:
        """Return a line with advice for each reading as plain text of at least half of the files."""
        n_files = sum(self._as_text.values())
        return [
            f"{reading} ({count:,} of {counted(n_files, 'file')}). {advice}"
            for (reading, advice), count in self._as_text.items()
            if reading and 2 * count >= n_files
        ]

    def _files_left_out(self) -> list[str]:
        """Return a line for each kind of file that holds text, with advice, and one line for all others."""
        lines, others = [], {}
        for kind, count in self._kinds.most_common():
            if kind.holds_text:
                lines.append(f"{kind.counted(count)} left out. {kind.advice}")
            else:
                others[kind.counted(count)] = count
        if others:
            lines.append(f"{counted(sum(others.values()), 'file')} left out: {', '.join(others)}")
        return lines
