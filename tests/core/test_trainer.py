"""The training loop: the update, the counters, and when it validates, saves and stops."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tfs_core.checkpoint import CheckpointKeeper, read_state
from tfs_core.checkpoint_folder import list_checkpoints, newest_valid_checkpoint, verify_checkpoint
from tfs_core.config.schema import Choice, TrainingConfig
from tfs_core.contracts import Batch, LanguageModel, ModelConfig, ModelView, RunLogger
from tfs_core.data.batches import Batches, Rows
from tfs_core.data.store import TokenSplit
from tfs_core.errors import DataError, TrainingError
from tfs_core.loggers import Loggers
from tfs_core.models import AutogradModel, LossModule, Objective
from tfs_core.ranks import OneRank
from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord
from tfs_core.stop_signal import StopSignal
from tfs_core.trainer import Plan, Progress, Trainer

VOCAB_SIZE = 7
END_OF_TEXT = 6
MAX_LENGTH = 5


def split(documents: int = 30, seed: int = 0) -> TokenSplit:
    """Return documents of 1 to 8 random tokens, in memory."""
    generator = np.random.default_rng(seed)
    texts = [
        np.append(generator.integers(0, END_OF_TEXT, generator.integers(1, 9)), END_OF_TEXT) for _ in range(documents)
    ]
    offsets = np.cumsum([0, *(len(text) for text in texts)])
    return TokenSplit(np.concatenate(texts).astype(np.uint16), offsets, int(offsets[-1]) - documents)


class InMemory(Batches):
    """Batches of the documents above, and eight other documents for validation."""

    def validation(self) -> Iterator[Batch]:
        return dataclasses.replace(self._rows, split=split(8, seed=5)).in_order(3)


class Letters:
    """The part of a tokenizer that the trainer uses: every id but the end of text is one byte."""

    def byte_lengths(self) -> np.ndarray:
        return np.array([1] * END_OF_TEXT + [0])


class Bigram(AutogradModel):
    """A table of logits with dropout: a minimal model with all the state that a resume must restore."""

    def __init__(self, *, dropout: float = 0.0, dtype: Any = "float32") -> None:
        super().__init__(ModelConfig(dropout=dropout, dtype=dtype), vocab_size=VOCAB_SIZE)
        self.table = nn.Embedding(VOCAB_SIZE, VOCAB_SIZE)
        self.bias = nn.Parameter(torch.zeros(VOCAB_SIZE))
        nn.init.normal_(self.table.weight, generator=torch.Generator().manual_seed(0))
        self.to(torch.float64 if dtype == "float64" else torch.float32)

    def forward(self, input_ids: Tensor) -> Tensor:
        scores: Tensor = self.table(input_ids) + self.bias
        return torch.dropout(scores, self.config.dropout, self.training)

    def flops_per_token(self, seq_len: int) -> float:
        return 1000.0 + seq_len


class ByHand:
    """A model without autograd: plain tensors and a hand-written backward pass."""

    mirrors = None
    context_limit = None
    config = ModelConfig()
    vocab_size = VOCAB_SIZE
    training = True

    def __init__(self) -> None:
        self.bias = torch.zeros(VOCAB_SIZE)
        self._kept: Tensor | None = None

    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        targets = target_ids[target_ids >= 0]
        shares = self.bias.softmax(0)
        if self.training:
            self._kept = len(targets) * shares - torch.bincount(targets, minlength=VOCAB_SIZE)
        return -shares.log()[targets].sum()

    def backward(self, scale: float) -> None:
        assert self._kept is not None
        gradient = scale * self._kept
        self.bias.grad = gradient if self.bias.grad is None else self.bias.grad + gradient
        self._kept = None

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def eval(self) -> None:
        self.training = False

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        return iter([("bias", self.bias)])

    def state_dict(self) -> dict[str, Tensor]:
        return {"bias": self.bias}

    def flops_per_token(self, seq_len: int) -> float:
        return 1.0


class Recorder(RunLogger):
    """Collects all records in one list."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def on_step(self, record: StepRecord) -> None:
        self.records.append(record)

    def on_validation(self, record: ValidationRecord) -> None:
        self.records.append(record)

    def on_sample(self, record: SampleRecord) -> None:
        self.records.append(record)

    def on_event(self, record: EventRecord) -> None:
        self.records.append(record)

    def on_checkpoint(self, step: int) -> None:
        self.records.append(f"about to save {step}")

    def of(self, kind: type) -> list[Any]:
        return [record for record in self.records if isinstance(record, kind)]

    def events(self, kind: str) -> list[EventRecord]:
        return [event for event in self.of(EventRecord) if event.kind == kind]


class NoRunFolder:
    """Replacement for a run folder that writes nothing to the disk."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}
        self.heartbeats: list[dict[str, Any]] = []

    def write_info(self, **changes: Any) -> None:
        self.info |= changes

    def heartbeat(self, **changes: Any) -> None:
        self.heartbeats.append(changes)


MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    """Return `make(model, ...)`: a trainer on the documents above; named arguments are those of TrainingConfig."""

    def make(
        model: LanguageModel | None = None,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        schedule: Callable[[int], float] = lambda step: 0.1,
        batching: Any = "padded",
        stop: StopSignal | None = None,
        observer: RunLogger | None = None,
        folder: str = "checkpoints",
        **settings: Any,
    ) -> Trainer:
        settings = {
            "batch_size": 4,
            "max_steps": 6,
            "learning_rate": 0.1,
            "eval_every": None,
            "max_grad_norm": None,
            "checkpoint_interval_minutes": None,
            "optimizer": Choice("sgd"),
            **settings,
        }
        config = TrainingConfig(**settings)
        model = model or Bigram()
        rows = Rows(split=split(), batching=batching, max_length=MAX_LENGTH, end_of_text_id=END_OF_TEXT)
        batches = InMemory(rows, batch_size=config.batch_size, accumulation=config.gradient_accumulation_steps, seed=1)
        return Trainer(
            config=config,
            plan=Plan(total_steps=config.max_steps or 6, warmup_steps=0),
            progress=Progress(),
            model=model,
            objective=Objective(model, LossModule(model)),
            optimizer=optimizer or torch.optim.SGD([tensor for _, tensor in model.named_parameters()], lr=0.1),
            schedule=schedule,
            device="cpu",
            batching=batches,  # type: ignore[arg-type]  # the part that is used
            tokenizer=Letters(),  # type: ignore[arg-type]
            run_folder=NoRunFolder(),  # type: ignore[arg-type]
            checkpoints=CheckpointKeeper(tmp_path / folder, keep=config.keep_checkpoints),
            loggers=Loggers([Recorder(), *([observer] if observer else [])], pytest.fail),
            ranks=OneRank(),
            stop=stop or StopSignal(),
        )

    return make


def told(trainer: Trainer) -> Recorder:
    (recorder,) = (logger for logger in trainer.loggers._loggers if isinstance(logger, Recorder))
    return recorder


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def saved(trainer: Trainer) -> list[str]:
    return [folder.name.removeprefix("step-000000") for folder in list_checkpoints(trainer.checkpoints.folder)]


# The update.


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_accumulated_parts_make_the_update_of_the_big_batch(batching: str, make_trainer: MakeTrainer) -> None:
    whole = make_trainer(Bigram(dtype="float64"), batching=batching, batch_size=8)
    parts = make_trainer(
        Bigram(dtype="float64"), batching=batching, batch_size=2, gradient_accumulation_steps=4, folder="parts"
    )
    whole.train()
    parts.train()
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-12, atol=1e-14)
    assert told(whole).of(StepRecord)
    for one, other in zip(told(whole).of(StepRecord), told(parts).of(StepRecord), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-12)
        assert (one.tokens, one.epoch) == (other.tokens, other.epoch)


def test_update_is_that_of_the_mean_over_valid_targets(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Bigram(dtype="float64"), max_steps=1)
    model = Bigram(dtype="float64")
    (batch,) = trainer.batching.step(0)
    model.loss(batch.input_ids, batch.target_ids)
    model.backward(1.0 / int((batch.target_ids >= 0).sum()))
    expected = model.table.weight.detach() - 0.1 * model.table.weight.grad  # type: ignore[operator]
    trainer.train()
    torch.testing.assert_close(weights(trainer)["table.weight"], expected, rtol=1e-12, atol=1e-14)


def test_each_step_has_the_gradient_of_its_own_batch(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_steps=3)
    trainer.train()
    model = Bigram()
    for step in range(3):
        (batch,) = trainer.batching.step(step)
        model.zero_grad()
        model.loss(batch.input_ids, batch.target_ids)
        model.backward(1.0 / batch.valid_targets)
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad
    for name, tensor in weights(trainer).items():
        torch.testing.assert_close(tensor, model.state_dict()[name])


def test_gradient_norm_is_logged_before_clipping_and_the_update_is_clipped(make_trainer: MakeTrainer) -> None:
    free, clipped = make_trainer(max_steps=1), make_trainer(max_steps=1, max_grad_norm=0.01, folder="clipped")
    before = weights(free)
    free.train()
    clipped.train()
    norm = told(free).of(StepRecord)[0].grad_norm
    assert told(clipped).of(StepRecord)[0].grad_norm == norm > 0.01
    moved = torch.cat([(weights(clipped)[name] - before[name]).flatten() for name in before])
    assert float(moved.norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_learning_rate_is_the_schedule_s_from_the_first_step_on(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(schedule=lambda step: 0.5 / (step + 1), max_steps=3)
    trainer.train()
    assert [record.learning_rate for record in told(trainer).of(StepRecord)] == [0.5, 0.25, 0.5 / 3]
    assert trainer.optimizer.param_groups[0]["lr"] == 0.5 / 3


def test_schedule_scales_a_group_s_own_learning_rate(make_trainer: MakeTrainer) -> None:
    model = Bigram()
    groups = [{"params": [model.table.weight]}, {"params": [model.bias], "lr": 0.2}]
    trainer = make_trainer(model, optimizer=torch.optim.SGD(groups, lr=0.1), schedule=lambda step: 0.05, max_steps=1)
    trainer.train()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.05, 0.1]


class Biases(AutogradModel):
    """The same function as `ByHand`, differentiated by autograd."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(), vocab_size=VOCAB_SIZE)
        self.bias = nn.Parameter(torch.zeros(VOCAB_SIZE))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.bias.expand(*input_ids.shape, VOCAB_SIZE)

    def flops_per_token(self, seq_len: int) -> float:
        return 1.0


def test_model_with_a_backward_of_its_own_is_trained_as_its_autograd_twin(make_trainer: MakeTrainer) -> None:
    settings: dict[str, Any] = {"max_grad_norm": 0.1, "gradient_accumulation_steps": 2, "max_steps": 9}
    by_hand = make_trainer(ByHand(), **settings)  # type: ignore[arg-type]
    twin = make_trainer(Biases(), folder="twin", **settings)
    by_hand.train()
    twin.train()
    torch.testing.assert_close(weights(by_hand)["bias"], weights(twin)["bias"])
    assert float(weights(twin)["bias"].abs().max()) > 0


def test_ranks_are_notified_of_the_last_micro_batch_of_a_step(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[bool] = []
    trainer = make_trainer(batch_size=2, gradient_accumulation_steps=3, max_steps=2)
    monkeypatch.setattr(trainer.ranks, "last_micro_batch", flags.append)
    trainer.train()
    assert flags == [False, False, True] * 2


# Counters.


def test_tokens_are_valid_targets_and_flops_are_executed_positions(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_steps=3)
    trainer.train()
    tokens = flops = 0.0
    assert len(told(trainer).of(StepRecord)) == 3
    for step, record in enumerate(told(trainer).of(StepRecord)):
        (batch,) = trainer.batching.step(step)
        seq_len = batch.input_ids.shape[1]
        tokens += int((batch.target_ids >= 0).sum())
        flops += 4 * seq_len * (1000.0 + seq_len)
        assert (record.step, record.tokens, record.flops) == (step + 1, tokens, flops)


def test_speed_of_steps_that_take_no_time_is_zero(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of low resolution may not advance between two readings."""
    trainer = make_trainer(max_steps=2)
    monkeypatch.setattr("tfs_core.trainer.time.perf_counter", lambda: 5.0)
    trainer.train()
    assert [record.tokens_per_second for record in told(trainer).of(StepRecord)] == [0.0, 0.0]


def test_run_folder_is_told_of_the_progress_after_each_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_steps=3, eval_every=2)
    trainer.train()
    steps, validations = (told(trainer).of(kind) for kind in (StepRecord, ValidationRecord))
    best = [None, *({"step": record.step, "loss": record.loss} for record in validations)]
    expected = [
        {"last_step": record.step, "tokens": record.tokens, "flops": record.flops, "best_validation": best_so_far}
        for record, best_so_far in zip(steps, best, strict=True)
    ]
    assert validations[1].loss < validations[0].loss
    assert trainer.run_folder.heartbeats == [{"summary": summary} for summary in expected]  # type: ignore[attr-defined]


def test_validation_reports_bits_per_byte_of_the_tokenizer(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.train()
    (record,) = told(trainer).of(ValidationRecord)
    targets = torch.cat([batch.target_ids.flatten() for batch in trainer.batching.validation()])
    text_bytes = int(((targets >= 0) & (targets != END_OF_TEXT)).sum())
    assert record.tokens_evaluated > text_bytes
    assert record.bits_per_byte == pytest.approx(record.loss * record.tokens_evaluated / math.log(2) / text_bytes)


def test_validation_is_summed_over_the_ranks(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.train()
    (alone,) = told(trainer).of(ValidationRecord)
    trainer = make_trainer(max_steps=1, folder="two")
    monkeypatch.setattr(trainer.ranks, "sum", lambda tensor: 2 * tensor)
    monkeypatch.setattr(trainer.ranks, "size", 2)
    trainer.train()
    (both,) = told(trainer).of(ValidationRecord)
    assert both.tokens_evaluated == 2 * alone.tokens_evaluated


def test_epoch_of_a_line_is_the_one_in_which_its_step_begins(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_steps=9)  # 30 rows, 4 a step
    trainer.train()
    assert [record.epoch for record in told(trainer).of(StepRecord)] == [0] * 8 + [1]


def test_elapsed_seconds_grow_and_continue_from_an_earlier_session(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer._earlier_seconds = 1000.0
    trainer.train()
    seconds = [record.elapsed_seconds for record in told(trainer).of(StepRecord)]
    assert 1000.0 < seconds[0] < seconds[-1] < 1100.0


def test_log_every_skips_lines_except_the_first_and_the_last(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(log_every=3, max_steps=8)
    trainer.train()
    assert [record.step for record in told(trainer).of(StepRecord)] == [1, 3, 6, 8]


def test_tokens_per_second_count_training_only(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("tfs_core.trainer.time.perf_counter", lambda: clock[0])

    class Slow(Bigram):
        def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
            clock[0] += 2.0 if self.training else 500.0
            return super().loss(input_ids, target_ids)

    trainer = make_trainer(Slow(), eval_every=1, max_steps=2)
    trainer.train()
    first, second = told(trainer).of(StepRecord)
    assert second.tokens_per_second == (second.tokens - first.tokens) / 2.0
    assert second.elapsed_seconds > 500.0


def test_tokens_per_second_count_waiting_for_data_but_not_the_time_of_observers(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("tfs_core.trainer.time.perf_counter", lambda: clock[0])

    class Slow(RunLogger):
        def moments(self, step: int) -> set[str]:
            return {"gradients", "update"}

        def observe(self, moment: str, view: ModelView) -> None:
            clock[0] += 500.0

    def ready(step: int) -> bool:
        clock[0] += 2.0
        return True

    trainer = make_trainer(observer=Slow(), max_steps=2)
    monkeypatch.setattr(trainer.batching, "ready", ready)
    trainer.train()
    first, second = told(trainer).of(StepRecord)
    assert second.tokens_per_second == (second.tokens - first.tokens) / 2.0


def test_waiting_for_a_stream_counts_in_tokens_per_second_and_elapsed_seconds(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("tfs_core.trainer.time.perf_counter", lambda: clock[0])
    waits = {0: 0, 1: 3, 2: 0, 3: 1}  # step -> answers of False before the one of True

    class Timed(Bigram):
        def backward(self, scale: float) -> None:
            super().backward(scale)
            clock[0] += 1.0  # a step takes one second

    def ready(step: int) -> bool:
        if waits[step] == 0:
            return True
        waits[step] -= 1
        clock[0] += 10.0  # an answer of False comes after ten
        return False

    trainer = make_trainer(Timed(), max_steps=4)
    monkeypatch.setattr(trainer.batching, "ready", ready)
    trainer.train()
    records = told(trainer).of(StepRecord)
    assert [record.elapsed_seconds for record in records] == [1.0, 32.0, 33.0, 44.0]
    tokens = np.diff([0, *(record.tokens for record in records)])
    assert [record.tokens_per_second for record in records] == (tokens / [1.0, 31.0, 1.0, 11.0]).tolist()


def test_waiting_for_a_stream_counts_in_the_line_that_covers_its_step(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("tfs_core.trainer.time.perf_counter", lambda: clock[0])
    asked: list[int] = []

    def ready(step: int) -> bool:
        clock[0] += 5.0
        asked.append(step)
        return asked.count(step) == 2

    trainer = make_trainer(log_every=3, max_steps=4)
    monkeypatch.setattr(trainer.batching, "ready", ready)
    trainer.train()
    records = told(trainer).of(StepRecord)
    assert [(record.step, record.elapsed_seconds) for record in records] == [(1, 10.0), (3, 30.0), (4, 40.0)]
    tokens = np.diff([0, *(record.tokens for record in records)])
    assert [record.tokens_per_second for record in records] == (tokens / [10.0, 20.0, 10.0]).tolist()


# When it stops.


class Breaking(Bigram):
    """Returns a loss or a gradient that is not finite, at one step."""

    def __init__(self, what: str, at: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.what, self.countdown = what, at

    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        loss = super().loss(input_ids, target_ids)
        if self.training:
            self.countdown -= 1
        broken = self.countdown == 0 and self.what == ("loss" if self.training else "validation")
        return loss * math.nan if broken else loss

    def backward(self, scale: float) -> None:
        super().backward(scale)
        if self.countdown == 0 and self.what == "gradient":
            assert self.bias.grad is not None
            self.bias.grad[2] = math.inf


@pytest.mark.parametrize(("what", "named"), [("loss", "but computed from them"), ("gradient", "the gradient of bias")])
def test_nonfinite_step_is_not_applied_and_is_reported(what: str, named: str, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Breaking(what, at=3), checkpoint_every=2)
    two_steps = make_trainer(max_steps=2, folder="other")
    two_steps.train()
    with pytest.raises(TrainingError, match=rf"step 3 is not taken: .*{named}.*step-00000002, is untouched"):
        trainer.train()
    for name, tensor in weights(two_steps).items():
        assert torch.equal(weights(trainer)[name], tensor)


def test_nonfinite_step_is_shown_in_the_log_and_as_an_event(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Breaking("loss", at=3))
    with pytest.raises(TrainingError, match="step 3 is not taken"):
        trainer.train()
    last = told(trainer).of(StepRecord)[-1]
    assert last.step == 3
    assert math.isnan(last.loss)
    (event,) = told(trainer).events("nonfinite")
    assert event.step == 2
    assert event.details == {
        "attempted_step": 3,
        "tensor": "neither a weight nor a gradient, but computed from them",
        "loss": "nan",
        "grad_norm": event.details["grad_norm"],
    }


def test_nonfinite_run_saves_nothing_and_deletes_nothing(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Breaking("gradient", at=4), checkpoint_every=1, keep_checkpoints=2)
    with pytest.raises(TrainingError, match="step 4 is not taken"):
        trainer.train()
    assert saved(trainer) == ["02", "03"]
    assert newest_valid_checkpoint(trainer.checkpoints.folder)[1] == []


def bundles(trainer: Trainer) -> list[Path]:
    return list_checkpoints(trainer.checkpoints.folder.with_name("nonfinite"))


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_nonfinite_step_is_saved_with_all_that_repeats_it(batching: str, make_trainer: MakeTrainer) -> None:
    settings: dict[str, Any] = {"batching": batching, "batch_size": 1, "gradient_accumulation_steps": 2}
    torch.manual_seed(3)
    two_steps = make_trainer(Bigram(dropout=0.5), max_steps=2, folder="two", **settings)
    two_steps.train()
    before = torch.get_rng_state()
    torch.manual_seed(3)
    trainer = make_trainer(Breaking("loss", at=6, dropout=0.5), **settings)
    with pytest.raises(TrainingError, match=r"`tfs replay \S+/nonfinite/step-00000003` shows where") as raised:
        trainer.train()
    (bundle,) = bundles(trainer)
    assert str(bundle) in str(raised.value)
    verify_checkpoint(bundle)
    for name, tensor in load_file(bundle / "model.safetensors").items():
        assert torch.equal(tensor, weights(two_steps)[name])
    tensors, parts = load_file(bundle / "batches.safetensors"), trainer.batching.step(2)
    assert len(tensors) == 2 * len(parts) == 4
    for index, part in enumerate(parts):
        assert torch.equal(tensors[f"{index}/input_ids"], part.input_ids)
        assert torch.equal(tensors[f"{index}/target_ids"], part.target_ids)
    state = read_state(bundle)
    assert (state["step"], state["nonfinite"]["attempted_step"]) == (2, 3)
    assert state["documents"] == [vars(it) | {"document": list(it.document)} for it in trainer.batching.documents(2)]
    assert state["random_state"]["torch"] == before.tolist()


def test_bundle_holds_weights_that_are_not_finite(make_trainer: MakeTrainer) -> None:
    model = Bigram()
    trainer = make_trainer(model, optimizer=Overflowing(model.parameters(), lr=0.1))
    with pytest.raises(TrainingError, match="step 4 is not taken"):
        trainer.train()
    (bundle,) = bundles(trainer)
    assert load_file(bundle / "model.safetensors")["bias"][0] == math.inf


def test_bundle_holds_ids_that_are_views_of_one_tensor(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, row = make_trainer(Breaking("loss", at=1)), torch.tensor([[5, 0, 1, 2]])
    monkeypatch.setattr(trainer.batching, "step", lambda step: [Batch(row[:, :-1], row[:, 1:], 3)])
    with pytest.raises(TrainingError, match="step 1 is not taken"):
        trainer.train()
    tensors = load_file(bundles(trainer)[0] / "batches.safetensors")
    assert (tensors["0/input_ids"].tolist(), tensors["0/target_ids"].tolist()) == ([[5, 0, 1]], [[0, 1, 2]])


def test_only_the_newest_bundle_is_kept(make_trainer: MakeTrainer) -> None:
    for at in (5, 2):  # the later one has the lower step
        trainer = make_trainer(Breaking("loss", at=at))
        with pytest.raises(TrainingError, match=f"step {at} is not taken"):
            trainer.train()
        assert [bundle.name for bundle in bundles(trainer)] == [f"step-0000000{at}"]


def test_full_disk_does_not_hide_the_nonfinite_step(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfs_core.tensor_files.save_file", no_space)
    trainer = make_trainer(Breaking("loss", at=3))
    with pytest.raises(TrainingError, match=r"step 3 is not taken: .* is not saved: .*No space left on device"):
        trainer.train()
    assert list(trainer.checkpoints.folder.with_name("nonfinite").iterdir()) == []


def test_step_of_several_ranks_is_not_saved(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(Breaking("loss", at=3))
    monkeypatch.setattr(trainer.ranks, "size", 2)
    with pytest.raises(TrainingError, match=r"step 3 is not taken: .* is not saved: each rank has a part"):
        trainer.train()
    assert bundles(trainer) == []


class Overflowing(torch.optim.SGD):
    """Overflows the weights in its third step."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3:
            self.param_groups[0]["params"][0].data[0] = math.inf


def test_weights_that_overflow_are_not_saved(make_trainer: MakeTrainer) -> None:
    model = Bigram()
    trainer = make_trainer(model, optimizer=Overflowing(model.parameters(), lr=0.1), checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"bias holds numbers that are not finite"):
        trainer.train()
    assert saved(trainer) == ["01", "02"]


def test_nonfinite_validation_stops_without_saving(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Breaking("validation", at=2), eval_every=2)
    with pytest.raises(TrainingError, match="the validation loss at step 2 is nan"):
        trainer.train()
    assert saved(trainer) == []


def test_stop_signal_saves_at_the_step_boundary(make_trainer: MakeTrainer) -> None:
    stop = StopSignal()

    class Signalled(Bigram):
        def backward(self, scale: float) -> None:
            super().backward(scale)
            stop.received = 2

    trainer = make_trainer(Signalled(), stop=stop)
    assert trainer.train() == "stopped"
    assert saved(trainer) == ["01"]
    (event,) = told(trainer).events("checkpoint")
    assert event.details["reasons"] == ["signal"]


def test_stop_signal_after_saving_was_decided_still_saves(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopSignal()
    trainer = make_trainer(stop=stop, checkpoint_every=None)

    def signalled(**_: object) -> None:
        stop.received = 2

    monkeypatch.setattr(trainer.run_folder, "heartbeat", signalled)
    assert trainer.train() == "stopped"
    saved = trainer.checkpoints.latest()
    assert saved is not None
    assert saved.name == f"step-{trainer.progress.step:08}"


def test_early_stopping_counts_validations_without_improvement(make_trainer: MakeTrainer) -> None:
    schedule = [0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0].__getitem__
    trainer = make_trainer(schedule=schedule, eval_every=1, early_stopping=2, max_steps=8)
    assert trainer.train() == "finished"
    assert trainer.progress.step == 4
    assert (trainer.progress.best_step, trainer.progress.validations_without_improvement) == (2, 2)
    assert saved(trainer)[-1] == "04"
    assert told(trainer).events("checkpoint")[-1].details["reasons"] == ["end"]


def test_improvement_resets_the_count_of_early_stopping(make_trainer: MakeTrainer) -> None:
    schedule = [0.1, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0].__getitem__
    trainer = make_trainer(schedule=schedule, eval_every=1, early_stopping=2, max_steps=8)
    trainer.train()
    assert (trainer.progress.best_step, trainer.progress.step) == (3, 5)


# When it validates and saves.


def test_validation_runs_at_its_interval_and_at_the_end_and_never_twice(make_trainer: MakeTrainer) -> None:
    for total, expected in ((7, [3, 6, 7]), (6, [3, 6])):
        trainer = make_trainer(eval_every=3, max_steps=total, folder=str(total))
        trainer.train()
        assert [record.step for record in told(trainer).of(ValidationRecord)] == expected


class Looks(RunLogger):
    """Observes the model at every moment, and draws random numbers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def moments(self, step: int) -> set[str]:
        return {"gradients", "update", "validation"}

    def observe(self, moment: str, view: ModelView) -> None:
        self.seen.append((moment, view.step))
        torch.rand(1)
        with view.evaluating() as model:
            model.forward(torch.zeros(1, 3, dtype=torch.int64))


def test_validation_and_observers_do_not_change_training(make_trainer: MakeTrainer) -> None:
    torch.manual_seed(0)
    often = make_trainer(Bigram(dropout=0.3), eval_every=1, observer=(looks := Looks()))
    often.train()
    assert looks.seen[:4] == [("gradients", 1), ("update", 1), ("validation", 1), ("gradients", 2)]
    torch.manual_seed(0)
    never = make_trainer(Bigram(dropout=0.3), folder="never")
    never.train()
    for name, tensor in weights(never).items():
        assert torch.equal(weights(often)[name], tensor)


def test_observers_see_the_update_of_the_step_and_cannot_leave_another_mode(make_trainer: MakeTrainer) -> None:
    updates: list[dict[str, Tensor]] = []

    class LeavesEvalMode(RunLogger):
        def moments(self, step: int) -> set[str]:
            return {"gradients", "update"}

        def observe(self, moment: str, view: ModelView) -> None:
            if moment == "update":
                updates.append({name: tensor.clone() for name, tensor in view.updates().items()})
            trainer.model.eval()

    trainer = make_trainer(max_steps=2, observer=LeavesEvalMode())
    before = weights(trainer)
    trainer.train()
    assert len(updates) == 2
    for name, tensor in weights(trainer).items():
        torch.testing.assert_close(tensor - before[name], updates[0][name] + updates[1][name])
    assert trainer.model.training


def test_model_in_eval_mode_is_trained_in_training_mode(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.model.eval()
    trainer.train()
    assert trainer.model.training
    assert any(not torch.equal(tensor, Bigram().state_dict()[name]) for name, tensor in weights(trainer).items())


def test_validation_uses_the_loss_of_the_wrappers(make_trainer: MakeTrainer) -> None:
    class Doubled(nn.Module):
        def __init__(self, model: LanguageModel) -> None:
            super().__init__()
            self.loss = LossModule(model)

        def forward(self, *inputs: Tensor) -> Tensor:
            doubled: Tensor = 2 * self.loss(*inputs)
            return doubled

    losses = []
    for folder, module in (("one", LossModule), ("two", Doubled)):
        trainer = make_trainer(max_steps=1, folder=folder, schedule=lambda step: 0.0)
        trainer.objective = Objective(trainer.model, module(trainer.model))
        trainer.train()
        (record,) = told(trainer).of(ValidationRecord)
        losses.append(record.loss)
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-6)


def test_improvement_saves_and_moves_best(make_trainer: MakeTrainer) -> None:
    schedule = [0.5, 0.5, 0.0, -0.5, -0.5, -0.5].__getitem__  # the loss increases from the fourth step on
    trainer = make_trainer(schedule=schedule, eval_every=2, keep_checkpoints=1)
    trainer.train()
    losses = {record.step: record.loss for record in told(trainer).of(ValidationRecord)}
    assert min(losses, key=losses.__getitem__) == 2
    assert saved(trainer) == ["02", "06"]
    assert (trainer.checkpoints.folder / "best").read_text() == "step-00000002\n"
    assert trainer.summary()["best_validation"] == {"step": 2, "loss": losses[2]}


def test_checkpoint_every_saves_at_these_steps_and_at_the_end(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(checkpoint_every=2, max_steps=5)
    trainer.train()
    reasons = {event.step: event.details["reasons"] for event in told(trainer).events("checkpoint")}
    assert reasons == {2: ["steps"], 4: ["steps"], 5: ["best", "end"]}
    assert trainer.run_folder.info["summary"] == trainer.summary()


def test_minutes_since_the_last_save_save(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("tfs_core.trainer.time.perf_counter", lambda: clock[0])

    class Minute(Bigram):
        def backward(self, scale: float) -> None:
            super().backward(scale)
            clock[0] += 60.0

    trainer = make_trainer(Minute(), checkpoint_interval_minutes=2.0, max_steps=5)
    trainer.train()
    assert saved(trainer) == ["02", "04", "05"]


def test_loggers_are_called_before_a_checkpoint_and_after_all_records_up_to_it(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(eval_every=2, max_steps=2)
    trainer.train()
    kinds = [record if isinstance(record, str) else type(record).__name__ for record in told(trainer).records]
    assert kinds == ["StepRecord", "StepRecord", "ValidationRecord", "about to save 2", "EventRecord"]


def test_signal_while_waiting_for_data_saves_and_stops(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopSignal()
    trainer = make_trainer(stop=stop)

    def ready(step: int) -> bool:
        if step == 3:
            stop.received = 2
        return step < 3

    monkeypatch.setattr(trainer.batching, "ready", ready)
    assert trainer.train() == "stopped"
    assert saved(trainer) == ["03"]


def test_stream_that_breaks_off_ends_training_after_a_checkpoint(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()

    def ready(step: int) -> bool:
        if step == 3:
            raise DataError("the Hub is gone")
        return True

    monkeypatch.setattr(trainer.batching, "ready", ready)
    with pytest.raises(DataError, match="the Hub is gone"):
        trainer.train()
    assert saved(trainer) == ["03"]
    assert told(trainer).events("checkpoint")[0].details["reasons"] == ["data"]


@pytest.mark.parametrize(("breaks_at", "expected"), [(0, []), (2, [["steps"]]), (3, [["steps"], ["data"]])])
def test_stream_that_breaks_off_saves_no_step_twice_and_none_before_the_first(
    breaks_at: int, expected: list[list[str]], make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(checkpoint_every=2)

    def ready(step: int) -> bool:
        if step == breaks_at:
            raise DataError("the Hub is gone")
        return True

    monkeypatch.setattr(trainer.batching, "ready", ready)
    with pytest.raises(DataError, match="the Hub is gone"):
        trainer.train()
    assert [event.details["reasons"] for event in told(trainer).events("checkpoint")] == expected
