"""`run.json` as the pages rely on it: a value of another kind than docs/formats.md promises is as one not known.

A run folder may come from anywhere, and one that is odd must not take the page of all the others with it.
"""

from typing import Any

TEXTS = ("run_id", "experiment_name", "status", "started_at", "heartbeat_at", "group", "model")
NUMBERS = ("seed", "total_steps", "flops_per_token")

TOO_LARGE = 1e60
"""No count of anything that was trained comes near."""


def well_formed(info: dict[str, Any]) -> dict[str, Any]:
    """Return `run.json` with its texts texts, its numbers finite, and its objects objects; else None or {}."""
    summary = _object(info.get("summary"))
    tags = info.get("tags")
    return {
        **info,
        **{name: info[name] if isinstance(info.get(name), str) else None for name in TEXTS},
        **_numbers(info, NUMBERS),
        "tags": [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else [],
        "parameters": {name: number(value) for name, value in _object(info.get("parameters")).items()},
        "versions": _object(info.get("versions")),
        "git": _object(info.get("git")),
        "summary": {
            **_numbers(summary, ("last_step", "tokens", "flops")),
            "best_validation": _numbers(_object(summary.get("best_validation")), ("step", "loss")),
        },
    }


def number(value: object) -> float | None:
    """Return the value when it is a number that can be one of a run, else None."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < TOO_LARGE
    return value if known else None  # type: ignore[return-value]


def _numbers(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, float | None]:
    return {name: number(values.get(name)) for name in names}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
