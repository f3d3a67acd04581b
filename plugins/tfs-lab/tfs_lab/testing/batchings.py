"""Does a batching keep the contract? Each step is a pure function of its number, and every token is accounted for."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tfs_core.config.schema import DataConfig
from tfs_core.contracts import IGNORED_TARGET, Batch, Batching, BatchSettings, DatasetSource
from tfs_core.data.prepare import prepare_tokens
from tfs_core.data.store import TokenStore
from tfs_core.errors import ConfigError, DataError
from tfs_core.ranks import OneRank
from tfs_lab.testing.chosen import chosen
from tfs_lab.testing.results import Check, CheckFailed, Finding, check, expect

STEPS = 12
"""How many steps are looked at: more than an epoch of the small source has."""

MAX_LENGTH = 11
BATCH_SIZE = 4
ACCUMULATION = 3
PATIENCE_SECONDS = 30.0
"""How long a step's data may take to arrive."""


class ByteIds:
    """A tokenizer for checks: the bytes of the text, and end of text after them."""

    vocab_size = 257
    end_of_text_id = 256

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the bytes of each text."""
        return [list(text.encode()) for text in texts]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes."""
        return bytes(one for one in ids if one < self.end_of_text_id)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text."""
        return self.decode_bytes(ids).decode(errors="replace")

    def byte_lengths(self) -> np.ndarray:
        """Return 1 for every byte, 0 for end of text."""
        return np.array([1] * self.end_of_text_id + [0])

    def save(self, folder: Path) -> None:
        """Write nothing: there is nothing to know."""

    def fingerprint(self) -> str:
        """Return the tokenizer's name."""
        return "tfs-lab-byte-ids-1"


class SmallSource:
    """A data set for checks: 23 documents of 1 to 45 bytes, and 7 for validation. It can be streamed."""

    batching = "streaming"

    def splits(self) -> list[str]:
        """Return both splits."""
        return ["train", "validation"]

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over documents that have no two lines alike."""
        for number in range(23 if split == "train" else 7):
            yield (f"{split[0]}{number}: " + "abcdefghijklmnopqrstuvwxyz" * 2)[: 1 + 17 * number % 45]

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        """Iterate over (place, document), a place being the document's number."""
        (first,) = start or (0,)
        for number, text in itertools.islice(enumerate(self.documents(split)), first, None):
            yield (number,), text

    def pinned_options(self) -> None:
        """Return nothing: there is one version."""

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def fingerprint(self) -> str:
        """Return the source's name."""
        return "tfs-lab-small-source-1"


class TwoRanks(OneRank):
    """A rank of two, of which nothing but the number is used."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank


@dataclass(frozen=True)
class BatchingUnderCheck:
    """A batching by its name and options, and the data set that it is tried on."""

    name: str
    options: Mapping[str, Any]
    source: DatasetSource
    settings: Mapping[str, Any]

    def refuses(self, **changed: Any) -> ConfigError | None:
        """Return what its `check`, if it has one, says against the settings with these changes."""
        settings = dataclasses.replace(self._batch_settings(), **changed)
        try:
            getattr(chosen("batching", self.name, self.options).factory, "check", lambda *_, **__: None)(
                settings, source=self.source
            )
        except ConfigError as error:
            return error
        return None

    def _batch_settings(self) -> BatchSettings:
        chosen_by_checks = BatchSettings(
            batching=self.name,
            dataset="small-source",
            num_epochs=None,
            max_length=MAX_LENGTH,
            batch_size=BATCH_SIZE,
            gradient_accumulation_steps=ACCUMULATION,
            seed=1337,
            document_masks=False,
            subset_size=None,
            shard_tokens=DataConfig.shard_tokens,
        )
        return dataclasses.replace(chosen_by_checks, **self.settings)

    @contextmanager
    def built(self, *ranks: OneRank) -> Iterator[tuple[TokenStore, list[Batching]]]:
        """Give the token store, and a batching of it for each rank; with `ranks` empty for the only one."""
        component = chosen("batching", self.name, self.options)
        settings = self._batch_settings()
        if error := self.refuses():
            raise error
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as assets:
            tokens = prepare_tokens(self.source, ByteIds(), assets=Path(assets))
            keywords = {"source": self.source, "tokenizer": ByteIds(), "tokens": tokens, "settings": settings}
            yield tokens, [component.factory(component.config, **keywords, ranks=one) for one in ranks or [OneRank()]]


@contextmanager
def opened(batching: Batching, *, step: int = 0, state: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Open a batching in a run folder of its own."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        batching.open(Path(folder), step=step, state=state, report=lambda message: None),  # noqa: ARG005
    ):
        yield


def arrived(batching: Batching, step: int) -> Sequence[Batch]:
    """Return the micro-batches of a step, once its data is there."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not batching.ready(step):
        expect(time.monotonic() < give_up_at, f"step {step} is not ready after {PATIENCE_SECONDS:.0f} s")
    return batching.step(step)


def same(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    """Return whether two steps are equal to the bit."""
    return len(first) == len(second) and all(
        torch.equal(one.input_ids, other.input_ids) and torch.equal(one.target_ids, other.target_ids)
        for one, other in zip(first, second, strict=True)
    )


def rows_of(batches: Iterable[Batch]) -> list[tuple[int, ...]]:
    """Return the valid targets of each row."""
    return [
        tuple(target for target in row if target != IGNORED_TARGET)
        for batch in batches
        for row in batch.target_ids.tolist()
    ]


@check("pure")
def the_step_alone_decides(subject: BatchingUnderCheck) -> Finding:
    """A step is a function of its number: asked for again, in another order, or after a resume, it is equal."""
    resumed = 0
    with subject.built() as (_, [batching]), subject.built() as (_, [again]):
        steps, states = [], []
        with opened(batching):
            for step in range(STEPS):
                steps.append(arrived(batching, step))
                expect(same(batching.step(step), steps[step]), f"step {step}, asked for again, has other batches")
                states.append(json.loads(json.dumps(batching.state(step))))  # as a checkpoint keeps it
            for step in reversed(range(STEPS)):
                with suppress(DataError):  # a stream lets go of what was read
                    batching.ready(step)
                    expect(same(batching.step(step), steps[step]), f"step {step}, asked for after later ones, differs")
        for step in range(1, STEPS, 4):
            with opened(again, step=step, state=states[step]):
                expect(same(arrived(again, step), steps[step]), f"step {step} differs in a run that resumes there")
                resumed += 1
    return f"{STEPS} steps, resumed at {resumed} of them"


@check("batches")
def batches_are_as_they_say(subject: BatchingUnderCheck) -> Finding:
    """Each micro-batch is int64, its targets follow its inputs, and `valid_targets` and `rows_per_step` count them."""
    with subject.built() as (_, [batching]):
        trial = batching.trial()
        expect(trial.valid_targets > 0, "the trial batch has no valid target")
        lengths = set()
        with opened(batching):
            for step in range(STEPS):
                batches = arrived(batching, step)
                for batch in batches:
                    _check_batch(batch)
                    lengths.add(batch.input_ids.shape[1])
                rows = sum(len(batch.input_ids) for batch in batches)
                expect(rows == batching.rows_per_step, f"a step has {rows} rows, `rows_per_step` says otherwise")
    expect(batching.lengths_vary or len(lengths) == 1, f"rows are {sorted(lengths)} long: `lengths_vary` must be True")
    return f"{batching.rows_per_step} rows a step"


def _check_batch(batch: Batch) -> None:
    inputs, targets = batch.input_ids, batch.target_ids
    expect(inputs.dtype == targets.dtype == torch.int64, f"ids are {inputs.dtype} and {targets.dtype}, not int64")
    expect(inputs.shape == targets.shape, f"inputs are {list(inputs.shape)}, targets {list(targets.shape)}")
    valid = targets != IGNORED_TARGET
    expect(int(valid.sum()) == batch.valid_targets, f"{int(valid.sum())} targets are valid, not {batch.valid_targets}")
    both = valid[:, 1:] & valid[:, :-1]
    expect(torch.equal(inputs[:, 1:][both], targets[:, :-1][both]), "an input is not the target before it")


@check("ranks")
def ranks_share_the_rows(subject: BatchingUnderCheck) -> Finding:
    """Two ranks together read the rows that one rank reads: in every step, and in validation."""
    with (
        subject.built() as (_, [alone]),
        subject.built(TwoRanks(0), TwoRanks(1)) as (_, [first, second]),
        opened(alone),
        opened(first),
        opened(second),
    ):
        for rank in (first, second):
            expect(rank.rows_per_step == alone.rows_per_step, "with two ranks `rows_per_step` is another")
        for step in range(STEPS):
            both = Counter(rows_of(arrived(first, step)) + rows_of(arrived(second, step)))
            expect(both == Counter(rows_of(arrived(alone, step))), f"in step {step} two ranks read other rows")
        both = Counter(rows_of(first.validation()) + rows_of(second.validation()))
        expect(both == Counter(rows_of(alone.validation())), "two ranks validate on other rows")
    return f"{STEPS} steps and the validation of two ranks"


@check("validation")
def validation_reads_the_text_once(subject: BatchingUnderCheck) -> Finding:
    """Validation reads every token of the split once and in order (or the beginning of each document), each time."""
    with subject.built() as (tokens, [batching]):
        rows = rows_of(batching.validation())
        expect(rows_of(batching.validation()) == rows, "a second validation reads other rows")
        for batch in batching.validation():
            _check_batch(batch)
        text, offsets = tokens.validation.tokens.tolist(), tokens.validation.offsets.tolist()
        beginnings = [text[start:stop][:MAX_LENGTH] for start, stop in itertools.pairwise(offsets)]
        read = list(itertools.chain.from_iterable(rows))
        wanted = (text, list(itertools.chain.from_iterable(beginnings)))
        expect(read in wanted, f"it reads {len(read)} targets, which are not the {len(text)} of the text in order")
    return f"{len(read)} targets"


@check("length")
def lengths_are_reached_and_not_passed(subject: BatchingUnderCheck) -> Finding:
    """After `total_steps` so many valid targets, or epochs, are complete, and not a step earlier."""
    said = []
    with subject.built() as (_, [batching]), opened(batching):
        counts = [sum(batch.valid_targets for batch in arrived(batching, step)) for step in range(STEPS)]
        for tokens in (1, counts[0], counts[0] + 1, sum(counts[:7]) - 1):
            steps = batching.total_steps(epochs=None, tokens=tokens)
            needed = next(number for number in range(1, STEPS + 1) if sum(counts[:number]) >= tokens)
            expect(steps == needed, f"total_steps(tokens={tokens}) is {steps}; {tokens} are reached after {needed}")
        if error := subject.refuses(num_epochs=1):
            expect(batching.epochs(1) is None, f"it refuses epochs ({error}), and `epochs` counts them")
            said.append("epochs are refused")
        else:
            steps = batching.total_steps(epochs=1, tokens=None)
            before, after = batching.epoch(steps - 1), batching.epoch(steps)
            expect(before < 1 <= after, f"total_steps(epochs=1) is {steps}; epochs before and after: {before}, {after}")
            said.append(f"an epoch is {steps} steps")
    return "; ".join([*said, f"{counts[0]} targets in the first step"])


@check("documents")
def documents_are_those_of_the_targets(subject: BatchingUnderCheck) -> Finding:
    """`documents(step)` names the parts of documents that the targets of the step are, in the order of its rows."""
    seen: dict[tuple[tuple[int, ...], int], int] = {}
    with subject.built() as (tokens, [batching]), opened(batching):
        for step in range(STEPS):
            targets = list(itertools.chain.from_iterable(rows_of(arrived(batching, step))))
            places = [(ref.document, at) for ref in batching.documents(step) for at in range(ref.start, ref.stop)]
            expect(len(places) == len(targets), f"step {step} has {len(targets)} targets, of documents {len(places)}")
            for (document, at), target in zip(places, targets, strict=True):
                if len(document) == 1:
                    known = int(tokens.train.tokens[tokens.train.offsets[document[0]] + at])
                else:  # the batching counts in its own way: the same place is the same token
                    known = seen.setdefault((document, at), target)
                if known != target:
                    raise CheckFailed(f"step {step}: token {at} of document {document} is {known}, the target {target}")
    return f"{STEPS} steps"


BATCHING_CHECKS: tuple[Check[BatchingUnderCheck], ...] = (
    the_step_alone_decides,
    batches_are_as_they_say,
    ranks_share_the_rows,
    validation_reads_the_text_once,
    lengths_are_reached_and_not_passed,
    documents_are_those_of_the_targets,
)
