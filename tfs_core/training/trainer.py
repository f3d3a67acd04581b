"""The loop, the same for every model: batches in, updates, and what is measured, saved and told on the way."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch

from tfs_core.config.schema import TrainingConfig
from tfs_core.contracts import LanguageModel, RunLogger, Schedule
from tfs_core.data.batches import Batch
from tfs_core.data.stream_batches import TrainingBatches
from tfs_core.errors import DataError, TrainingError
from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord
from tfs_core.training.batch_loss import batch_loss
from tfs_core.training.checkpoint import CheckpointKeeper
from tfs_core.training.evaluator import Evaluator
from tfs_core.training.plan import Plan
from tfs_core.training.random_state import capture_random_state, random_state_kept
from tfs_core.training.run_folder import RunFolder, now
from tfs_core.training.stop_signal import StopSignal


@dataclass(kw_only=True)
class Progress:
    """Where a run stands: together with weights, optimizer and random states, all that decides how it goes on."""

    step: int = 0  # optimizer steps taken
    tokens: int = 0  # valid targets trained on
    flops: float = 0.0
    elapsed_seconds: float = 0.0  # until the last checkpoint, all sittings together
    best_loss: float | None = None  # of the validations
    best_step: int | None = None
    validations_without_improvement: int = 0

    def is_complete(self, config: TrainingConfig, plan: Plan) -> bool:
        """Return whether every step is taken, or training has stopped early."""
        patience = config.early_stopping
        return self.step >= plan.total_steps or (
            patience is not None and self.validations_without_improvement >= patience
        )


class Trainer:
    """Trains one model for one run, from where `progress` stands to the end of the plan."""

    def __init__(
        self,
        *,
        config: TrainingConfig,
        plan: Plan,
        progress: Progress,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        device: str,
        batches: TrainingBatches,
        validation_batches: Callable[[], Iterable[Batch]],
        byte_lengths: np.ndarray,
        write_samples: Callable[[int], Iterator[SampleRecord]],
        run_folder: RunFolder,
        checkpoints: CheckpointKeeper,
        loggers: RunLogger,
        stop: StopSignal,
    ) -> None:
        self.config = config
        self.plan = plan
        self.progress = progress
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.device = device
        self.batches = batches
        self.validation_batches = validation_batches
        self.byte_lengths = byte_lengths
        self.write_samples = write_samples
        self.run_folder = run_folder
        self.checkpoints = checkpoints
        self.loggers = loggers
        self.stop = stop

        self._parameters = list(model.named_parameters())
        self._flops_per_token: dict[int, float] = {}  # by the length of the sequence
        # A plugin's optimizer may give some parameters a rate of their own: the schedule scales them all alike.
        self._rate_ratios = [group["lr"] / config.learning_rate for group in optimizer.param_groups]
        self._earlier_seconds = progress.elapsed_seconds
        self._started_at = self._saved_at = time.perf_counter()
        self._saved_step: int | None = None  # by this sitting
        self._unlogged_tokens = 0
        self._unlogged_seconds = 0.0

    def train(self) -> str:
        """Return how it ended: `finished`, or `stopped` by a signal, with a checkpoint to go on from.

        Raises TrainingError when a loss or a gradient is not finite, or when a checkpoint cannot be saved, and
        DataError when a stream breaks off, after a checkpoint was saved.
        """
        self.model.train()
        while not self._is_complete():
            if self._data_is_here():
                self.advance()
            if self.stop.received is not None and not self._is_complete():
                if self._saved_step != self.progress.step:  # the signal came after this step's saving was decided
                    self._save(["signal"])
                return "stopped"
        return "finished"

    def _data_is_here(self) -> bool:
        """Wait for the next step's data, of a stream; return False when a signal came before it."""
        started_at = time.perf_counter()
        try:
            while not self.batches.ready(self.progress.step):
                if self.stop.received is not None:
                    return False
                self.run_folder.heartbeat()
        except DataError:
            if self.progress.step > 0 and self._saved_step != self.progress.step:
                self._save(["data"])
            raise
        self._unlogged_seconds += time.perf_counter() - started_at  # a stream that keeps training waiting slows it down
        return True

    def advance(self) -> None:
        """Take one optimizer step, then validate and save if that is due."""
        self._take_step()
        improved = self._validation_is_due() and self._validate()
        # Saved after the validation of the same step: a checkpoint stands for all lines up to its step.
        reasons = self._reasons_to_save(improved)
        if reasons:
            self._save(reasons)
        self.run_folder.heartbeat(summary=self.summary())

    def summary(self) -> dict[str, Any]:
        """Return what `run.json` says of where the run stands."""
        progress = self.progress
        best = None if progress.best_step is None else {"step": progress.best_step, "loss": progress.best_loss}
        return {
            "last_step": progress.step,
            "tokens": progress.tokens,
            "flops": progress.flops,
            "best_validation": best,
        }

    def tell(self, kind: str, **details: Any) -> None:
        """Tell the loggers of an event."""
        self.loggers.on_event(EventRecord(at=now(), step=self.progress.step, kind=kind, details=details))

    def _is_complete(self) -> bool:
        return self.progress.is_complete(self.config, self.plan)

    def _elapsed_seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._started_at

    # A step

    def _take_step(self) -> None:
        """Take one optimizer step. Raises TrainingError, before the update, when loss or gradient are not finite."""
        started_at = time.perf_counter()
        progress = self.progress
        parts = self.batches.step(progress.step)

        # 1. Losses and gradients: of the mean over all valid targets of the step, however it is cut into parts.
        valid_targets = sum(part.valid_targets for part in parts)
        losses = []
        for part in parts:
            losses.append(batch_loss(self.model, part, self.device).detach())  # []
            self.model.backward(1.0 / valid_targets)
        gradients = [parameter.grad for _, parameter in self._parameters if parameter.grad is not None]
        total_norm = torch.nn.utils.get_total_norm(gradients)  # []

        # 2. The one moment in a step at which the processor waits for the device.
        *nats, grad_norm = torch.stack([*losses, total_norm.to(losses[0].dtype)]).tolist()
        loss = math.fsum(nats) / valid_targets
        learning_rate = self.schedule(progress.step)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._refuse(loss=loss, learning_rate=learning_rate, grad_norm=grad_norm)

        # 3. The update.
        if self.config.max_grad_norm is not None and grad_norm > self.config.max_grad_norm:
            parameters = [parameter for _, parameter in self._parameters]
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, total_norm)
        for group, ratio in zip(self.optimizer.param_groups, self._rate_ratios, strict=True):
            group["lr"] = learning_rate * ratio
        self.optimizer.step()
        self.optimizer.zero_grad()

        # 4. What it comes to.
        progress.step += 1
        progress.tokens += valid_targets
        progress.flops += sum(self._flops(part) for part in parts)
        self._unlogged_tokens += valid_targets
        self._unlogged_seconds += time.perf_counter() - started_at
        if progress.step % self.config.log_every == 0 or progress.step in (1, self.plan.total_steps):
            self._log_step(progress.step, loss=loss, learning_rate=learning_rate, grad_norm=grad_norm)

    def _flops(self, part: Batch) -> float:
        batch_size, seq_len = part.input_ids.shape
        if seq_len not in self._flops_per_token:
            self._flops_per_token[seq_len] = self.model.flops_per_token(seq_len)
        return batch_size * seq_len * self._flops_per_token[seq_len]

    def _log_step(self, step: int, *, loss: float, learning_rate: float, grad_norm: float) -> None:
        seconds = self._unlogged_seconds
        record = StepRecord(
            step=step,
            epoch=self.batches.epoch(step - 1),
            tokens=self.progress.tokens,
            flops=self.progress.flops,
            elapsed_seconds=self._elapsed_seconds(),
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens_per_second=self._unlogged_tokens / seconds if seconds else 0.0,
        )
        self._unlogged_tokens, self._unlogged_seconds = 0, 0.0
        self.loggers.on_step(record)

    def _refuse(self, *, loss: float, learning_rate: float, grad_norm: float) -> NoReturn:
        """Write down a step whose numbers are not finite, and raise TrainingError: the update is not made."""
        step = self.progress.step + 1
        tensor = self._first_nonfinite()
        self._log_step(step, loss=loss, learning_rate=learning_rate, grad_norm=grad_norm)
        self.tell("nonfinite", attempted_step=step, tensor=tensor, loss=str(loss), grad_norm=str(grad_norm))
        raise TrainingError(
            f"step {step} is not taken: its loss is {loss} and the norm of its gradient {grad_norm}; the first tensor "
            f"that is not finite is {tensor}. {self._last_good()} Lower training.learning_rate, warm up longer, or "
            "clip harder with training.max_grad_norm."
        )

    def _first_nonfinite(self) -> str:
        for name, parameter in self._parameters:
            if not torch.isfinite(parameter).all():
                return name
        for name, parameter in self._parameters:
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return f"the gradient of {name}"
        return "none of the weights and gradients, but what is computed from them"

    def _last_good(self) -> str:
        latest = self.checkpoints.latest()
        if latest is None:
            return "No checkpoint was saved before."
        return f"The last checkpoint, {latest.name}, is untouched."

    # A validation

    def _validation_is_due(self) -> bool:
        every, step = self.config.eval_every, self.progress.step
        return step == self.plan.total_steps or (every is not None and step % every == 0)

    def _validate(self) -> bool:
        """Evaluate, write the samples, and return whether no validation was better so far."""
        progress = self.progress
        evaluation = Evaluator(self.model, self.device).evaluate(
            self.validation_batches(), byte_lengths=self.byte_lengths, max_batches=self.config.max_eval_batches
        )
        self.loggers.on_validation(
            ValidationRecord(
                step=progress.step,
                tokens=progress.tokens,
                flops=progress.flops,
                elapsed_seconds=self._elapsed_seconds(),
                loss=evaluation.loss,
                perplexity=evaluation.perplexity,
                bits_per_byte=evaluation.bits_per_byte or math.nan,
                tokens_evaluated=evaluation.tokens_evaluated,
            )
        )
        if not math.isfinite(evaluation.loss):
            raise TrainingError(
                f"the validation loss at step {progress.step} is {evaluation.loss}; the first tensor that is not "
                f"finite is {self._first_nonfinite()}. {self._last_good()}"
            )
        improved = progress.best_loss is None or evaluation.loss < progress.best_loss
        if improved:
            progress.best_loss, progress.best_step = evaluation.loss, progress.step
            progress.validations_without_improvement = 0
        else:
            progress.validations_without_improvement += 1
        with random_state_kept():
            for record in self.write_samples(progress.step):
                self.loggers.on_sample(record)
        return improved

    # A checkpoint

    def _reasons_to_save(self, improved: bool) -> list[str]:
        config, step = self.config, self.progress.step
        minutes = (time.perf_counter() - self._saved_at) / 60
        reasons = {
            "best": improved,
            "steps": config.checkpoint_every is not None and step % config.checkpoint_every == 0,
            "time": config.checkpoint_interval_minutes is not None and minutes >= config.checkpoint_interval_minutes,
            "end": self._is_complete(),
            "signal": self.stop.received is not None,
        }
        return [reason for reason, holds in reasons.items() if holds]

    def _save(self, reasons: list[str]) -> None:
        """Save a checkpoint, durable together with all that the loggers wrote up to here."""
        self.progress.elapsed_seconds = self._elapsed_seconds()
        self.loggers.on_checkpoint(self.progress.step)
        state = {
            "progress": vars(self.progress),
            "random_state": capture_random_state(),
            **self.batches.state(self.progress.step),
        }
        folder = self.checkpoints.save(
            self.progress.step,
            model=self.model,
            optimizer=self.optimizer,
            state=state,
            best_step=self.progress.best_step,
        )
        self._saved_at = time.perf_counter()
        self._saved_step = self.progress.step
        self.tell("checkpoint", folder=folder.name, reasons=reasons)
        self.run_folder.write_info(summary=self.summary())
