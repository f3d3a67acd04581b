"""Batches of a stream: the same tokens as from a store, from any position, with only a few shards on disk."""

import errno
import json
import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tfs_streaming import spooler
from tfs_streaming.batching import StreamBatches
from tfs_streaming.shards import ShardFolder, StreamPlace
from tfs_streaming.spooler import SHARDS_AHEAD

from tfs_core.checkpoint_folder import checkpoint_name
from tfs_core.contracts import Batch, BatchSettings
from tfs_core.data import documents
from tfs_core.data.documents import Division, read_pieces, split_pieces
from tfs_core.data.prepare import prepare_tokens
from tfs_core.data.store import TokenSplit, TokenStore
from tfs_core.errors import CheckpointError, DataError

END = 256
MAX_LENGTH = 8
STEPS_PER_SHARD = 3
TOKENS_PER_STEP = 2 * MAX_LENGTH
TEXTS = [[f"document {file}-{row} " + "word " * (7 * row % 5) for row in range(9)] for file in range(4)]
"""The documents of each file."""


@pytest.fixture(autouse=True)
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry almost at once."""
    monkeypatch.setattr(spooler, "RETRY_SECONDS", 0.01)


class Stream:
    """A source that streams the documents of files; `broken` is raised in place of a file's text."""

    description = "a test's stream"
    batching = "streaming"

    def __init__(
        self, files: Sequence[Sequence[str]] = TEXTS, *, validation: Sequence[str] | None = ("held out",)
    ) -> None:
        self.files = files
        self.validation = validation
        self.broken: dict[int, Exception] = {}
        self.closed = False
        self.read: list[tuple[int, int]] = []

    def splits(self) -> Sequence[str]:
        return ("train",) if self.validation is None else ("train", "validation")

    def documents(self, split: str) -> Iterator[str]:
        if split == "validation":
            yield from self.validation or ()
            return
        for _, document in self.stream(split, ()):
            yield document

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        assert split == "train"
        first_file, first_row = start or (0, 0)
        for file in range(first_file, len(self.files)):
            if file in self.broken:
                raise self.broken[file]
            for row in range(first_row, len(self.files[file])):
                self.read.append((file, row))
                yield (file, row), self.files[file][row]
            first_row = 0

    def pinned_options(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True

    def fingerprint(self) -> str:
        return "stream-1"


class Bytes:
    """A byte tokenizer: the tokens of a text are its bytes."""

    vocab_size = 257
    end_of_text_id = END

    def encode_batch(self, texts: Sequence[str]) -> list[Any]:
        return [list(text.encode()) for text in texts]

    def fingerprint(self) -> str:
        return "bytes"


class Rank:
    """One rank of several; these tests need no communication."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def batches_of(source: Stream, *, rank: int = 0, ranks: int = 1, **options: Any) -> StreamBatches:
    """Return the batching of a stream whose stored beginning is a single document."""
    beginning = TokenSplit(np.array([1, 2, END]), np.array([0, 3]), 2)
    info = {"division": Division.of(source, 0.2).to_json()} if source.validation is None else {}
    settings: dict[str, Any] = {
        "batching": "packed",
        "dataset": "a-stream",
        "num_epochs": None,
        "max_length": MAX_LENGTH,
        "batch_size": 2,
        "gradient_accumulation_steps": 1,
        "seed": 1,
        "document_masks": False,
        "subset_size": None,
        "shard_tokens": STEPS_PER_SHARD * TOKENS_PER_STEP + 5,
    }
    return StreamBatches(
        None,
        source=source,
        tokenizer=Bytes(),  # type: ignore[arg-type]
        tokens=TokenStore(beginning, beginning, Path(), info),
        settings=BatchSettings(**settings | options),
        ranks=Rank(rank, ranks),  # type: ignore[arg-type]
    )


@contextmanager
def spooled(
    batches: StreamBatches,
    folder: Path,
    *,
    step: int = 0,
    state: dict[str, Any] | None = None,
    kept: Sequence[int] = (),
) -> Iterator[list[str]]:
    """Open the batches at a step, in a run's folder with checkpoints of the `kept` steps; yield the reports."""
    for kept_step in kept:
        (folder / "checkpoints" / checkpoint_name(kept_step)).mkdir(parents=True)
    reports: list[str] = []
    with batches.open(folder, step=step, state=state, report=reports.append):
        yield reports


def shards_in(folder: Path) -> list[int]:
    return ShardFolder(folder / "shards", identity={}, size=0, vocab_size=257).numbers()


def tokens_of(texts: Sequence[str]) -> list[int]:
    """Return the tokens that a store of these documents holds."""
    return [token for text in texts for token in [*text.encode(), END]]


def rows_in_order(batches: StreamBatches, steps: int) -> tuple[list[int], list[int]]:
    """Return (inputs, targets) of the first `steps` steps, with the rows sorted back into the order of the text."""
    inputs: dict[int, list[int]] = {}
    targets: dict[int, list[int]] = {}
    rows_per_shard = STEPS_PER_SHARD * 2
    for step in range(steps):
        (batch,) = batches.step(step)
        for place, row in enumerate(batches.row_numbers(step, 0).tolist()):
            number = batches.shard(step) * rows_per_shard + row
            inputs[number], targets[number] = batch.input_ids[place].tolist(), batch.target_ids[place].tolist()
    assert sorted(targets) == list(range(steps * 2))
    return [i for row in sorted(inputs) for i in inputs[row]], [t for row in sorted(targets) for t in targets[row]]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"


ALL = [text for file in TEXTS for text in file]
TOKENS = tokens_of(ALL)
STEPS = STEPS_PER_SHARD * (2 * len(TOKENS) // (STEPS_PER_SHARD * TOKENS_PER_STEP))
"""The steps of the complete shards in two epochs."""


def test_rows_of_all_shards_are_the_packed_stream_epoch_after_epoch(tmp_path: Path) -> None:
    batches = batches_of(Stream())
    with spooled(batches, tmp_path):
        inputs, targets = rows_in_order(batches, STEPS)
    expected = (TOKENS * 2)[: STEPS * TOKENS_PER_STEP]
    assert targets == expected
    assert inputs == [END, *expected[:-1]]


def test_rows_are_shuffled_within_a_shard_by_a_key_of_its_own() -> None:
    batches, other_seed = batches_of(Stream()), batches_of(Stream(), seed=2)

    def order(of: StreamBatches, shard: int) -> list[int]:
        steps = range(shard * STEPS_PER_SHARD, (shard + 1) * STEPS_PER_SHARD)
        return [row for step in steps for row in of.row_numbers(step, 0).tolist()]

    orders = [order(batches, 0), order(batches, 1), order(other_seed, 0)]
    assert all(sorted(rows) == list(range(STEPS_PER_SHARD * 2)) for rows in orders)
    assert len({tuple(rows) for rows in [*orders, range(STEPS_PER_SHARD * 2)]}) == 4


@pytest.mark.parametrize("step", [1, STEPS_PER_SHARD, 20, 50, STEPS - 9])
@pytest.mark.parametrize("kept", [True, False], ids=["shards kept", "shards deleted"])
def test_any_step_resumes_with_the_same_batches(step: int, kept: bool, tmp_path: Path) -> None:
    batches = batches_of(Stream())
    with spooled(batches, tmp_path, kept=[step] if kept else []):
        for earlier in range(step):
            batches.step(earlier)
        state = batches.state(step)
        expected = [(batches.step(later)[0], batches.epoch(later)) for later in range(step, step + 8)]
    again = batches_of(Stream())
    assert bool(shards_in(tmp_path)) == kept
    with spooled(again, tmp_path, step=step, state=state):
        found = [(again.step(later)[0], again.epoch(later)) for later in range(step, step + 8)]
    for (batch, epoch), (expected_batch, expected_epoch) in zip(found, expected, strict=True):
        assert torch.equal(batch.input_ids, expected_batch.input_ids)
        assert torch.equal(batch.target_ids, expected_batch.target_ids)
        assert epoch == expected_epoch


def test_resume_reads_the_stream_from_its_position(tmp_path: Path) -> None:
    batches = batches_of(Stream())
    with spooled(batches, tmp_path):
        for step in range(2 * STEPS_PER_SHARD):
            batches.step(step)
        state = batches.state(2 * STEPS_PER_SHARD)
    source = Stream()
    again = batches_of(source)
    with spooled(again, tmp_path, step=2 * STEPS_PER_SHARD, state=state):
        again.step(2 * STEPS_PER_SHARD)
    assert source.read[0] == tuple(state["stream"]["start"]["document"]) > (0, 0)


def test_shards_on_disk_are_few_and_those_a_checkpoint_needs_stay(tmp_path: Path) -> None:
    batches = batches_of(Stream())
    needed = 2 * STEPS_PER_SHARD
    most = 0
    with spooled(batches, tmp_path, kept=[needed]):
        for step in range(STEPS):
            batches.step(step)
            last = batches.shard(step) + SHARDS_AHEAD
            wait_until(lambda last=last: last in shards_in(tmp_path))
            found = shards_in(tmp_path)
            most = max(most, len(found))
            if step >= needed:
                assert batches.shard(needed) in found
    assert most == 1 + SHARDS_AHEAD + 1  # the one that is read, those ahead, and the one that the checkpoint needs
    assert shards_in(tmp_path) == [batches.shard(needed)]


def test_held_out_documents_are_in_no_shard_and_the_same_as_the_stores(tmp_path: Path) -> None:
    source = Stream(validation=None)
    quotas = {"train": None, "validation": None}
    pieces = list(split_pieces(source, quotas=quotas, validation_fraction=0.2))
    held_out = [piece.text for split, piece in pieces if split == "validation"]
    trained_on = [piece.text for split, piece in pieces if split == "train"]
    assert held_out
    assert sorted(held_out + trained_on) == sorted(ALL)
    batches = batches_of(source)
    steps = STEPS_PER_SHARD * (len(tokens_of(trained_on)) // (STEPS_PER_SHARD * TOKENS_PER_STEP))
    with spooled(batches, tmp_path):
        _, targets = rows_in_order(batches, steps)
    assert targets == tokens_of(trained_on)[: steps * TOKENS_PER_STEP]


@pytest.mark.parametrize("much", [False, True], ids=["little text", "much text"])
def test_store_of_a_stream_is_its_beginning_and_its_validation_split(
    much: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share is exact for little text; for much text each document is drawn by itself. Both match the store."""
    monkeypatch.setattr(documents, "STREAM_BEGINNING", 4)
    monkeypatch.setattr(documents, "STREAM_VALIDATION", 3)
    if much:
        monkeypatch.setattr(documents, "MANY_DOCUMENTS", 9)
    source = Stream(validation=None)
    prepared = prepare_tokens(source, Bytes(), assets=tmp_path, validation_fraction=0.2)  # type: ignore[arg-type]
    division = Division.from_json(prepared.info["division"])
    divided = [(split, piece.text) for split, piece in division.divide(read_pieces(source, "train"))]
    for split, name, n in ((prepared.train, "train", 4), (prepared.validation, "validation", 3)):
        assert split.tokens.tolist() == tokens_of([text for side, text in divided if side == name][:n])
    assert (division.draws is None) == much
    quotas = {"train": None, "validation": None}
    pieces = split_pieces(source, quotas=quotas, validation_fraction=0.2)
    assert [(split, piece.text) for split, piece in pieces] == divided


def test_beginning_of_a_stream_of_long_documents_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "STREAM_CHARACTERS", 250)
    source = Stream([["a" * 100, "b" * 100], ["c" * 100, "d" * 100]])
    prepared = prepare_tokens(source, Bytes(), assets=tmp_path)  # type: ignore[arg-type]
    assert prepared.train.tokens.tolist() == tokens_of(["a" * 100, "b" * 100, "c" * 100])
    assert prepared.validation.tokens.tolist() == tokens_of(["held out"])


def test_single_document_is_no_stream() -> None:
    with pytest.raises(DataError, match="a single document cannot be streamed"):
        Division.of(Stream([["the only one"]], validation=None), 0.2)


def test_document_larger_than_a_shard_and_empty_ones_are_cut_alike(tmp_path: Path) -> None:
    files = [["", "a" * 200, "", "b"], [], ["", "c" * 150]]
    texts = [text for file in files for text in file if text]
    batches = batches_of(Stream(files))
    with spooled(batches, tmp_path):
        _, targets = rows_in_order(batches, STEPS)
        state = batches.state(STEPS_PER_SHARD)
    assert targets == (tokens_of(texts) * 9)[: len(targets)]
    again = batches_of(Stream(files))
    with spooled(again, tmp_path / "again", step=STEPS_PER_SHARD, state=state):
        again.step(STEPS_PER_SHARD)
        folder = ShardFolder(
            tmp_path / "again" / "shards", identity={}, size=again.tokens_per_shard, vocab_size=Bytes.vocab_size
        )
        shard = folder.open(1)
    assert shard is not None
    assert [shard.token_before, *shard.tokens] == (tokens_of(texts) * 9)[47 : 2 * 48]


def test_epoch_is_that_in_which_the_steps_shard_begins(tmp_path: Path) -> None:
    batches = batches_of(Stream())
    with spooled(batches, tmp_path):
        for step in range(STEPS):
            batches.step(step)
            begins_at = batches.shard(step) * STEPS_PER_SHARD * TOKENS_PER_STEP
            assert batches.epoch(step) == max(begins_at - 1, 0) // len(TOKENS)


def test_document_masks_number_the_documents_of_a_row(tmp_path: Path) -> None:
    batches = batches_of(Stream(), document_masks=True)
    with spooled(batches, tmp_path):
        (batch,) = batches.step(0)
    assert batch.document_ids is not None
    assert torch.equal(batch.document_ids, (batch.input_ids == END).cumsum(dim=1))


def test_parts_and_ranks_of_a_step_are_its_rows(tmp_path: Path) -> None:
    whole = batches_of(Stream(), batch_size=8)
    with spooled(whole, tmp_path / "whole"):
        expected = whole.step(4)[0].target_ids
    found: dict[int, torch.Tensor] = {}
    for rank in range(2):
        cut = batches_of(Stream(), batch_size=4, gradient_accumulation_steps=2, rank=rank, ranks=2)
        with spooled(cut, tmp_path / f"{rank}"):
            for part, batch in enumerate(cut.step(4)):
                found[2 * part + rank] = batch.target_ids
    assert torch.equal(torch.cat([found[place] for place in range(4)]), expected)


@pytest.mark.parametrize("steps", [1, STEPS_PER_SHARD * 5])
def test_documents_of_a_step_are_where_its_targets_come_from(steps: int, tmp_path: Path) -> None:
    batches = batches_of(Stream(), gradient_accumulation_steps=2)
    tokens_per_shard = batches.tokens_per_shard
    begun: dict[tuple[int, ...], int] = {}  # where a document begins in the endless text
    with spooled(batches, tmp_path):
        for step in range(steps):
            targets = torch.cat([batch.target_ids.flatten() for batch in batches.step(step)]).tolist()
            shard = batches.shard(step)
            in_shard = (TOKENS * 9)[shard * tokens_per_shard : (shard + 1) * tokens_per_shard]
            earlier = (TOKENS * 9)[: shard * tokens_per_shard]
            starts = [0, *(place + 1 for place, token in enumerate(in_shard) if token == END)]
            first_began = len(earlier) - next((n for n, token in enumerate(reversed(earlier)) if token == END), 0)
            found = []
            for ref in batches.documents(step):
                of_shard, number = ref.document
                assert of_shard == shard
                begins = first_began if number == 0 else shard * tokens_per_shard + starts[number]
                assert begun.setdefault(ref.document, begins) == begins
                document = (TOKENS * 9)[begins : begins + ref.stop]
                assert ref.start < ref.stop
                assert END not in document[:-1]
                found += document[ref.start :]
            assert found == targets


def test_trial_and_validation_come_from_the_store_and_need_no_shard() -> None:
    batches = batches_of(Stream())
    assert batches.trial().target_ids[0, :3].tolist() == [1, 2, END]
    (validation,) = batches.validation()
    assert isinstance(validation, Batch)
    assert validation.target_ids[0, :3].tolist() == [1, 2, END]


def test_length_in_tokens_is_whole_steps() -> None:
    batches = batches_of(Stream())
    assert [batches.total_steps(epochs=None, tokens=n) for n in (1, TOKENS_PER_STEP, TOKENS_PER_STEP + 1)] == [1, 1, 2]
    assert batches.valid_targets_per_row == MAX_LENGTH


def test_step_larger_than_the_shard_asked_for_has_a_shard_to_itself(tmp_path: Path) -> None:
    batches = batches_of(Stream(), batch_size=50)
    with spooled(batches, tmp_path):
        assert [batches.shard(step) for step in range(3)] == [0, 1, 2]
        assert sum(batch.valid_targets for batch in batches.step(1)) == 50 * MAX_LENGTH


def test_error_of_the_source_is_raised_when_training_reaches_it_and_not_before(tmp_path: Path) -> None:
    source = Stream()
    source.broken[2] = DataError("the Hub is busy")
    batches = batches_of(source)
    tokens_there = len(tokens_of(TEXTS[0] + TEXTS[1]))
    steps_there = STEPS_PER_SHARD * (tokens_there // (STEPS_PER_SHARD * TOKENS_PER_STEP))
    with spooled(batches, tmp_path):
        _, targets = rows_in_order(batches, steps_there)
        with pytest.raises(DataError, match="the Hub is busy"):
            batches.step(steps_there)
    assert targets == TOKENS[: len(targets)]


def test_temporary_errors_of_the_source_are_retried(tmp_path: Path) -> None:
    source = Stream()
    original, failures = source.stream, iter([1, 2])

    def flaky(split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        for number, (place, document) in enumerate(original(split, start)):
            if number == 4 and next(failures, 0):
                raise DataError("the Hub is busy.")
            yield place, document

    source.stream = flaky  # type: ignore[method-assign]
    batches = batches_of(source)
    with spooled(batches, tmp_path) as reports:
        _, targets = rows_in_order(batches, STEPS)
    assert targets == (TOKENS * 2)[: len(targets)]
    assert reports.count("the Hub is busy. Retrying in 0.01 seconds.") == 2


def test_source_that_recovers_after_its_error_was_raised_continues(tmp_path: Path) -> None:
    source = Stream()
    source.broken[0] = DataError("the Hub is busy")
    batches = batches_of(source)
    with spooled(batches, tmp_path):
        with pytest.raises(DataError, match="the Hub is busy"):
            batches.step(0)
        source.broken.clear()
        wait_until(lambda: _is_ready(batches))
        _, targets = rows_in_order(batches, STEPS)
    assert targets == (TOKENS * 2)[: len(targets)]


def _is_ready(batches: StreamBatches) -> bool:
    try:
        return batches.ready(0)
    except DataError:
        return False


def test_bug_in_a_source_is_raised_as_its_own_exception(tmp_path: Path) -> None:
    source = Stream()
    source.broken[0] = KeyError("a mistake")
    batches = batches_of(source)
    with spooled(batches, tmp_path), pytest.raises(KeyError, match="a mistake"):
        batches.step(0)


def test_stream_without_text_is_refused(tmp_path: Path) -> None:
    batches = batches_of(Stream([["", ""], []]))
    with spooled(batches, tmp_path), pytest.raises(DataError, match="there is no text in its train split"):
        batches.step(0)


def test_waiting_is_reported_once_a_shard(tmp_path: Path) -> None:
    batches = batches_of(Stream())
    released = threading.Event()
    source = batches._stream._streamed
    original = source.stream

    def slow(split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        assert released.wait(60)
        return original(split, start)

    source.stream = slow  # type: ignore[method-assign]
    with spooled(batches, tmp_path) as reports:
        assert not batches.ready(0)
        assert not batches.ready(0)
        released.set()
        batches.step(0)
    assert reports == ["waiting for data: 48 tokens of the stream from step 1 on"]


@pytest.mark.parametrize("damage", ["cut short", "of another tokenizer", "without its description"])
def test_damaged_shard_is_rebuilt(damage: str, tmp_path: Path) -> None:
    batches = batches_of(Stream())
    with spooled(batches, tmp_path, kept=[0]):
        expected = batches.step(0)[0].target_ids
    shards = tmp_path / "shards"
    tokens, info = shards / "shard-00000000.tokens.npy", shards / "shard-00000000.json"
    if damage == "cut short":
        tokens.write_bytes(tokens.read_bytes()[:-2])
    elif damage == "of another tokenizer":
        np.save(tokens, np.zeros(1 + batches.tokens_per_shard, dtype=np.uint16))
        info.write_text(info.read_text(encoding="utf-8").replace(batches._stream.fingerprint, "other"), "utf-8")
    else:
        info.unlink()
    again = batches_of(Stream())
    with spooled(again, tmp_path):
        assert torch.equal(again.step(0)[0].target_ids, expected)


def test_full_disk_is_reported_and_no_partial_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(file: Any, _tokens: object) -> None:
        file.write(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", fill)
    batches = batches_of(Stream())
    with spooled(batches, tmp_path), pytest.raises(DataError, match=r"No space left on device\. Make room"):
        batches.step(0)
    assert list((tmp_path / "shards").iterdir()) == []


# Damage


SIZE = 4
IDENTITY = {"stream": "a"}


def shards_of(folder: Path, **identity: Any) -> ShardFolder:
    return ShardFolder(folder, identity=identity or IDENTITY, size=SIZE, vocab_size=257)


def write_shard(folder: Path, *, checksums: bool = True) -> tuple[Path, Path]:
    """Write shard 0 and return its files. An older tfs wrote no checksums."""
    tokens = np.array([END, 1, 2, 3, 4], dtype=np.uint16)
    shards_of(folder).write(0, tokens, StreamPlace(), StreamPlace(0, (0, 1), 2))
    info_file = folder / "shard-00000000.json"
    if not checksums:
        info = json.loads(info_file.read_text(encoding="utf-8"))
        del info["sha256"], info["checksum"]
        info_file.write_text(json.dumps(info), "utf-8")
    return folder / "shard-00000000.tokens.npy", info_file


@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "older tfs"])
def test_written_shard_is_read_again(checksums: bool, tmp_path: Path) -> None:
    write_shard(tmp_path, checksums=checksums)
    shard = shards_of(tmp_path).open(0)
    assert shard is not None
    assert (shard.token_before, shard.tokens.tolist()) == (END, [1, 2, 3, 4])
    assert (shard.start, shard.end) == (StreamPlace(), StreamPlace(0, (0, 1), 2))
    assert shards_of(tmp_path, stream="b").open(0) is None


def header(text: str) -> bytes:
    """Return an .npy file of five uint16 with this text as its header."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(10)


def described(**changed: str) -> bytes:
    """Return an .npy file of five uint16 with changed entries in its header."""
    entries = {"descr": "'<u2'", "fortran_order": "False", "shape": "(5,)", **changed}
    return header("{" + ", ".join(f"{name!r}: {text}" for name, text in entries.items()) + "}\n")


@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"x" * 150, b"PK\x03\x04" + bytes(150), header("[" * 2000), header("{'descr': (\n")],
        *[described(descr=text) for text in ("'|V0'", "[('a', '<i2')]", "'<u8'", "'|O'", "'>u2'", "'x'", "7")],
        *[described(shape=text) for text in ("(4,)", "(-1,)", "(10**12,)", "(1, 5)", "'x'", "()")],
        described()[:-10] + b"\xff" * 10,
    ],
)
def test_shard_of_an_older_tfs_whose_tokens_are_damaged_is_not_read(content: bytes, tmp_path: Path) -> None:
    tokens, _ = write_shard(tmp_path, checksums=False)
    tokens.write_bytes(described())
    assert shards_of(tmp_path).open(0) is not None
    tokens.write_bytes(content)
    assert shards_of(tmp_path).open(0) is None


def test_shard_with_another_token_in_it_is_not_read(tmp_path: Path) -> None:
    tokens, _ = write_shard(tmp_path)
    content = tokens.read_bytes()
    tokens.write_bytes(content[:-2] + b"\x05\x00")
    assert shards_of(tmp_path).open(0) is None


@pytest.mark.parametrize(
    "change",
    [
        *[{"end": {"epoch": 0, "document": [0, 2], "token": 2}}, {"end": None}, {"start": {}}, {"format_version": 2}],
        *[{"end": {"epoch": "0", "document": [], "token": 0}}, {"end": {"epoch": 0, "document": 7, "token": 0}}],
        *[{"sha256": 7}, {"sha256": "0" * 64}, {"size": 5}],
    ],
)
def test_shard_whose_description_is_damaged_is_not_read(change: dict[str, Any], tmp_path: Path) -> None:
    _, info_file = write_shard(tmp_path)
    info_file.write_text(json.dumps(json.loads(info_file.read_text(encoding="utf-8")) | change), "utf-8")
    assert shards_of(tmp_path).open(0) is None


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", "[]", "7", '{"format_version": 1e999}', "\0"])
def test_shard_whose_description_is_no_such_json_is_not_read(content: str, tmp_path: Path) -> None:
    _, info_file = write_shard(tmp_path)
    info_file.write_text(content, "utf-8")
    assert shards_of(tmp_path).open(0) is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX named pipes")
@pytest.mark.parametrize("kind", ["pipe", "endless"])
@pytest.mark.parametrize("which", [0, 1], ids=["tokens", "description"])
def test_shard_that_is_a_special_file_is_not_read(which: int, kind: str, tmp_path: Path) -> None:
    file = write_shard(tmp_path)[which]
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    assert within_a_minute(lambda: shards_of(tmp_path).open(0)) is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX named pipes")
def test_special_file_in_place_of_the_unfinished_shard_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "unfinished.npy")
    within_a_minute(lambda: write_shard(tmp_path))
    assert shards_of(tmp_path).open(0) is not None


def within_a_minute(function: Callable[[], Any]) -> Any:
    """Return the result of a function, which fails the test instead of blocking it."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(60)
    assert results, "it is blocked, or raised an exception"
    return results[0]


@pytest.mark.parametrize(
    "state",
    [
        *[{}, {"stream": 7}, {"stream": {"shard": 0}}, {"stream": {"start": {"epoch": 0}}}],
        {"stream": {"start": {"epoch": 0, "document": ["x"], "token": 0}}},
        {"stream": {"start": {"epoch": 0, "document": [], "token": -1}}},
    ],
)
def test_state_of_another_shape_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match="the state of the stream in its checkpoint is damaged"),
        spooled(batches_of(Stream()), tmp_path, state=state),
    ):
        pass


def test_position_behind_the_end_of_its_document_is_refused(tmp_path: Path) -> None:
    n_tokens = len(tokens_of(TEXTS[0][1:2]))
    state = {"stream": {"shard": 0, "start": {"epoch": 0, "document": [0, 1], "token": n_tokens + 1}}}
    batches = batches_of(Stream())
    with spooled(batches, tmp_path, state=state), pytest.raises(DataError, match="a document has fewer tokens than"):
        batches.step(0)


def test_deleted_shard_is_reported(tmp_path: Path) -> None:
    batches = batches_of(Stream())
    with spooled(batches, tmp_path):
        wait_until(lambda: batches.ready(0))
        for file in tmp_path.glob("shards/shard-00000000*"):
            file.unlink()
        with pytest.raises(DataError, match="Resume the run to rebuild it"):
            batches.step(0)


def test_no_thread_and_no_open_source_is_left_behind(tmp_path: Path) -> None:
    source = Stream()
    batches = batches_of(source)
    with spooled(batches, tmp_path):
        batches.step(0)
    assert source.closed
    assert "spooler" not in [thread.name for thread in threading.enumerate()]


def test_memory_does_not_grow_with_the_length_of_the_stream(tmp_path: Path) -> None:
    batches = batches_of(Stream([["word " * 20_000] * 2] * 5), max_length=256, batch_size=256)
    tokens_per_epoch = 10 * (100_000 + 1)
    peaks = []
    with spooled(batches, tmp_path):
        for epoch in range(1, 6):
            tracemalloc.start()
            for step in range(
                batches.total_steps(epochs=None, tokens=(epoch - 1) * tokens_per_epoch),
                batches.total_steps(epochs=None, tokens=epoch * tokens_per_epoch),
            ):
                batches.step(step)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert max(peaks[2:]) < 1.3 * max(peaks[:2])
    assert max(peaks) < 100e6
