"""The log and the checkpoints of `tfs run` for your own training loop, under the class names of the original tools."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from tfs_core.checkpoint import CheckpointKeeper, load_checkpoint
from tfs_core.checkpoint_folder import checkpoint_step, list_checkpoints, newest_valid_checkpoint
from tfs_core.contracts import LanguageModel, RunContext, RunLogger
from tfs_core.durable import write_durably
from tfs_core.records import StepRecord, ValidationRecord, perplexity_of
from tfs_core.registry import get_registry
from tfs_core.run_folder import RunFolder


class CheckpointManager:
    """Checkpoints for your own training loop, in the folder `<checkpoint_dir>/<experiment_name>/`."""

    def __init__(
        self, checkpoint_dir: str | Path, model: LanguageModel, experiment_name: str, max_checkpoints: int = 5
    ) -> None:
        self.model = model
        self._keeper = CheckpointKeeper(Path(checkpoint_dir) / experiment_name, keep=max_checkpoints)

    def save(
        self,
        epoch: int,
        global_step: int,
        train_config: Mapping[str, Any] | None = None,
        learning_rate: float | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        metrics: Mapping[str, float] | None = None,
        is_best: bool = False,
    ) -> Path:
        """Save a checkpoint and return its folder; `is_best` marks it as the one that `load("best")` loads."""
        state = {
            "epoch": epoch,
            "global_step": global_step,
            "train_config": dict(train_config or {}),
            "learning_rate": learning_rate,
            "metrics": dict(metrics or {}),
        }
        best = self.get_best()
        best_step = global_step if is_best else None if best is None else checkpoint_step(best)
        return self._keeper.save(global_step, model=self.model, optimizer=optimizer, state=state, best_step=best_step)

    def load(
        self, checkpoint_path: str | Path | None = None, optimizer: torch.optim.Optimizer | None = None
    ) -> dict[str, Any] | None:
        """Load the newest valid checkpoint, or the given one (`"best"` or a folder), and return its state.

        The state holds the arguments of `save`. Returns None when there is no checkpoint. Raises CheckpointError when
        the checkpoint is damaged or does not fit the model.
        """
        if checkpoint_path is None:
            folder, damaged = newest_valid_checkpoint(self._keeper.folder)
            if folder is None and damaged:
                raise damaged[0]
        else:
            folder = self.get_best() if str(checkpoint_path) == "best" else Path(checkpoint_path)
        return None if folder is None else load_checkpoint(folder, model=self.model, optimizer=optimizer)

    def get_latest(self) -> Path | None:
        """Return the folder of the newest checkpoint."""
        return self._keeper.latest()

    def get_best(self) -> Path | None:
        """Return the folder of the best checkpoint, None while no checkpoint is marked as best."""
        pointer = self._keeper.folder / "best"
        return self._keeper.folder / pointer.read_text(encoding="utf-8").strip() if pointer.exists() else None

    def list_checkpoints(self) -> list[Path]:
        """Return the folders of all checkpoints, oldest first."""
        return list_checkpoints(self._keeper.folder)


class TrainingLogger:
    """A log for your own training loop: a run folder `<log_dir>/<experiment_name>/` in the format of `tfs run`.

    When that folder exists, the first free name of `<experiment_name>-2`, ... is used. Values that the loop does not
    pass (tokens, FLOPs) are null in the files.
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
        config = json.loads(json.dumps(config, default=str))  # a dtype or a path becomes its name
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
        """Append a line to metrics.jsonl; `tokens_processed` is the number of tokens of this step."""
        stepped_at = time.perf_counter()
        unknown: Any = None  # the trainer of tfs fills in all fields; here the others are null
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

    def log_validation(self, step: int, epoch: int, loss: float, perplexity: float | None = None) -> None:  # noqa: ARG002 (the line of the step has the epoch)
        """Append a line to validation.jsonl; `perplexity` defaults to exp(loss)."""
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
        """Mark the run as finished, and unlock its folder."""
        self._jsonl.on_end("finished")
        self._run_folder.end("finished", summary=self._summary)
        self._run_folder.__exit__(None, None, None)
