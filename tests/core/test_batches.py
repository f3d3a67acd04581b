"""Batches: their targets, the order of rows, and that they are a pure function of the step."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfs_core.contracts import Batch
from tfs_core.data import batches as batches_module
from tfs_core.data.batches import Batches, BatchingName, Rows
from tfs_core.data.store import TokenSplit

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

END = 999


def split_of(lengths: list[int]) -> TokenSplit:
    """Return a split whose tokens are 0, 1, 2, ..., with an end of text after each document."""
    tokens, offsets = [], [0]
    for length in lengths:
        tokens += [*range(len(tokens), len(tokens) + length), END]
        offsets.append(len(tokens))
    return TokenSplit(np.array(tokens, dtype=np.uint16), np.array(offsets), sum(lengths))


def batches_of(split: TokenSplit, **options: object) -> Batches:
    values: dict[str, Any] = {"batching": "packed", "max_length": 4, "batch_size": 2, "seed": 1, **options}
    names = ("batching", "max_length", "document_masks")
    rows = Rows(split=split, end_of_text_id=END, **{name: values.pop(name) for name in names if name in values})
    return Batches(rows, **values)


def in_order(split: TokenSplit, batching: BatchingName, max_length: int, batch_size: int) -> Iterator[Batch]:
    rows = Rows(split=split, batching=batching, max_length=max_length, end_of_text_id=END)
    return rows.in_order(batch_size)


def targets_of(batches: list[Batch]) -> Counter[int]:
    flat = torch.cat([batch.target_ids.flatten() for batch in batches])
    return Counter(flat[flat != -100].tolist())


def rows_of(batches: list[Batch]) -> list[tuple[list[int], list[int]]]:
    """Return (inputs, targets) of each row, without the padding."""
    found = []
    for batch in batches:
        for inputs, targets in zip(batch.input_ids.tolist(), batch.target_ids.tolist(), strict=True):
            length = len([target for target in targets if target != -100])
            found.append((inputs[:length], targets[:length]))
    return found


documents = st.lists(st.integers(1, 9), min_size=1, max_size=12)
batchings = st.sampled_from(["packed", "padded"])


def test_packed_rows_are_windows_of_the_stream_shifted_by_one() -> None:
    split = split_of([3, 2])  # 0 1 2 END 4 5 END
    batch = next(in_order(split, "packed", 4, 9))
    assert batch.input_ids.tolist() == [[END, 0, 1, 2], [END, 4, 5, END]]
    assert batch.target_ids.tolist() == [[0, 1, 2, END], [4, 5, END, -100]]
    assert batch.valid_targets == 7


@untimed
@given(lengths=documents, max_length=st.integers(1, 13), batch_size=st.integers(1, 5))
def test_packed_inputs_are_the_stream_one_token_before_the_targets(
    lengths: list[int], max_length: int, batch_size: int
) -> None:
    """Rows are windows over the ends of documents: no token is left out, repeated or put elsewhere."""
    split = split_of(lengths)
    rows = rows_of(list(in_order(split, "packed", max_length, batch_size)))
    stream = split.tokens.tolist()
    assert [token for _, targets in rows for token in targets] == stream
    assert [token for inputs, _ in rows for token in inputs] == [END, *stream[:-1]]
    assert {len(targets) for _, targets in rows[:-1]} <= {max_length}


def test_padded_rows_are_documents_filled_to_the_longest_of_the_batch() -> None:
    split = split_of([3, 1, 8])
    batch = next(in_order(split, "padded", 6, 2))
    assert batch.input_ids.tolist() == [[END, 0, 1, 2], [END, 4, END, END]]
    assert batch.target_ids.tolist() == [[0, 1, 2, END], [4, END, -100, -100]]
    assert batch.valid_targets == 6


def test_padded_rows_are_cut_at_max_length() -> None:
    split = split_of([8])
    batch = next(in_order(split, "padded", 6, 2))
    assert batch.input_ids.tolist() == [[END, 0, 1, 2, 3, 4]]
    assert batch.target_ids.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_batches_are_int64_tensors_on_the_cpu() -> None:
    (batch,) = batches_of(split_of([5, 6])).step(0)
    for tensor in (batch.input_ids, batch.target_ids):
        assert (tensor.dtype, tensor.device.type, list(tensor.shape)) == (torch.int64, "cpu", [2, 4])


@untimed
@given(lengths=documents, max_length=st.integers(1, 13), batch_size=st.integers(1, 5))
def test_packed_evaluation_has_every_stored_token_as_a_target_once(
    lengths: list[int], max_length: int, batch_size: int
) -> None:
    split = split_of(lengths)
    found = list(in_order(split, "packed", max_length, batch_size))
    assert targets_of(found) == Counter(split.tokens.tolist())
    assert sum(batch.valid_targets for batch in found) == split.n_tokens


@settings(untimed, max_examples=50)
@given(
    lengths=documents,
    max_length=st.integers(1, 13),
    batch_size=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    world_size=st.integers(1, 3),
    epochs=st.integers(1, 3),
)
def test_packed_training_has_every_stored_token_as_a_target_once_an_epoch(
    lengths: list[int], max_length: int, batch_size: int, accumulation: int, world_size: int, epochs: int
) -> None:
    split = split_of(lengths)
    ranks = [
        batches_of(
            split,
            max_length=max_length,
            batch_size=batch_size,
            accumulation=accumulation,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    rows = []
    for step in range(ranks[0].steps_for_epochs(epochs)):
        parts = [batches.step(step) for batches in ranks]
        for part in range(accumulation):  # the rows of a step, in their order
            rows += rows_of([parts[rank][part] for rank in range(world_size)])
    n_rows = ranks[0].rows
    for epoch in range(epochs):
        of_epoch = rows[epoch * n_rows : (epoch + 1) * n_rows]
        assert Counter(target for _, targets in of_epoch for target in targets) == Counter(split.tokens.tolist())


@settings(untimed, max_examples=40)
@given(lengths=documents, max_length=st.integers(1, 13), batching=batchings, step=st.integers(0, 50))
def test_rows_of_a_step_do_not_depend_on_how_they_are_cut(
    lengths: list[int], max_length: int, batching: BatchingName, step: int
) -> None:
    split = split_of(lengths)

    def rows(batch_size: int, accumulation: int, world_size: int) -> list[object]:
        found = []
        for rank in range(world_size):
            batches = batches_of(
                split,
                batching=batching,
                max_length=max_length,
                batch_size=batch_size,
                accumulation=accumulation,
                rank=rank,
                world_size=world_size,
            )
            found += rows_of(batches.step(step))
        return sorted(found)

    whole = rows(12, 1, 1)
    for cut in [(6, 2, 1), (6, 1, 2), (2, 3, 2), (1, 12, 1), (1, 1, 12), (3, 4, 1)]:
        assert rows(*cut) == whole


@settings(untimed, max_examples=40)
@given(lengths=documents, max_length=st.integers(1, 13), batching=batchings, step=st.integers(0, 30))
def test_batches_resumed_at_any_step_go_on_as_if_never_stopped(
    lengths: list[int], max_length: int, batching: BatchingName, step: int
) -> None:
    split = split_of(lengths)

    def make() -> Batches:
        return batches_of(split, batching=batching, max_length=max_length, batch_size=3, accumulation=2)

    running = make()
    for earlier in range(step):
        running.step(earlier)
    resumed = make().step(step)
    assert len(resumed) == 2
    for one, other in zip(running.step(step), resumed, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
        assert torch.equal(one.target_ids, other.target_ids)
        assert one.valid_targets == other.valid_targets


@untimed
@given(lengths=documents, max_length=st.integers(1, 13), batching=batchings, step=st.integers(0, 30))
def test_padding_is_never_counted(lengths: list[int], max_length: int, batching: BatchingName, step: int) -> None:
    batches = batches_of(split_of(lengths), batching=batching, max_length=max_length, accumulation=2)
    parts = batches.step(step)
    assert len(parts) == 2
    for batch in parts:
        assert batch.valid_targets == int((batch.target_ids != -100).sum())


@untimed
@given(lengths=documents, max_length=st.integers(1, 13), batching=batchings, n=st.integers(1, 400))
def test_steps_for_tokens_ends_with_the_step_that_reaches_them(
    lengths: list[int], max_length: int, batching: BatchingName, n: int
) -> None:
    batches = batches_of(split_of(lengths), batching=batching, max_length=max_length)
    tokens = steps = 0
    while tokens < n:
        tokens += sum(batch.valid_targets for batch in batches.step(steps))
        steps += 1
    assert batches.steps_for_tokens(n) == steps


def test_epoch_counts_the_passes_completed_before_a_step() -> None:
    batches = batches_of(split_of([5, 5, 5]))  # 18 tokens are 5 rows of 4; 2 rows a step
    assert batches.rows == 5
    assert [batches.epoch(step) for step in range(6)] == [0, 0, 0, 1, 1, 2]
    assert [batches.steps_for_epochs(n) for n in (1, 2, 3)] == [3, 5, 8]


def test_epochs_of_some_steps_are_counted_in_parts() -> None:
    batches = batches_of(split_of([9, 9]), batch_size=2)  # 5 rows
    assert [batches.epochs(steps) for steps in (1, 5, 7)] == [0.4, 2.0, 2.8]


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_first_epoch_is_shuffled_and_the_second_otherwise(batching: BatchingName) -> None:
    batches = batches_of(split_of([3] * 50), batching=batching, batch_size=50)
    first, second = (batches.row_numbers(epoch, 0).tolist() for epoch in range(2))
    assert sorted(first) == sorted(second) == list(range(50))
    assert len({tuple(first), tuple(second), tuple(range(50))}) == 3


def test_order_of_rows_follows_from_the_seed() -> None:
    split = split_of([3] * 50)
    orders = [batches_of(split, seed=seed, batch_size=50).row_numbers(0, 0).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_valid_targets_per_row_is_the_average_of_an_epoch() -> None:
    padded = batches_of(split_of([1, 9, 3]), batching="padded")  # with end of text 2, 10 cut to 4, and 4
    assert (padded.valid_targets_per_epoch, padded.valid_targets_per_row) == (10, 10 / 3)
    packed = batches_of(split_of([1, 9, 3]))
    assert (packed.valid_targets_per_epoch, packed.valid_targets_per_row) == (16, 4)


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_batches_of_a_memory_mapped_store_are_those_of_the_same_tokens_in_memory(
    batching: BatchingName, tmp_path: Path
) -> None:
    split = split_of([5, 1, 12, 7, 3, 9])
    np.save(tmp_path / "tokens.npy", split.tokens)
    np.save(tmp_path / "offsets.npy", split.offsets)
    mapped = TokenSplit(
        np.load(tmp_path / "tokens.npy", mmap_mode="r"), np.load(tmp_path / "offsets.npy", mmap_mode="r"), split.n_bytes
    )
    in_memory, on_disk = (batches_of(one, batching=batching, max_length=5, batch_size=3) for one in (split, mapped))
    for step in range(8):
        (first,), (second,) = in_memory.step(step), on_disk.step(step)
        assert torch.equal(first.input_ids, second.input_ids)
        assert torch.equal(first.target_ids, second.target_ids)


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_step_prefetches_the_tokens_of_the_next_step(batching: BatchingName, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of([5, 1, 12, 7, 3, 9])
    asked: dict[str, set[int]] = {"tokens": set(), "offsets": set()}

    def record(array: Any, starts: Any, stops: Any) -> None:
        name = "tokens" if array is split.tokens else "offsets"
        asked[name].update(place for start, stop in zip(starts, stops, strict=True) for place in range(start, stop))

    monkeypatch.setattr(batches_module, "read_ahead", record)
    batches = batches_of(split, batching=batching, max_length=5, batch_size=2)
    batches.step(0)
    rows = batches.row_numbers(1, 0)
    starts = split.offsets[rows] if batching == "padded" else rows * 5
    ends = split.offsets[rows + 1] if batching == "padded" else starts + 5
    assert asked["tokens"] == {
        place
        for start, end in zip(starts, ends, strict=True)
        for place in range(max(start - 1, 0), min(start + 5, end, split.n_tokens))
    }
    # A padded row begins and ends at an offset; a packed row needs none.
    assert asked["offsets"] == ({place for row in rows for place in (row, row + 1)} if batching == "padded" else set())


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_documents_of_a_step_are_the_text_of_its_targets(batching: BatchingName) -> None:
    split = split_of([5, 1, 12, 7, 3, 9])
    batches = batches_of(split, batching=batching, max_length=6, batch_size=2, accumulation=2)
    for step in range(4):
        targets = [token for batch in batches.step(step) for _, row in rows_of([batch]) for token in row]
        of_documents = []
        for ref in batches.documents(step):
            (document,) = ref.document
            start, end = split.offsets[document : document + 2]
            assert 0 <= ref.start < ref.stop <= end - start
            of_documents += split.tokens[start + ref.start : start + ref.stop].tolist()
        assert of_documents == targets


def test_length_of_a_run_is_given_in_epochs_or_in_tokens() -> None:
    batches = batches_of(split_of([5, 5, 5]))  # 18 tokens are 5 rows of 4; 2 rows a step
    assert batches.total_steps(epochs=2, tokens=None) == batches.steps_for_epochs(2) == 5
    assert batches.total_steps(epochs=None, tokens=2) == batches.steps_for_tokens(2) == 1


@pytest.mark.parametrize(("token_before", "first"), [(None, END), (7, 7)])
def test_first_input_of_the_first_row_is_the_token_before_or_end_of_text(token_before: int | None, first: int) -> None:
    rows = Rows(split=split_of([9]), batching="packed", max_length=4, end_of_text_id=END, token_before=token_before)
    assert rows.batch(np.array([0, 1])).input_ids.tolist() == [[first, 0, 1, 2], [3, 4, 5, 6]]


def test_document_ids_number_the_documents_of_each_row() -> None:
    split = split_of([3, 2, 1])  # 0 1 2 END 4 5 END 7 END
    rows = Rows(split=split, batching="packed", max_length=5, end_of_text_id=END, document_masks=True)
    batch = rows.batch(np.array([0, 1]))
    assert batch.input_ids.tolist() == [[END, 0, 1, 2, END], [4, 5, END, 7, END]]
    assert batch.document_ids is not None
    assert batch.document_ids.tolist() == [[1, 1, 1, 1, 2], [0, 0, 1, 1, 2]]
    without = Rows(split=split, batching="packed", max_length=5, end_of_text_id=END)
    assert without.batch(np.array([0, 1])).document_ids is None


@untimed
@given(documents, st.integers(1, 7), st.integers(0, 3))
def test_moving_windows_have_every_token_once_after_the_token_before_it(
    lengths: list[int], max_length: int, seed: int
) -> None:
    split = split_of(lengths)
    ring = split.tokens.tolist()
    batches = batches_of(split, max_length=max_length, batch_size=1, seed=seed)
    for epoch in range(4):
        places = []
        for step in range(epoch * batches.rows, (epoch + 1) * batches.rows):
            ((inputs, targets),) = rows_of(batches.step(step))
            refs = batches.documents(step)
            at = [int(split.offsets[ref.document[0]]) + place for ref in refs for place in range(ref.start, ref.stop)]
            assert targets == [ring[place] for place in at], "documents() names the tokens of the step"
            assert inputs == [ring[place - 1] for place in at]
            assert [place % len(ring) for place in range(at[0], at[0] + len(at))] == at
            places += at
        assert sorted(places) == list(range(len(ring)))


def test_windows_move_by_a_hash_of_seed_and_epoch_and_not_in_the_first_epoch() -> None:
    split = split_of([9] * 50)

    def starts(batches: Batches, epoch: int) -> list[int]:
        steps = range(epoch * batches.rows, (epoch + 1) * batches.rows)
        refs = [batches.documents(step)[0] for step in steps]
        return sorted(int(split.offsets[ref.document[0]]) + ref.start for ref in refs)

    first, other = (batches_of(split, max_length=16, batch_size=1, seed=seed) for seed in (1, 2))
    still = list(range(0, 500, 16))
    assert starts(first, 0) == starts(other, 0) == still
    moved = [starts(first, epoch) for epoch in (1, 2, 3)] + [starts(other, 1)]
    assert len({tuple(places) for places in [*moved, still]}) == 5
    assert moved[0] == starts(batches_of(split, max_length=16, batch_size=1, seed=1), 1)


def test_moved_windows_stay_where_they_are_in_later_versions() -> None:
    split = split_of([9] * 50)
    batches = batches_of(split, max_length=500, batch_size=1, seed=1)
    starts = [split.offsets[ref.document[0]] + ref.start for ref in (batches.documents(step)[0] for step in range(5))]
    assert starts == [0, 69, 252, 475, 79]


def test_checkpoint_of_a_version_whose_windows_did_not_move_keeps_them(tmp_path: Path) -> None:
    split = split_of([9] * 50)
    new, old = (batches_of(split, max_length=16, batch_size=1, seed=1) for _ in range(2))
    step = 5 * new.rows
    with new.open(tmp_path, step=step, state=new.state(step), report=print):
        moved = new.step(step)
    with old.open(tmp_path, step=step, state={"step": step}, report=print):
        assert old.state(step) == {}
        ((inputs, targets),) = rows_of(old.step(step))
        row = int(old.row_numbers(step, 0)[0])
        assert targets == split.tokens[row * 16 : row * 16 + 16].tolist()
    assert rows_of(moved) != [(inputs, targets)]
