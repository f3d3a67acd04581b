"""The training loop, the same for every model: steps, validation, checkpoints and logging.

Start reading at `Trainer.train`, then `Trainer._take_step`.

Gradient clipping: Pascanu, Mikolov & Bengio (2013), "On the difficulty of training recurrent neural networks",
https://arxiv.org/abs/1211.5063
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from tfs_core.plugins import as_plugin_error
from tfs_core.random_state import capture_random_state, preserved_random_state
from tfs_core.records import EventRecord, StepRecord, ValidationRecord
from tfs_core.run_folder import RunFolder, now
from tfs_core.step_bundle import save_step_bundle, torch_random_states
from tfs_core.stop_signal import StopSignal


@dataclass(frozen=True)
class Plan:
    """The length of a run and of its warm-up, in optimizer steps."""

    total_steps: int
    warmup_steps: int


@dataclass(kw_only=True)
class Progress:
    """The progress of a run. With weights, optimizer state and random states it determines all further steps."""

    step: int = 0  # optimizer steps taken
    tokens: int = 0  # valid targets trained on
    flops: float = 0.0
    elapsed_seconds: float = 0.0  # until the last checkpoint, earlier sessions included
    best_loss: float | None = None  # of the validations
    best_step: int | None = None
    validations_without_improvement: int = 0

    def is_complete(self, config: TrainingConfig, plan: Plan) -> bool:
        """Return whether all steps are taken, or early stopping has ended training."""
        patience = config.early_stopping
        return self.step >= plan.total_steps or (
            patience is not None and self.validations_without_improvement >= patience
        )


class Trainer:
    """Trains one model for one run, from `progress` to the end of the plan."""

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
        self._flops_per_token: dict[int, float] = {}  # by seq_len
        # Parameter groups may have learning rates of their own; the schedule scales all of them by the same factor.
        self._rate_ratios = [group["lr"] / config.learning_rate for group in optimizer.param_groups]
        self._earlier_seconds = progress.elapsed_seconds
        self._started_at = self._saved_at = time.perf_counter()
        self._saved_step: int | None = None  # by this process
        self._unlogged_tokens = 0
        self._unlogged_seconds = 0.0

    def train(self) -> str:
        """Train to the end of the plan. Return `finished`, or `stopped` after a signal, with a checkpoint saved.

        Raises TrainingError when a loss or a gradient is not finite, or when a checkpoint cannot be saved, and
        DataError when the data cannot be read any further, after a checkpoint is saved.
        """
        self.model.train()
        while not self.is_complete():
            if self._wait_for_data():
                # One step, then validation and a checkpoint if they are due. Save last, so that a checkpoint covers all
                # log lines up to its step.
                self._take_step()
                improved = self._validation_is_due() and self._validate()
                if reasons := self._reasons_to_save(improved):
                    self._save(reasons)
                self.run_folder.heartbeat(summary=self.summary())
            if self._any_rank_stopped() and not self.is_complete():
                if self._saved_step != self.progress.step:  # the signal came after `_reasons_to_save`
                    self._save(["signal"])
                return "stopped"
        return "finished"

    def _wait_for_data(self) -> bool:
        """Wait until the next step's data is ready. Return False when a stop signal comes first."""
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
        self._unlogged_seconds += time.perf_counter() - started_at  # waiting for data counts in tokens_per_second
        return True

    def _any_rank_stopped(self) -> bool:
        """Return whether any rank has received a stop signal, so that all ranks stop at the same step."""
        return bool(self.ranks.sum(torch.tensor(self.stop.received is not None, dtype=torch.int64)))

    def summary(self) -> dict[str, Any]:
        """Return the `summary` of run.json: steps, tokens, FLOPs and the best validation so far."""
        progress = self.progress
        best = None if progress.best_step is None else {"step": progress.best_step, "loss": progress.best_loss}
        return {
            "last_step": progress.step,
            "tokens": progress.tokens,
            "flops": progress.flops,
            "best_validation": best,
        }

    def tell(self, kind: str, **details: Any) -> None:
        """Send an event to the loggers."""
        self.loggers.on_event(EventRecord(at=now(), step=self.progress.step, kind=kind, details=details))

    def is_complete(self) -> bool:
        """Return whether all steps are taken, or early stopping has ended training."""
        return self.progress.is_complete(self.config, self.plan)

    def _elapsed_seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._started_at

    # One step

    def _take_step(self) -> None:
        """Take one optimizer step. Raises TrainingError, before the update, when loss or gradient is not finite."""
        started_at = time.perf_counter()
        progress, ranks = self.progress, self.ranks
        self._random_states = torch_random_states(self.device)
        micro_batches = self.batching.step(progress.step)

        # 1. Gradient accumulation: the loss is the mean over all valid targets of the step, in all micro-batches.
        valid_targets = int(ranks.sum(torch.tensor(sum(it.valid_targets for it in micro_batches))))
        losses = []  # sum of nats of each micro-batch
        for micro_batch in micro_batches:
            ranks.last_micro_batch(micro_batch is micro_batches[-1])
            losses.append(batch_loss(self.model, micro_batch, self.device, self.objective).detach())  # []
            self.objective.backward(1.0 / valid_targets)
        parameters = [parameter for _, parameter in self._parameters]
        total_norm = ranks.finish_gradients(parameters)  # []

        # 2. Loss and gradient norm as numbers: the only synchronization of CPU and device in a step.
        *nats, grad_norm = torch.stack([*ranks.sum(torch.stack(losses)), total_norm.to(losses[0].dtype)]).tolist()
        loss = math.fsum(nats) / valid_targets
        learning_rate = self.schedule(progress.step)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._fail_nonfinite(loss=loss, learning_rate=learning_rate, grad_norm=grad_norm)

        # 3. Clipping and the update.
        if self.config.max_grad_norm is not None and grad_norm > self.config.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, total_norm)
        for group, ratio in zip(self.optimizer.param_groups, self._rate_ratios, strict=True):
            group["lr"] = learning_rate * ratio
        seconds_observing = self._call_observers("gradients", micro_batches)
        before = self._parameters_before()
        with as_plugin_error(f"the optimizer {type(self.optimizer).__name__} cannot take step {progress.step + 1}"):
            self.optimizer.step()
        progress.step += 1
        seconds_observing += self._call_observers("update", micro_batches, before)
        self.optimizer.zero_grad()

        # 4. Counters and log.
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
        """Log a step with a loss or gradient that is not finite, and raise TrainingError. No update is made."""
        step = self.progress.step + 1
        details = {"tensor": self._first_nonfinite(), "loss": str(loss), "grad_norm": str(grad_norm)}
        self._log_step(step, loss=loss, learning_rate=learning_rate, grad_norm=grad_norm)
        self.tell("nonfinite", attempted_step=step, **details)
        try:
            again = f"`tfs replay {self._save_bundle(step, details)}` shows where the numbers go wrong."
        except Exception as error:  # whatever fails here, such as a full disk, must not hide why training ends
            again = f"What repeats the step is not saved: {error}"
        raise TrainingError(
            f"step {step} is not taken: its loss is {loss} and the norm of its gradient {grad_norm}; the first tensor "
            f"that is not finite is {details['tensor']}. {self._last_checkpoint_message()} {again} "
            "Lower training.learning_rate, warm up longer, or clip harder with training.max_grad_norm."
        )

    def _save_bundle(self, step: int, details: Mapping[str, str]) -> Path:
        """Save all that repeats a step, and return its folder. Raises TrainingError with several ranks."""
        if self.ranks.size > 1:
            raise TrainingError("each rank has a part of its batch.")
        taken = self.progress.step
        return save_step_bundle(
            self.checkpoints,
            step,
            model=self.model,
            micro_batches=self.batching.step(taken),
            random_states=self._random_states,
            state={
                "step": taken,
                "nonfinite": {"attempted_step": step, **details},
                "documents": [vars(part) for part in self.batching.documents(taken)],
                "progress": vars(self.progress),
            },
        )

    def _first_nonfinite(self) -> str:
        for name, parameter in self._parameters:
            if not torch.isfinite(parameter).all():
                return name
        for name, parameter in self._parameters:
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return f"the gradient of {name}"
        return "neither a weight nor a gradient, but computed from them"

    def _last_checkpoint_message(self) -> str:
        latest = self.checkpoints.latest()
        if latest is None:
            return "No checkpoint was saved before."
        return f"The last checkpoint, {latest.name}, is untouched."

    # Validation

    def _validation_is_due(self) -> bool:
        every, step = self.config.eval_every, self.progress.step
        return step == self.plan.total_steps or (every is not None and step % every == 0)

    def _validate(self) -> bool:
        """Evaluate on the validation split, log the result, call observers. Return whether it is the best so far."""
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
                f"finite is {self._first_nonfinite()}. {self._last_checkpoint_message()}"
            )
        improved = progress.best_loss is None or evaluation.loss < progress.best_loss
        if improved:
            progress.best_loss, progress.best_step = evaluation.loss, progress.step
            progress.validations_without_improvement = 0
        else:
            progress.validations_without_improvement += 1
        self._call_observers("validation", ())
        return improved

    # Loggers that observe the model

    def _call_observers(
        self, moment: Moment, micro_batches: Sequence[Batch], before: dict[str, Tensor] | None = None
    ) -> float:
        """Call the loggers that observe the model at this moment of a step, and return the seconds they took.

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
        with preserved_random_state(), torch.enable_grad():
            self.loggers.observe(moment, observers, view)
        self.model.train()  # a logger may have changed the mode
        return time.perf_counter() - started_at

    def _parameters_before(self) -> dict[str, Tensor] | None:
        """Return a copy of the parameters if a logger observes the next update, else None."""
        if not self.loggers.observers("update", self.progress.step + 1):
            return None
        return {name: parameter.detach().clone() for name, parameter in self._parameters}

    # Checkpoints

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
        """Save a checkpoint, after the loggers have made their lines up to this step durable."""
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
