"""What is found out about a run, by the core and by wrappers, before its first step and while it trains."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tfs_core.run_folder import RunFolder


class Findings:
    """Facts, for run.json and the checkpoints, and warnings, for the user and the run's events.

    They are kept until there is a run folder (`connect`), and passed on at once from then on.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.facts: dict[str, Any] = {}
        """JSON values: device, threads, matmul, compiled, and what wrappers recorded."""

        self.reasons: dict[str, Any] = {}
        """Where each fact came from: `machine` in run.json."""

        self.warnings: list[str] = []
        self._run_folder: RunFolder | None = None
        self._warn: Callable[[str], None] = self.warnings.append

    def record(self, *, why: Any = None, **facts: Any) -> None:
        """Keep facts, and why they are so: a sentence for all, or JSON values by name."""
        json.dumps([facts, why])  # raises TypeError here, where it can be blamed on its wrapper
        self.facts |= facts
        if why is not None:
            self.reasons |= why if isinstance(why, Mapping) else dict.fromkeys(facts, why)
        if self._run_folder is not None:
            self._run_folder.write_info(**facts, machine=self.reasons)

    def warn(self, message: str) -> None:
        """Report a sentence, and write it into the run's events."""
        self.report(message)
        self._warn(message)

    def connect(self, run_folder: RunFolder, warn: Callable[[str], None]) -> None:
        """From now on write facts into a run's folder, and hand warnings, those so far included, to `warn`."""
        self._run_folder, self._warn = run_folder, warn
        for message in self.warnings:
            warn(message)
