"""Conformance checks for batchings: each step is a pure function of its number, and every token is accounted for."""

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
"""The number of steps that are checked: more than one epoch of `SmallSource`."""

MAX_LENGTH = 11
BATCH_SIZE = 4
ACCUMULATION = 3
TIMEOUT_SECONDS = 30.0
"""The timeout for the data of a step."""


class ByteIds:
    """A tokenizer for checks: ids 0 to 255 are bytes, 256 is end of text."""

    vocab_size = 257
    end_of_text_id = 256

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the UTF-8 bytes of each text."""
        return [list(text.encode()) for text in texts]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of the ids, without end of text."""
        return bytes(one for one in ids if one < self.end_of_text_id)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids."""
        return self.decode_bytes(ids).decode(errors="replace")

    def byte_lengths(self) -> np.ndarray:
        """Return the length of each id in bytes [vocab_size]: 1, and 0 for end of text."""
        return np.array([1] * self.end_of_text_id + [0])

    def save(self, folder: Path) -> None:
        """Write nothing: the tokenizer has no state."""

    def fingerprint(self) -> str:
        """Return a constant: the tokenizer never changes."""
        return "tfs-lab-byte-ids-1"


class SmallSource:
    """A data set for checks: 23 documents of 1 to 45 bytes for training, 7 for validation. Supports streaming."""

    batching = "streaming"

    def splits(self) -> list[str]:
        """Return the names of the splits."""
        return ["train", "validation"]

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents of a split, no two of them equal."""
        for number in range(23 if split == "train" else 7):
            yield (f"{split[0]}{number}: " + "abcdefghijklmnopqrstuvwxyz" * 2)[: 1 + 17 * number % 45]

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        """Iterate over (place, document) from the place `start` on. A place holds the number of its document."""
        (first,) = start or (0,)
        for number, text in itertools.islice(enumerate(self.documents(split)), first, None):
            yield (number,), text

    def pinned_options(self) -> None:
        """Return None: the data has only one version."""

    def close(self) -> None:
        """Do nothing: no resource is open."""

    def fingerprint(self) -> str:
        """Return a constant: the documents never change."""
        return "tfs-lab-small-source-1"


class TwoRanks(OneRank):
    """One of two ranks in a single process: only `rank` and `size` are used."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank


@dataclass(frozen=True)
class BatchingUnderCheck:
    """A batching by its name and options, and the data set for its checks."""

    name: str
    options: Mapping[str, Any]
    source: DatasetSource
    settings: Mapping[str, Any]

    def rejection(self, **changed: Any) -> ConfigError | None:
        """Return the ConfigError that the batching's `check` raises for the changed settings, or None."""
        settings = dataclasses.replace(self._batch_settings(), **changed)
        try:
            getattr(chosen("batching", self.name, self.options).factory, "check", lambda *_, **__: None)(
                settings, source=self.source
            )
        except ConfigError as error:
            return error
        return None

    def _batch_settings(self) -> BatchSettings:
        defaults = BatchSettings(
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
        return dataclasses.replace(defaults, **self.settings)

    @contextmanager
    def built(self, *ranks: OneRank) -> Iterator[tuple[TokenStore, list[Batching]]]:
        """Yield the token store and one batching per rank; without `ranks`, one batching for a single rank.

        Raises the error that `rejection` returns, if any.
        """
        component = chosen("batching", self.name, self.options)
        settings = self._batch_settings()
        if error := self.rejection():
            raise error
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as assets:
            tokens = prepare_tokens(self.source, ByteIds(), assets=Path(assets))
            keywords = {"source": self.source, "tokenizer": ByteIds(), "tokens": tokens, "settings": settings}
            yield tokens, [component.factory(component.config, **keywords, ranks=one) for one in ranks or [OneRank()]]


@contextmanager
def opened(batching: Batching, *, step: int = 0, state: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Open a batching in a temporary run folder."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        batching.open(Path(folder), step=step, state=state, report=lambda message: None),  # noqa: ARG005
    ):
        yield


def wait_for_step(batching: Batching, step: int) -> Sequence[Batch]:
    """Wait until the data of a step is ready, and return its micro-batches."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not batching.ready(step):
        expect(time.monotonic() < deadline, f"step {step} is not ready after {TIMEOUT_SECONDS:.0f} s")
    return batching.step(step)


def steps_equal(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    """Return True when the batches of two steps are bit-identical."""
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
def steps_are_pure(subject: BatchingUnderCheck) -> Finding:
    """A step is a pure function of its number: the same when requested again, in another order, or after a resume."""
    resumed = 0
    with subject.built() as (_, [batching]), subject.built() as (_, [again]):
        steps, states = [], []
        with opened(batching):
            for step in range(STEPS):
                steps.append(wait_for_step(batching, step))
                expect(steps_equal(batching.step(step), steps[step]), f"step {step}, requested again, differs")
                states.append(json.loads(json.dumps(batching.state(step))))  # as serialized in a checkpoint
            for step in reversed(range(STEPS)):
                with suppress(DataError):  # a stream may discard earlier steps
                    batching.ready(step)
                    expect(steps_equal(batching.step(step), steps[step]), f"step {step} differs after later steps")
        for step in range(1, STEPS, 4):
            with opened(again, step=step, state=states[step]):
                expect(steps_equal(wait_for_step(again, step), steps[step]), f"step {step} differs after a resume")
                resumed += 1
    return f"{STEPS} steps, resumed at {resumed} of them"


@check("batches")
def batches_are_consistent(subject: BatchingUnderCheck) -> Finding:
    """Batches are int64, targets are the inputs shifted by one, and `valid_targets` and `rows_per_step` are correct."""
    with subject.built() as (_, [batching]):
        trial = batching.trial()
        expect(trial.valid_targets > 0, "the trial batch has no valid target")
        lengths = set()
        with opened(batching):
            for step in range(STEPS):
                batches = wait_for_step(batching, step)
                for batch in batches:
                    _check_batch(batch)
                    lengths.add(batch.input_ids.shape[1])
                rows = sum(len(batch.input_ids) for batch in batches)
                expect(rows == batching.rows_per_step, f"a step has {rows} rows, not `rows_per_step`")
    expect(batching.lengths_vary or len(lengths) == 1, f"rows are {sorted(lengths)} long: `lengths_vary` must be True")
    return f"{batching.rows_per_step} rows a step"


def _check_batch(batch: Batch) -> None:
    inputs, targets = batch.input_ids, batch.target_ids
    expect(inputs.dtype == targets.dtype == torch.int64, f"ids are {inputs.dtype} and {targets.dtype}, not int64")
    expect(inputs.shape == targets.shape, f"inputs are {list(inputs.shape)}, targets {list(targets.shape)}")
    valid = targets != IGNORED_TARGET
    expect(int(valid.sum()) == batch.valid_targets, f"{int(valid.sum())} targets are valid, not {batch.valid_targets}")
    both = valid[:, 1:] & valid[:, :-1]
    expect(torch.equal(inputs[:, 1:][both], targets[:, :-1][both]), "an input differs from the target before it")


@check("ranks")
def ranks_share_the_rows(subject: BatchingUnderCheck) -> Finding:
    """Two ranks together read the same rows as one rank, in every step and in validation."""
    with (
        subject.built() as (_, [alone]),
        subject.built(TwoRanks(0), TwoRanks(1)) as (_, [first, second]),
        opened(alone),
        opened(first),
        opened(second),
    ):
        for rank in (first, second):
            expect(rank.rows_per_step == alone.rows_per_step, "`rows_per_step` changes with two ranks")
        for step in range(STEPS):
            both = Counter(rows_of(wait_for_step(first, step)) + rows_of(wait_for_step(second, step)))
            expect(both == Counter(rows_of(wait_for_step(alone, step))), f"in step {step} two ranks read other rows")
        both = Counter(rows_of(first.validation()) + rows_of(second.validation()))
        expect(both == Counter(rows_of(alone.validation())), "in validation two ranks read other rows")
    return f"{STEPS} steps and the validation of two ranks"


@check("validation")
def validation_reads_the_text_once(subject: BatchingUnderCheck) -> Finding:
    """Each validation reads every token of the split once, in order, or only the first tokens of each document."""
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
def total_steps_is_exact(subject: BatchingUnderCheck) -> Finding:
    """`total_steps` is the smallest number of steps that reaches the given number of valid targets, or of epochs."""
    details = []
    with subject.built() as (_, [batching]), opened(batching):
        counts = [sum(batch.valid_targets for batch in wait_for_step(batching, step)) for step in range(STEPS)]
        for tokens in (1, counts[0], counts[0] + 1, sum(counts[:7]) - 1):
            steps = batching.total_steps(epochs=None, tokens=tokens)
            needed = next(number for number in range(1, STEPS + 1) if sum(counts[:number]) >= tokens)
            expect(steps == needed, f"total_steps(tokens={tokens}) is {steps}; {tokens} are reached after {needed}")
        if error := subject.rejection(num_epochs=1):
            expect(batching.epochs(1) is None, f"its check rejects epochs ({error}), but `epochs` counts them")
            details.append("epochs are rejected")
        else:
            steps = batching.total_steps(epochs=1, tokens=None)
            before, after = batching.epoch(steps - 1), batching.epoch(steps)
            expect(before < 1 <= after, f"total_steps(epochs=1) is {steps}; epochs before and after: {before}, {after}")
            details.append(f"an epoch is {steps} steps")
    return "; ".join([*details, f"{counts[0]} targets in the first step"])


@check("documents")
def documents_match_the_targets(subject: BatchingUnderCheck) -> Finding:
    """`documents(step)` lists the parts of documents that make up the targets of the step, in the order of its rows."""
    seen: dict[tuple[tuple[int, ...], int], int] = {}
    with subject.built() as (tokens, [batching]), opened(batching):
        for step in range(STEPS):
            targets = list(itertools.chain.from_iterable(rows_of(wait_for_step(batching, step))))
            places = [(ref.document, at) for ref in batching.documents(step) for at in range(ref.start, ref.stop)]
            expect(len(places) == len(targets), f"step {step} has {len(targets)} targets, not {len(places)}")
            for (document, at), target in zip(places, targets, strict=True):
                if len(document) == 1:
                    known = int(tokens.train.tokens[tokens.train.offsets[document[0]] + at])
                else:  # ids of the batching's own: one place always holds the same token
                    known = seen.setdefault((document, at), target)
                if known != target:
                    raise CheckFailed(f"step {step}: token {at} of document {document} is {known}, the target {target}")
    return f"{STEPS} steps"


BATCHING_CHECKS: tuple[Check[BatchingUnderCheck], ...] = (
    steps_are_pure,
    batches_are_consistent,
    ranks_share_the_rows,
    validation_reads_the_text_once,
    total_steps_is_exact,
    documents_match_the_targets,
)
