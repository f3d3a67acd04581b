"""Validation of `run.json`: a value whose type differs from docs/formats.md is treated as unknown.

Run folders are untrusted input, and a malformed one must not break the pages for the other runs.
"""

from typing import Any

TEXTS = ("run_id", "experiment_name", "status", "started_at", "heartbeat_at", "group", "model")
NUMBERS = ("seed", "total_steps", "flops_per_token")

TOO_LARGE = 1e60
"""Numbers from this size on are treated as unknown: no count of a real run is near it."""


def well_formed(info: dict[str, Any]) -> dict[str, Any]:
    """Return `run.json` with values of the wrong type and too large numbers replaced by None, {} or []."""
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
    """Return the value if it is a finite number below TOO_LARGE, else None."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < TOO_LARGE
    return value if known else None  # type: ignore[return-value]


def _numbers(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, float | None]:
    return {name: number(values.get(name)) for name in names}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
