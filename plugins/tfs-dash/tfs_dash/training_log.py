"""Training logs in memory, read from a run folder or from a JSON log of the original tools."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfs_core.config.document import read_yaml
from tfs_core.errors import CheckpointError, ConfigError
from tfs_core.runs import Run, file_of, load_run, read_run
from tfs_core.stored_json import difference, read_bytes
from tfs_dash.run_info import number

MAX_LOG_BYTES = 1 << 28
"""Limit on the size of a log of the original tools: a million steps."""

STEP = {"step": int, "timestamp?": (str, None)}
NUMBERS = ("epoch", "loss", "learning_rate", "grad_norm", "tokens_per_sec")
ORIGINAL = {
    "experiment_name": str,
    "model_type": str,
    "model_config": dict,
    "train_config": dict,
    "started_at": (str, None),
    "finished_at": (str, None),
    "train_metrics": [{**STEP, "extras?": (dict, None), **{f"{name}?": (float, None) for name in NUMBERS}}],
    "val_metrics": [{**STEP, **{f"{name}?": (float, None) for name in ("epoch", "loss", "perplexity")}}],
}
"""The shape of a log of the original tools (see `tfs_core.stored_json`)."""


@dataclass(frozen=True, kw_only=True)
class TrainingMetrics:
    """One optimizer step of a `TrainingRun`. None means not logged, not finite, or not a number."""

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

    `log.json` also stands for the run folder `log`: the original's TrainingLogger writes a file where that of tfs makes
    a folder. Lines of a run's logs without a step are left out. Raises CheckpointError for a path that is neither, or
    that cannot be read.
    """
    path = Path(path)
    if path.suffix == ".json" and not os.path.lexists(path) and os.path.lexists(path.with_suffix("") / "run.json"):
        path = path.with_suffix("")
    run = read_run(path)
    if run is not None:
        return _from_run_folder(run)
    if os.path.lexists(path / "run.json"):
        load_run(path)  # raises the reason why it is not readable
    try:
        log = json.loads(read_bytes(path, limit=MAX_LOG_BYTES))  # not parse_json: the original tools wrote NaN
        problem = difference(log, ORIGINAL)
    except OSError as error:
        raise CheckpointError(f"{path} is neither a run folder nor a log file: {error.strerror}") from None
    except ValueError as error:
        problem = str(error)
    except RecursionError:
        problem = "it is nested too deeply"
    if problem:
        raise CheckpointError(f"{path} is no training log of the original tools, or it is truncated: {problem}")
    return _from_original(log)


def _from_run_folder(run: Run) -> TrainingRun:
    config = _config_of(run)
    model = config.get("model") or {}
    model = {"name": model} if isinstance(model, str) else dict(model)
    train_metrics = [
        _step_metrics({**row, "tokens_per_sec": row.get("tokens_per_second")}) for row in _rows(run, "metrics")
    ]
    epochs = {metrics.step: metrics.epoch for metrics in train_metrics}
    return TrainingRun(
        experiment_name=str(run.info.get("experiment_name")),
        model_type=str(model.pop("name", None)),
        model_config=model,
        train_config=dict(config.get("training") or {}),
        started_at=run.info.get("started_at"),
        finished_at=run.info.get("ended_at"),
        train_metrics=train_metrics,
        val_metrics=[
            _validation_metrics({"epoch": epochs.get(row["step"]), **row}) for row in _rows(run, "validation")
        ],
    )


def _config_of(run: Run) -> dict[str, Any]:
    """Return the configuration of a run. Raises CheckpointError when it cannot be read."""
    path = file_of(run.folder, "config.yaml")
    if path is None:
        raise CheckpointError(f"{run.folder / 'config.yaml'} is no regular file of the run, so it is not read")
    try:
        config: dict[str, Any] = read_yaml(path).values
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    for name, kinds in (("model", str | dict | None), ("training", dict | None)):
        if not isinstance(config.get(name), kinds):
            raise CheckpointError(f"{path} is damaged: its {name} holds no settings")
    return config


def _rows(run: Run, log: str) -> list[dict[str, Any]]:
    """Return the lines of a log that have a step."""
    return [row for row in run.read(log).rows if not difference(row, {"step": int})]


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
    named: dict[str, Any] = {name: number(row.get(name)) for name in NUMBERS}
    known = {*named, "step", "timestamp", "extras", "tokens_per_second"}
    extras = {name: value for name, value in row.items() if name not in known}
    return TrainingMetrics(step=row["step"], timestamp=row.get("timestamp"), extras=extras, **named)


def _validation_metrics(row: Mapping[str, Any]) -> ValidationMetrics:
    return ValidationMetrics(
        step=row["step"],
        loss=number(row.get("loss")),
        perplexity=number(row.get("perplexity")),
        epoch=number(row.get("epoch")),  # type: ignore[arg-type]
        timestamp=row.get("timestamp"),
    )
