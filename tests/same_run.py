"""The results of a run that a resumed run must have, too; shared by the tests of kills and of full disks."""

import json
from pathlib import Path
from typing import Any

WALL_CLOCK = {"elapsed_seconds", "tokens_per_second"}


def left_behind(run: Path) -> dict[str, Any]:
    """Return the results to compare: all files of checkpoints, pointers, and log lines without wall-clock fields."""
    found: dict[str, Any] = {}
    for path in sorted((run / "checkpoints").rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.name == "state.json":
            state = json.loads(path.read_bytes())
            state["progress"].pop("elapsed_seconds")
            found[name] = state
        elif path.is_file() and path.name != "manifest.json":
            found[name] = path.read_bytes()
    for name in ("metrics", "validation", "samples"):
        lines = [json.loads(line) for line in (run / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        found[name] = [{key: value for key, value in line.items() if key not in WALL_CLOCK} for line in lines]
    return found


def assert_same_run(run: Path, other: Path) -> None:
    """Compare the results of two runs."""
    found, expected = left_behind(run), left_behind(other)
    assert list(found) == list(expected)
    for name in expected:
        assert found[name] == expected[name], f"{name} differs"
