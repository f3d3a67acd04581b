"""The loop, the same for every model: batches in, updates, and what is measured, saved and logged on the way.

Start with `Trainer.train`, then `Trainer._take_step`.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from tfs_core.checkpoint import CheckpointKeeper
from tfs_core.config.schema import TrainingConfig
from tfs_core.contracts import Batch, Batching, LanguageModel, Moment, Ranks, Schedule, Tokenizer
from tfs_core.errors import DataError, TrainingError
from tfs_core.evaluator import Evaluator
from tfs_core.loggers import Loggers
from tfs_core.model_view import StepView
from tfs_core.models import Objective, batch_loss
from tfs_core.random_state import capture_random_state, random_state_kept
from tfs_core.records import EventRecord, StepRecord, ValidationRecord
from tfs_core.run_folder import RunFolder, now
from tfs_core.stop_signal import StopSignal


@dataclass(frozen=True)
class Plan:
    """The length of a run, and of its warm-up, in optimizer steps."""

    total_steps: int
    warmup_steps: int


@dataclass(kw_only=True)
class Progress:
    """Where a run stands: together with weights, optimizer and random states, all that decides how it goes on."""

    step: int = 0  # optimizer steps taken
    tokens: int = 0  # valid targets trained on
    flops: float = 0.0
    elapsed_seconds: float = 0.0  # until the last checkpoint, earlier attempts included
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
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        device: str,
        batching: Batching,
        tokenizer: Tokenizer,
        run_folder: RunFolder,
        checkpoints: CheckpointKeeper,
        loggers: Loggers,
        ranks: Ranks,
        stop: StopSignal,
    ) -> None:
        self.config = config
        self.plan = plan
        self.progress = progress
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.device = device
        self.batching = batching
        self.tokenizer = tokenizer
        self.run_folder = run_folder
        self.checkpoints = checkpoints
        self.loggers = loggers
        self.ranks = ranks
        self.stop = stop

        self._parameters = list(model.named_parameters())
        self._byte_lengths = tokenizer.byte_lengths()
        self._flops_per_token: dict[int, float] = {}  # by the length of the sequence
        # A plugin's optimizer may give some parameters a rate of their own: the schedule scales them all alike.
        self._rate_ratios = [group["lr"] / config.learning_rate for group in optimizer.param_groups]
        self._earlier_seconds = progress.elapsed_seconds
        self._started_at = self._saved_at = time.perf_counter()
        self._saved_step: int | None = None  # by this process
        self._unlogged_tokens = 0
        self._unlogged_seconds = 0.0

    def train(self) -> str:
        """Return how it ended: `finished`, or `stopped` by a signal, with a checkpoint to go on from.

        Raises TrainingError when a loss or a gradient is not finite, or when a checkpoint cannot be saved, and
        DataError when the data breaks off, after a checkpoint was saved.
        """
        self.model.train()
        while not self.is_complete():
            if self._data_is_here():
                # A step, then what is due after it. Saved after the validation of the same step: a checkpoint stands
                # for all lines up to its step.
                self._take_step()
                improved = self._validation_is_due() and self._validate()
                if reasons := self._reasons_to_save(improved):
                    self._save(reasons)
                self.run_folder.heartbeat(summary=self.summary())
            if self._any_rank_stopped() and not self.is_complete():
                if self._saved_step != self.progress.step:  # the signal came after this step's saving was decided
                    self._save(["signal"])
                return "stopped"
        return "finished"

    def _data_is_here(self) -> bool:
        """Wait for the next step's data; return False when a signal came before it."""
        started_at = time.perf_counter()
        try:
            while not self.batching.ready(self.progress.step):
                if self._any_rank_stopped():
                    return False
                self.run_folder.heartbeat()
        except DataError:
            if self.progress.step > 0 and self._saved_step != self.progress.step:
                self._save(["data"])
            raise
        self._unlogged_seconds += time.perf_counter() - started_at  # data that keeps training waiting slows it down
        return True

    def _any_rank_stopped(self) -> bool:
        """Return whether a signal came: to any rank, so that all of them stop at the same step."""
        return bool(self.ranks.sum(torch.tensor(self.stop.received is not None, dtype=torch.int64)))

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

    def is_complete(self) -> bool:
        """Return whether every step is taken, or training has stopped early."""
        return self.progress.is_complete(self.config, self.plan)

    def _elapsed_seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._started_at

    # A step

    def _take_step(self) -> None:
        """Take one optimizer step. Raises TrainingError, before the update, when loss or gradient are not finite."""
        started_at = time.perf_counter()
        progress, ranks = self.progress, self.ranks
        micro_batches = self.batching.step(progress.step)

        # 1. Losses and gradients: of the mean over all valid targets of the step, however it is cut into micro-batches.
        valid_targets = int(ranks.sum(torch.tensor(sum(it.valid_targets for it in micro_batches))))
        losses = []  # sums of nats, one a micro-batch
        for micro_batch in micro_batches:
            ranks.last_micro_batch(micro_batch is micro_batches[-1])
            losses.append(batch_loss(self.model, micro_batch, self.device, self.objective).detach())  # []
            self.objective.backward(1.0 / valid_targets)
        parameters = [parameter for _, parameter in self._parameters]
        total_norm = ranks.finish_gradients(parameters)  # []

        # 2. The one moment in a step at which the processor waits for the device.
        *nats, grad_norm = torch.stack([*ranks.sum(torch.stack(losses)), total_norm.to(losses[0].dtype)]).tolist()
        loss = math.fsum(nats) / valid_targets
        learning_rate = self.schedule(progress.step)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._fail_nonfinite(loss=loss, learning_rate=learning_rate, grad_norm=grad_norm)

        # 3. The update.
        if self.config.max_grad_norm is not None and grad_norm > self.config.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, total_norm)
        for group, ratio in zip(self.optimizer.param_groups, self._rate_ratios, strict=True):
            group["lr"] = learning_rate * ratio
        seconds_observing = self._show_observers("gradients", micro_batches)
        before = self._parameters_before()
        self.optimizer.step()
        progress.step += 1
        seconds_observing += self._show_observers("update", micro_batches, before)
        self.optimizer.zero_grad()

        # 4. What it comes to.
        progress.tokens += valid_targets
        progress.flops += ranks.size * sum(self._flops(micro_batch) for micro_batch in micro_batches)
        self._unlogged_tokens += valid_targets
        self._unlogged_seconds += time.perf_counter() - started_at - seconds_observing
        if progress.step % self.config.log_every == 0 or progress.step in (1, self.plan.total_steps):
            self._log_step(progress.step, loss=loss, learning_rate=learning_rate, grad_norm=grad_norm)

    def _flops(self, micro_batch: Batch) -> float:
        batch_size, seq_len = micro_batch.input_ids.shape
        if seq_len not in self._flops_per_token:
            self._flops_per_token[seq_len] = self.model.flops_per_token(seq_len)
        return batch_size * seq_len * self._flops_per_token[seq_len]

    def _log_step(self, step: int, *, loss: float, learning_rate: float, grad_norm: float) -> None:
        seconds = self._unlogged_seconds
        record = StepRecord(
            step=step,
            epoch=self.batching.epoch(step - 1),
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

    def _fail_nonfinite(self, *, loss: float, learning_rate: float, grad_norm: float) -> NoReturn:
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
        """Evaluate, show the model to the loggers that asked for it, and return whether no validation was better."""
        progress = self.progress
        evaluator = Evaluator(self.model, self.device, objective=self.objective, ranks=self.ranks)
        evaluation = evaluator.evaluate(
            self.batching.validation(), byte_lengths=self._byte_lengths, max_batches=self.config.max_eval_batches
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
        self._show_observers("validation", ())
        return improved

    # Loggers that look at the model

    def _show_observers(
        self, moment: Moment, micro_batches: Sequence[Batch], before: dict[str, Tensor] | None = None
    ) -> float:
        """Show the model to the loggers that want to see it now, and return the seconds that took.

        `before` holds the parameters before the update.
        """
        step = self.progress.step + (moment == "gradients")
        observers = self.loggers.observers(moment, step)
        if not observers:
            return 0.0
        started_at = time.perf_counter()
        view = StepView(
            step=step,
            model=self.model,
            tokenizer=self.tokenizer,
            batching=self.batching,
            device=self.device,
            micro_batches=micro_batches,
            before=before,
        )
        with random_state_kept(), torch.enable_grad():
            self.loggers.observe(moment, observers, view)
        self.model.train()  # whatever a logger did to the mode
        return time.perf_counter() - started_at

    def _parameters_before(self) -> dict[str, Tensor] | None:
        """Return a copy of the parameters, where a logger wants to see how the next step changes them."""
        if not self.loggers.observers("update", self.progress.step + 1):
            return None
        return {name: parameter.detach().clone() for name, parameter in self._parameters}

    # A checkpoint

    def _reasons_to_save(self, improved: bool) -> list[str]:
        config, step = self.config, self.progress.step
        minutes = (time.perf_counter() - self._saved_at) / 60
        reasons = {
            "best": improved,
            "steps": config.checkpoint_every is not None and step % config.checkpoint_every == 0,
            "time": config.checkpoint_interval_minutes is not None and minutes >= config.checkpoint_interval_minutes,
            "end": self.is_complete(),
            "signal": self._any_rank_stopped(),
        }
        return [reason for reason, holds in reasons.items() if holds]

    def _save(self, reasons: list[str]) -> None:
        """Save a checkpoint, durable together with all that the loggers wrote up to here."""
        self.progress.elapsed_seconds = self._elapsed_seconds()
        self.loggers.on_checkpoint(self.progress.step)
        state = {
            **self.batching.state(self.progress.step),
            "progress": vars(self.progress),
            "random_state": capture_random_state(),
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
