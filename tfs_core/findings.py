"""Facts and warnings about a run, from the core and from wrappers, before the first step and during training."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tfs_core.run_folder import RunFolder


class Findings:
    """Facts for run.json and the checkpoints, and warnings for the user and the run's events.

    They are buffered until the run folder exists (`connect`), and written immediately from then on.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.facts: dict[str, Any] = {}
        """JSON values: device, threads, matmul, compiled, and the facts that wrappers recorded."""

        self.reasons: dict[str, Any] = {}
        """The origin of each fact, stored as `machine` in run.json."""

        self.warnings: list[str] = []
        self._run_folder: RunFolder | None = None
        self._are_shown = False
        self._warn: Callable[[str], None] = self.warnings.append

    def record(self, *, why: Any = None, **facts: Any) -> None:
        """Store facts and their reason: `why` is one JSON value for all of them, or a mapping of fact -> JSON value.

        Raises TypeError for values that are not JSON, and TrainingError when run.json cannot be written.
        """
        json.dumps([facts, why])  # raises TypeError here, inside the call from the wrapper at fault
        self.facts |= facts
        if why is not None:
            self.reasons |= why if isinstance(why, Mapping) else dict.fromkeys(facts, why)
        if self._run_folder is not None:
            self._run_folder.write_info(**facts, machine=self.reasons)

    def warn(self, message: str) -> None:
        """Show the user a warning, and add it to the run's events."""
        if not self._are_shown:
            self.report(message)
        self._warn(message)

    def connect(self, run_folder: RunFolder, warn: Callable[[str], None], *, are_shown: bool) -> None:
        """Write later facts to the run folder, and pass all warnings, the buffered ones included, to `warn`.

        `are_shown` says that `warn` shows them to the user.
        """
        self._run_folder, self._warn, self._are_shown = run_folder, warn, are_shown
        for message in self.warnings:
            warn(message)
