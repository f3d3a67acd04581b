"""Telling the loggers, and the two names that scripts of the original tools know: TrainingLogger, load_training_log."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tfs_core.contracts import RunContext, RunLogger
from tfs_core.durable import write_durably
from tfs_core.errors import CheckpointError
from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord, perplexity_of
from tfs_core.registry import get_registry
from tfs_core.runs import Run, read_run
from tfs_core.training.run_folder import RunFolder


class Loggers(RunLogger):
    """Several loggers as one. One that raises is reported once and dropped, and training goes on."""

    def __init__(self, loggers: Sequence[RunLogger], report: Callable[[str], None]) -> None:
        self._loggers = list(loggers)
        self._report = report

    def on_start(self) -> None:
        self._tell(lambda logger: logger.on_start())

    def on_step(self, record: StepRecord) -> None:
        self._tell(lambda logger: logger.on_step(record))

    def on_validation(self, record: ValidationRecord) -> None:
        self._tell(lambda logger: logger.on_validation(record))

    def on_sample(self, record: SampleRecord) -> None:
        self._tell(lambda logger: logger.on_sample(record))

    def on_event(self, record: EventRecord) -> None:
        self._tell(lambda logger: logger.on_event(record))

    def on_checkpoint(self, step: int) -> None:
        self._tell(lambda logger: logger.on_checkpoint(step))

    def on_end(self, status: str) -> None:
        self._tell(lambda logger: logger.on_end(status))

    def _tell(self, what: Callable[[RunLogger], None]) -> None:
        for logger in list(self._loggers):
            try:
                what(logger)
            except Exception as error:  # a logger may be a stranger's: it must not end a night's training
                self._loggers.remove(logger)
                name = f"{type(logger).__module__}.{type(logger).__qualname__}"
                self._report(
                    f"The logger {name} failed and is told nothing more: {type(error).__name__}: {error}. "
                    "Training goes on."
                )


class TrainingLogger:
    """A log for a training loop of your own: a run folder `<log_dir>/<experiment_name>/`, as `tfs run` writes it.

    A folder of that name is left alone, and the next free one of `<experiment_name>-2`, ... taken. What it is not told
    (tokens, FLOPs) is null in the files.
    """

    def __init__(
        self,
        log_dir: str | Path,
        experiment_name: str,
        model_type: str,
        model_config: Mapping[str, Any] | None = None,
        train_config: Mapping[str, Any] | None = None,
    ) -> None:
        config = {
            "experiment_name": experiment_name,
            "model": {"name": model_type, **(model_config or {})},
            "training": dict(train_config or {}),
        }
        config = json.loads(json.dumps(config, default=str))  # a dtype or a path as its name
        self._run_folder = RunFolder.create_in(Path(log_dir), None, experiment_name)
        self.folder = self._run_folder.folder
        self._run_folder.__enter__()  # locked until finish(), or until the process ends
        self._run_folder.write_info(model=model_type)
        write_durably(self.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
        run = RunContext(
            folder=self.folder,
            name=self.folder.name,
            config=config,
            info=self._run_folder.info,
            total_steps=0,
            start_step=0,
        )
        self._jsonl: RunLogger = get_registry().find("logger", "jsonl").build(None, run=run)
        self._jsonl.on_start()
        self._started_at = self._stepped_at = time.perf_counter()
        self._tokens: int | None = None
        self._summary: dict[str, Any] = {"last_step": 0, "tokens": None, "flops": None, "best_validation": None}

    def log_step(
        self,
        step: int,
        epoch: int,
        loss: float,
        learning_rate: float,
        grad_norm: float | None = None,
        tokens_processed: int | None = None,
    ) -> None:
        """Write a line of metrics.jsonl; `tokens_processed` are the tokens of this step."""
        stepped_at = time.perf_counter()
        unknown: Any = None  # a training loop of tfs knows everything; this one writes null
        speed = unknown
        if tokens_processed is not None:
            self._tokens = (self._tokens or 0) + tokens_processed
            speed = tokens_processed / max(stepped_at - self._stepped_at, 1e-9)
        self._stepped_at = stepped_at
        self._jsonl.on_step(
            StepRecord(
                step=step,
                epoch=epoch,
                tokens=unknown if self._tokens is None else self._tokens,
                flops=unknown,
                elapsed_seconds=stepped_at - self._started_at,
                loss=loss,
                learning_rate=learning_rate,
                grad_norm=unknown if grad_norm is None else grad_norm,
                tokens_per_second=speed,
            )
        )
        self._summary = {**self._summary, "last_step": step, "tokens": self._tokens}
        self._run_folder.heartbeat(summary=self._summary)

    def log_validation(self, step: int, epoch: int, loss: float, perplexity: float | None = None) -> None:  # noqa: ARG002 (the step's line has the epoch)
        """Write a line of validation.jsonl; the perplexity, exp(loss), need not be given."""
        unknown: Any = None
        self._jsonl.on_validation(
            ValidationRecord(
                step=step,
                tokens=unknown if self._tokens is None else self._tokens,
                flops=unknown,
                elapsed_seconds=time.perf_counter() - self._started_at,
                loss=loss,
                perplexity=perplexity_of(loss) if perplexity is None else perplexity,
                bits_per_byte=unknown,
                tokens_evaluated=unknown,
            )
        )
        best = self._summary["best_validation"]
        if math.isfinite(loss) and (best is None or loss < best["loss"]):
            self._summary = {**self._summary, "best_validation": {"step": step, "loss": float(loss)}}
        self._run_folder.write_info(summary=self._summary)

    def finish(self) -> None:
        """Say that the run ended as it should, and let its folder go."""
        self._jsonl.on_end("finished")
        self._run_folder.end("finished", summary=self._summary)
        self._run_folder.__exit__(None, None, None)


@dataclass(frozen=True, kw_only=True)
class TrainingMetrics:
    """One optimizer step of a `TrainingRun`; None stands for what was not written down, or was not finite."""

    step: int
    epoch: int | None
    loss: float | None
    learning_rate: float | None
    grad_norm: float | None = None
    tokens_per_sec: float | None = None
    timestamp: str | None = None  # the original's logs only
    extras: dict[str, Any] = field(default_factory=dict)  # whatever else the line held


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
    """A training log in memory, whoever wrote it."""

    experiment_name: str
    model_type: str
    model_config: dict[str, Any]
    train_config: dict[str, Any]
    started_at: str | None
    finished_at: str | None
    train_metrics: list[TrainingMetrics]
    val_metrics: list[ValidationMetrics]


def load_training_log(path: str | Path) -> TrainingRun:
    """Return the log in a run folder, or in a JSON file of the original tools; raises CheckpointError for neither."""
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
            f"{path} is no training log of the original tools, or it was cut short while being written: {error!r}"
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
    """Return None for the bare NaN and Infinity that the original's logs hold, else the value."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
