"""From a data set and a tokenizer to a token store that is there: made now, or kept from last time.

A store's folder is named after what it was made from (the fingerprints of source and tokenizer, and the options), so
it is never stale. It is written under another name and renamed when whole; a lock of the operating system lets one
process write while others wait.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfs_core.config.schema import Choice
from tfs_core.contracts import DatasetSource, SupportsLeftOut, SupportsStreaming, Tokenizer
from tfs_core.data.documents import (
    DIVISION_VERSION,
    Division,
    Piece,
    TrainingText,
    describe,
    documents_held_out,
    documents_taken,
    hash_of,
    split_pieces,
)
from tfs_core.data.encoder import Encoder, Progress
from tfs_core.data.store import (
    FORMAT_VERSION,
    SPLITS,
    SplitWriter,
    TokenSplit,
    open_splits,
    saying_why_not,
    token_dtype,
    write_info,
)
from tfs_core.durable import FileLock, sync_folder
from tfs_core.errors import DataError
from tfs_core.registry import get_registry


@dataclass(frozen=True)
class PreparedData:
    """A token store, open."""

    train: TokenSplit
    validation: TokenSplit
    folder: Path
    info: dict[str, Any]  # the content of tokens.json


def build_source(choice: Choice, *, assets: Path, offline: bool) -> DatasetSource:
    """Return the data set that the configuration chose. Raises DataError when it cannot be had."""
    entry = get_registry().find("dataset", choice.name)
    source: DatasetSource = entry.build(choice.options, assets=assets, offline=offline)
    return source


def build_tokenizer(choice: Choice, *, assets: Path, offline: bool, documents: TrainingText | None) -> Tokenizer:
    """Return the tokenizer that the configuration chose, trained on `documents` if it is one that is trained.

    Raises DataError when it cannot be had.
    """
    entry = get_registry().find("tokenizer", choice.name)
    tokenizer: Tokenizer = entry.build(choice.options, assets=assets, offline=offline, documents=documents)
    return tokenizer


def prepare_tokens(
    source: DatasetSource,
    tokenizer: Tokenizer,
    *,
    assets: Path,
    subset_size: int | None = None,
    val_subset_size: int | None = None,
    validation_fraction: float = 0.01,
    threads: int | None = None,
    progress: Progress | None = None,
) -> PreparedData:
    """Return the token store of a data set under `assets/tokens`, writing it unless it is already there and whole.

    Of a source that streams its training text is the beginning only: the rest is spooled while a run trains.

    `subset_size` and `val_subset_size` take the first so many documents of each split; `validation_fraction` counts
    where the source has no validation split (`tfs_core.data.documents` says what is held out). `threads` encode at
    once, by default as many as there are processors; the store is the same for any number. Raises DataError when there
    is no text, when a document is not Unicode, or when the store cannot be written.
    """
    has_own = "validation" in source.splits()
    taken, held_out = documents_taken(source, subset_size), documents_held_out(source, val_subset_size)
    identity = {
        "format_version": FORMAT_VERSION,
        "source": source.fingerprint(),
        "tokenizer": tokenizer.fingerprint(),
        "subset_size": taken,
        "val_subset_size": held_out,
        "validation_fraction": None if has_own else validation_fraction,
        "division_version": None if has_own else DIVISION_VERSION,
    }
    folder = assets / "tokens" / hash_of(identity)
    report = progress or (lambda _line: None)

    found = _open(folder, identity)
    if found is None:
        with _only_writer(folder, report):
            found = _open(folder, identity)  # another process may have written it while this one waited
            if found is None:
                if taken != subset_size:
                    report(f"{describe(source)}: the beginning of it is made into tokens, the rest while training")
                quotas = {"train": taken, "validation": held_out}
                pieces = split_pieces(source, quotas=quotas, validation_fraction=validation_fraction)
                besides = {}
                if isinstance(source, SupportsStreaming) and not has_own:
                    besides["division"] = Division.of(source, validation_fraction).to_json()
                _write(folder, identity, besides, pieces, tokenizer, source, report, threads)
                found = _open(folder, identity)
                assert found is not None, f"{folder} cannot be read just after it was written"
    for line in found.info.get("left_out", []):
        report(line)
    return found


def _open(folder: Path, identity: dict[str, Any]) -> PreparedData | None:
    opened = open_splits(folder, identity)
    if opened is None:
        return None
    splits, info = opened
    return PreparedData(splits["train"], splits["validation"], folder, info)


@contextmanager
def _only_writer(folder: Path, report: Progress) -> Iterator[None]:
    """Hold the lock of a store's folder, waiting as long as another process has it."""
    with saying_why_not(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        if not lock.acquire():
            report("another process is preparing these tokens: waiting for it")
            while not lock.acquire(wait_seconds=60.0):
                pass
    try:
        yield
    finally:
        lock.release()


def _write(
    folder: Path,
    identity: dict[str, Any],
    besides: dict[str, Any],
    pieces: Iterable[tuple[str, Piece]],
    tokenizer: Tokenizer,
    source: DatasetSource,
    report: Progress,
    threads: int | None,
) -> None:
    """Write a store next to its place and move it there."""
    unfinished = folder.with_suffix(".unfinished")
    dtype = token_dtype(tokenizer.vocab_size)
    with saying_why_not(folder):
        shutil.rmtree(unfinished, ignore_errors=True)  # what a killed process left
        unfinished.mkdir()
        writers = {
            split: SplitWriter(unfinished, split, dtype=dtype, end_of_text_id=tokenizer.end_of_text_id)
            for split in SPLITS
        }
    try:
        empty_documents = Encoder(tokenizer, writers, report, threads=threads).write_all(pieces)
        for split in SPLITS:
            if writers[split].documents == 0:
                raise DataError(f"{describe(source)}: there is no text in its {split} split. Add a document to it.")
        with saying_why_not(folder):
            for writer in writers.values():
                writer.close()
        info = (
            identity
            | besides
            | {
                "description": describe(source),
                "vocab_size": tokenizer.vocab_size,
                "end_of_text_id": tokenizer.end_of_text_id,
                "dtype": dtype.name,
                "empty_documents": empty_documents,
                "left_out": list(source.left_out()) if isinstance(source, SupportsLeftOut) else [],
                "splits": {split: writers[split].counts() for split in SPLITS},
            }
        )
        with saying_why_not(folder):
            write_info(unfinished, info)
            sync_folder(unfinished)
            if folder.exists():
                shutil.rmtree(folder)  # damaged, or it would have been used
            os.replace(unfinished, folder)
            sync_folder(folder.parent)
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
