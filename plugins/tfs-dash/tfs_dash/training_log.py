"""Training logs in memory, read from a run folder or from a JSON log of the original tools."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tfs_core.errors import CheckpointError
from tfs_core.runs import Run, read_run


@dataclass(frozen=True, kw_only=True)
class TrainingMetrics:
    """One optimizer step of a `TrainingRun`. None means not logged or not finite."""

    step: int
    epoch: int | None
    loss: float | None
    learning_rate: float | None
    grad_norm: float | None = None
    tokens_per_sec: float | None = None
    timestamp: str | None = None  # the original's logs only
    extras: dict[str, Any] = field(default_factory=dict)  # all other fields of the line


@dataclass(frozen=True, kw_only=True)
class ValidationMetrics:
    """One validation of a `TrainingRun`."""

    step: int
    loss: float | None
    perplexity: float | None
    epoch: int | None = None
    timestamp: str | None = None  # the original's logs only


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A training log in memory, of a tfs run or of the original tools."""

    experiment_name: str
    model_type: str
    model_config: dict[str, Any]
    train_config: dict[str, Any]
    started_at: str | None
    finished_at: str | None
    train_metrics: list[TrainingMetrics]
    val_metrics: list[ValidationMetrics]


def load_training_log(path: str | Path) -> TrainingRun:
    """Return the log of a run folder or of a JSON file of the original tools.

    Raises CheckpointError for a path that is neither, or that cannot be read.
    """
    path = Path(path)
    run = read_run(path)
    if run is not None:
        return _from_run_folder(run)
    try:
        log = json.loads(path.read_bytes())
        return _from_original(log)
    except OSError as error:
        raise CheckpointError(f"{path} is neither a run folder nor a log file: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no training log of the original tools, or it is truncated: {error!r}"
        ) from None


def _from_run_folder(run: Run) -> TrainingRun:
    try:
        config = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{run.folder / 'config.yaml'} cannot be read: {error}") from None
    model = config.get("model") or {}
    model = {"name": model} if isinstance(model, str) else dict(model)
    train_metrics = [_step_metrics({**row, "tokens_per_sec": row.get("tokens_per_second")}) for row in run.metrics()]
    epochs = {metrics.step: metrics.epoch for metrics in train_metrics}
    return TrainingRun(
        experiment_name=str(run.info.get("experiment_name")),
        model_type=str(model.pop("name", None)),
        model_config=model,
        train_config=dict(config.get("training") or {}),
        started_at=run.info.get("started_at"),
        finished_at=run.info.get("ended_at"),
        train_metrics=train_metrics,
        val_metrics=[_validation_metrics({"epoch": epochs.get(row["step"]), **row}) for row in run.validation()],
    )


def _from_original(log: Mapping[str, Any]) -> TrainingRun:
    return TrainingRun(
        experiment_name=log["experiment_name"],
        model_type=log["model_type"],
        model_config=dict(log["model_config"]),
        train_config=dict(log["train_config"]),
        started_at=log["started_at"],
        finished_at=log["finished_at"],
        train_metrics=[_step_metrics({**row, **(row.get("extras") or {})}) for row in log["train_metrics"]],
        val_metrics=[_validation_metrics(row) for row in log["val_metrics"]],
    )


def _step_metrics(row: Mapping[str, Any]) -> TrainingMetrics:
    named = {name: _finite(row.get(name)) for name in ("epoch", "loss", "learning_rate", "grad_norm", "tokens_per_sec")}
    known = {*named, "step", "timestamp", "extras", "tokens_per_second"}
    extras = {name: value for name, value in row.items() if name not in known}
    return TrainingMetrics(step=row["step"], timestamp=row.get("timestamp"), extras=extras, **named)


def _validation_metrics(row: Mapping[str, Any]) -> ValidationMetrics:
    return ValidationMetrics(
        step=row["step"],
        loss=_finite(row.get("loss")),
        perplexity=_finite(row.get("perplexity")),
        epoch=row.get("epoch"),
        timestamp=row.get("timestamp"),
    )


def _finite(value: Any) -> Any:
    """Return the value, or None for NaN and Infinity, which the original tools' logs contain."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
