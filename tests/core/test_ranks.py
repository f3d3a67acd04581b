"""Several ranks together read, evaluate and train exactly like a single rank."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tfs_core.builtin.batchings import Packed, Padded
from tfs_core.checkpoint import CheckpointKeeper
from tfs_core.config.schema import Choice, TrainingConfig
from tfs_core.contracts import Batch, Batching, BatchSettings, LanguageModel, ModelConfig, Ranks, RunLogger
from tfs_core.data.store import TokenSplit, TokenStore
from tfs_core.errors import ConfigError
from tfs_core.evaluator import Evaluation, Evaluator
from tfs_core.loggers import Loggers
from tfs_core.models import AutogradModel, LossModule, Objective
from tfs_core.ranks import OneRank
from tfs_core.records import StepRecord
from tfs_core.stop_signal import StopSignal
from tfs_core.trainer import Plan, Progress, Trainer

VOCAB_SIZE = 12
END_OF_TEXT = 11
BATCHINGS: dict[str, type[Packed] | type[Padded]] = {"packed": Packed, "padded": Padded}

both_batchings = pytest.mark.parametrize("batching", BATCHINGS)


class Letters:
    """The part of a tokenizer that batches and trainer use: every id but the end of text is one byte."""

    end_of_text_id = END_OF_TEXT

    def byte_lengths(self) -> np.ndarray:
        return np.array([1] * END_OF_TEXT + [0])


def split_of(lengths: Sequence[int], seed: int) -> TokenSplit:
    """Return documents of random tokens, in memory."""
    generator = np.random.default_rng(seed)
    texts = [np.append(generator.integers(0, END_OF_TEXT, length), END_OF_TEXT) for length in lengths]
    offsets = np.cumsum([0, *(len(text) for text in texts)])
    return TokenSplit(np.concatenate(texts).astype(np.uint16), offsets, sum(lengths))


TRAIN = split_of([5, 1, 12, 7, 3, 9, 2, 2, 21, 4, 6], seed=0)
VALIDATION = split_of([8, 3, 1, 14, 2, 5, 6], seed=1)


class Numbered(OneRank):
    """The part of `Ranks` that a batching uses."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def batches_of(batching: str, ranks: Ranks, *, batch_size: int = 4, accumulation: int = 3) -> Packed | Padded:
    settings = BatchSettings(
        batching=batching,
        dataset="text",
        num_epochs=None,
        max_length=5,
        batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        seed=1,
        document_masks=False,
        subset_size=None,
        shard_tokens=1 << 23,
    )
    return BATCHINGS[batching](
        None,
        source=None,  # type: ignore[arg-type]  # not used
        tokenizer=Letters(),  # type: ignore[arg-type]
        tokens=TokenStore(TRAIN, VALIDATION, Path(), {}),
        settings=settings,
        ranks=ranks,
    )


def rows_of(batches: Sequence[Batch]) -> list[tuple[list[int], list[int]]]:
    """Return (inputs, targets) of each row, without the padding."""
    found = []
    for batch in batches:
        for inputs, targets in zip(batch.input_ids.tolist(), batch.target_ids.tolist(), strict=True):
            length = len([target for target in targets if target != -100])
            found.append((inputs[:length], targets[:length]))
    return found


@both_batchings
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_read_together_each_part_of_a_step_that_one_reads_alone(batching: str, size: int) -> None:
    alone = batches_of(batching, OneRank())
    together = [batches_of(batching, Numbered(rank, size)) for rank in range(size)]
    assert {it.rows_per_step for it in (alone, *together)} == {12}
    for step in range(9):  # several epochs
        steps = [it.step(step) for it in together]
        for part, whole in enumerate(alone.step(step)):
            assert rows_of([parts[part] for parts in steps]) == rows_of([whole])
            assert sum(parts[part].valid_targets for parts in steps) == whole.valid_targets


@both_batchings
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_validate_together_on_every_row_once(batching: str, size: int) -> None:
    alone = rows_of(list(batches_of(batching, OneRank(), batch_size=6).validation()))
    ranks = [batches_of(batching, Numbered(rank, size), batch_size=6) for rank in range(size)]
    shares = [rows_of(list(it.validation())) for it in ranks]
    assert sorted(row for share in shares for row in share) == sorted(alone)
    for share in shares:  # each rank's rows are in text order
        assert [row for row in alone if row in share] == share


@both_batchings
def test_batch_that_ranks_cannot_share_evenly_is_rejected(batching: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size: 4 rows cannot be shared evenly by 3 processes"):
        batches_of(batching, Numbered(0, 3))


@both_batchings
@pytest.mark.parametrize("size", [1, 2])
def test_documents_of_a_step_are_where_its_targets_come_from(batching: str, size: int) -> None:
    for rank in range(size):
        batches = batches_of(batching, Numbered(rank, size))
        for step in range(9):
            found: list[int] = []
            for ref in batches.documents(step):
                (document,) = ref.document
                begins, ends = TRAIN.offsets[document : document + 2].tolist()
                assert begins <= begins + ref.start < begins + ref.stop <= ends, "within its document"
                found += TRAIN.tokens[begins + ref.start : begins + ref.stop].tolist()
            assert found == [target for _, targets in rows_of(batches.step(step)) for target in targets]


def test_documents_of_a_packed_row_are_all_that_it_crosses_and_of_a_padded_one_its_own() -> None:
    packed, padded = (batches_of(batching, OneRank()) for batching in BATCHINGS)
    rows = 12
    assert len(packed.documents(0)) > rows, "some rows cross from one document into the next"
    assert [ref.start for ref in padded.documents(0)] == [0] * rows
    assert max(ref.stop for ref in padded.documents(0)) == 5, "cut at max_length"


@both_batchings
def test_batching_says_whether_lengths_vary_and_rows_begin_with_end_of_text(batching: str) -> None:
    batches = batches_of(batching, OneRank(), batch_size=1)
    parts = [part for step in range(9) for part in batches.step(step)]
    assert batches.lengths_vary is (len({part.input_ids.shape[1] for part in parts}) > 1)
    assert batches.begins_with_end_of_text is all(int(part.input_ids[0, 0]) == END_OF_TEXT for part in parts)


# Ranks as threads of this process


class Thread(OneRank):
    """A rank that is a thread of this process, with its own model."""

    def __init__(self, rank: int, meeting: "Meeting") -> None:
        self.rank, self.size, self.meeting = rank, meeting.size, meeting

    def sum(self, values: Tensor) -> Tensor:
        return self.meeting.sum(self.rank, values)

    def finish_gradients(self, parameters: Sequence[Tensor]) -> Tensor:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad = self.sum(parameter.grad)
        return super().finish_gradients(parameters)


class Meeting:
    """Exchange of tensors between threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._brought: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=60)

    def sum(self, rank: int, values: Tensor) -> Tensor:
        self._brought[rank] = values
        self._barrier.wait()
        total = torch.stack(self._brought).sum(dim=0)
        self._barrier.wait()
        return total

    def all_ranks(self, work: Callable[[Ranks], Any]) -> list[Any]:
        """Run `work` on all ranks concurrently, and return the results."""

        def of_rank(rank: int) -> Any:
            try:
                return work(Thread(rank, self))
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(of_rank, range(self.size)))


class Table(AutogradModel):
    """A table of logits."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(dtype="float64"), vocab_size=VOCAB_SIZE)
        self.table = nn.Embedding(VOCAB_SIZE, VOCAB_SIZE)
        nn.init.normal_(self.table.weight, generator=torch.Generator().manual_seed(0))
        self.to(torch.float64)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)

    def flops_per_token(self, seq_len: int) -> float:
        return 10.0


@both_batchings
@pytest.mark.parametrize("max_batches", [None, 1, 2, 3])
def test_ranks_evaluate_together_what_one_evaluates_alone(batching: str, max_batches: int | None) -> None:
    def evaluated(ranks: Ranks) -> Evaluation:
        batches = batches_of(batching, ranks, batch_size=2).validation()
        return Evaluator(Table(), ranks=ranks).evaluate(
            batches, byte_lengths=Letters().byte_lengths(), max_batches=max_batches
        )

    alone = evaluated(OneRank())
    for together in Meeting(2).all_ranks(evaluated):
        assert together.tokens_evaluated == alone.tokens_evaluated
        assert together.loss == pytest.approx(alone.loss, rel=1e-12)
        assert together.bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-12)


class Recorder(RunLogger):
    """Collects step records."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []

    def on_step(self, record: StepRecord) -> None:
        self.steps.append((record.loss, record.grad_norm))


class NoRunFolder:
    """Replacement for a run folder that writes nothing."""

    def write_info(self, **changes: Any) -> None:
        pass

    def heartbeat(self, **changes: Any) -> None:
        pass


def trainer_of(
    batching: str, ranks: Ranks, folder: Path, model: LanguageModel, stop: StopSignal, recorder: RunLogger
) -> Trainer:
    config = TrainingConfig(
        batch_size=4,
        gradient_accumulation_steps=3,
        max_steps=5,
        learning_rate=0.5,
        eval_every=2,
        max_eval_batches=1,
        max_grad_norm=0.1,
        checkpoint_interval_minutes=None,
        optimizer=Choice("sgd"),
    )
    batches: Batching = batches_of(batching, ranks)
    return Trainer(
        config=config,
        plan=Plan(total_steps=5, warmup_steps=0),
        progress=Progress(),
        model=model,
        objective=Objective(model, LossModule(model)),
        optimizer=torch.optim.SGD([tensor for _, tensor in model.named_parameters()], lr=0.5),
        schedule=lambda step: 0.5,
        device="cpu",
        batching=batches,
        tokenizer=Letters(),  # type: ignore[arg-type]
        run_folder=NoRunFolder(),  # type: ignore[arg-type]
        checkpoints=CheckpointKeeper(folder / str(ranks.rank), keep=1),
        loggers=Loggers([recorder], pytest.fail),
        ranks=ranks,
        stop=stop,
    )


@both_batchings
def test_ranks_learn_together_what_one_learns_alone(batching: str, tmp_path: Path) -> None:
    def trained(ranks: Ranks) -> tuple[Trainer, list[tuple[float, float]]]:
        recorder = Recorder()
        trainer = trainer_of(batching, ranks, tmp_path / f"of {ranks.size}", Table(), StopSignal(), recorder)
        assert trainer.train() == "finished"
        return trainer, recorder.steps

    alone, steps_alone = trained(OneRank())
    assert len(steps_alone) == 5
    for together, steps in Meeting(2).all_ranks(trained):
        for found, expected in zip(steps, steps_alone, strict=True):
            assert found == pytest.approx(expected, rel=1e-12)
        torch.testing.assert_close(together.model.state_dict(), alone.model.state_dict(), rtol=1e-12, atol=1e-14)
        one, other = together.progress, alone.progress
        assert (one.step, one.tokens, one.best_step) == (other.step, other.tokens, other.best_step)
        assert one.best_loss == pytest.approx(other.best_loss, rel=1e-12)
        if batching == "packed":  # with padding, seq_len depends on the longest row of each rank's batch
            assert one.flops == other.flops


def test_signal_to_one_rank_stops_all_of_them_at_the_same_step(tmp_path: Path) -> None:
    class Signalled(Table):
        """Its process receives a signal in its second step."""

        def __init__(self, stop: StopSignal) -> None:
            super().__init__()
            self.stop, self.calls = stop, 0

        def backward(self, scale: float) -> None:
            super().backward(scale)
            self.calls += 1
            if self.calls == 5:
                self.stop.received = 15

    def stopped(ranks: Ranks) -> int:
        stop = StopSignal()
        model = Signalled(stop) if ranks.rank == 1 else Table()
        trainer = trainer_of("packed", ranks, tmp_path, model, stop, RunLogger())
        assert trainer.train() == "stopped"
        return trainer.progress.step

    assert Meeting(2).all_ranks(stopped) == [2, 2]
