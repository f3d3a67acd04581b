"""Prepare a token store from a data set and a tokenizer, or reuse an existing one.

A store's folder is named by a hash of its inputs (the fingerprints of source and tokenizer, and the options), so it is
never stale. It is written under a temporary name and renamed atomically when complete. A file lock lets one process
write while others wait.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

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
from tfs_core.data.encoder import encode
from tfs_core.data.store import (
    FORMAT_VERSION,
    SPLITS,
    DamagedStoreError,
    SplitWriter,
    TokenStore,
    as_data_error,
    open_store,
    token_dtype,
    write_info,
)
from tfs_core.durable import is_locked, sync_folder
from tfs_core.errors import DataError
from tfs_core.progress import progress as shown_progress
from tfs_core.registry import get_registry
from tfs_core.terminal import counted

Report = Callable[[str], None]
"""A callback for messages of one line."""


def build_source(choice: Choice, *, assets: Path, offline: bool) -> DatasetSource:
    """Return the data set that the configuration chooses. Raises DataError when it is not available."""
    entry = get_registry().find("dataset", choice.name)
    source: DatasetSource = entry.build(choice.options, assets=assets, offline=offline)
    return source


def build_tokenizer(choice: Choice, *, assets: Path, offline: bool, documents: TrainingText | None) -> Tokenizer:
    """Return the tokenizer that the configuration chooses; a trainable one may be trained on `documents`.

    Raises DataError when it is not available.
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
    progress: Report | None = None,
) -> TokenStore:
    """Return the token store of a data set in `assets/tokens`. Writes it unless a complete one exists.

    For a streaming source, only the beginning of the training text is stored; the rest is read during training.

    `subset_size` and `val_subset_size` limit the number of documents of each split. `validation_fraction` is the
    fraction to hold out of a source without a validation split (see `tfs_core.data.documents`). `threads` is the number
    of encoding threads, by default one per processor, and does not change the result. Raises DataError when there is
    no text, when a document is not Unicode, or when the store cannot be written.
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
    wanted = {**identity, "vocab_size": tokenizer.vocab_size}
    report = progress or (lambda _line: None)

    found = _open_undamaged(folder, wanted, report)
    if found is None:
        with _store_lock(folder, report):
            found = _open_undamaged(
                folder, wanted, lambda _line: None
            )  # another process may have written it while this one waited
            if found is None:
                if taken != subset_size:
                    report(f"{describe(source)}: only its beginning is tokenized now, the rest during training")
                quotas = {"train": taken, "validation": held_out}
                pieces = split_pieces(source, quotas=quotas, validation_fraction=validation_fraction)
                info = dict(identity)
                if isinstance(source, SupportsStreaming) and not has_own:
                    info["division"] = Division.of(source, validation_fraction).to_json()
                _write(folder, info, pieces, tokenizer, source, report, threads)
                found = open_store(folder, wanted)
                assert found is not None, f"{folder} cannot be read just after it was written"
    if empty := found.info["empty_documents"]:
        report(f"{describe(source)}: {counted(empty, 'empty document')} left out")
    for line in found.info.get("left_out", []):
        report(line)
    return found


def _open_undamaged(folder: Path, identity: dict[str, Any], report: Report) -> TokenStore | None:
    """Return the store in a folder, or None when it has to be made, or made again because it is damaged."""
    try:
        return open_store(folder, identity)
    except DamagedStoreError as error:
        report(f"{error}. The tokens are made again.")
        return None


@contextmanager
def _store_lock(folder: Path, report: Report) -> Iterator[None]:
    """Hold the lock of a store's folder; wait while another process holds it (context manager)."""
    with as_data_error(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            report("another process is preparing these tokens: waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(
    folder: Path,
    info: dict[str, Any],
    pieces: Iterable[tuple[str, Piece]],
    tokenizer: Tokenizer,
    source: DatasetSource,
    report: Report,
    threads: int | None,
) -> None:
    """Write a store under a temporary name and rename it; `info` has the first entries of its tokens.json."""
    unfinished = folder.with_suffix(".unfinished")
    dtype = token_dtype(tokenizer.vocab_size)
    with as_data_error(folder):
        for leftover in {unfinished, *folder.parent.glob("*.unfinished")}:  # of a process that was killed
            if leftover == unfinished or not is_locked(leftover.with_suffix(".lock")):
                with suppress(OSError, RecursionError):  # of another user, or being deleted by another process
                    _delete(leftover)
        unfinished.mkdir()
    try:
        with as_data_error(folder):
            writers = {split: SplitWriter(unfinished, split, dtype=dtype) for split in SPLITS}
        empty_documents = _write_blocks(writers, pieces, tokenizer, folder, report, threads)
        for split in SPLITS:
            if writers[split].documents == 0:
                raise DataError(f"{describe(source)}: there is no text in its {split} split. Add a document to it.")
        left_out = list(source.left_out()) if isinstance(source, SupportsLeftOut) else []
        with as_data_error(folder):
            info |= {
                "description": describe(source),
                "vocab_size": tokenizer.vocab_size,
                "end_of_text_id": tokenizer.end_of_text_id,
                "dtype": dtype.name,
                "empty_documents": empty_documents,
                "left_out": left_out,
                "splits": {split: writers[split].close() for split in SPLITS},
            }
            write_info(unfinished, info)
            sync_folder(unfinished)
            _delete(folder)  # damaged: a valid one would have been used
            os.replace(unfinished, folder)
            sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _delete(path: Path) -> None:
    """Delete a folder, or whatever is in its place: shutil.rmtree waits at a named pipe, and refuses a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_blocks(
    writers: Mapping[str, SplitWriter],
    pieces: Iterable[tuple[str, Piece]],
    tokenizer: Tokenizer,
    folder: Path,
    report: Report,
    threads: int | None,
) -> int:
    """Write the tokens of all pieces, with progress. Return the number of empty documents, which are left out."""
    empty_documents, started_at = 0, time.monotonic()

    def with_text() -> Iterator[tuple[str, Piece]]:
        nonlocal empty_documents
        for split, piece in pieces:
            if piece.is_empty_document:
                empty_documents += 1
            else:
                yield split, piece

    with shown_progress("tokenizing", unit="B") as advance:
        for block in encode(with_text(), tokenizer, threads=threads):
            with as_data_error(folder):
                writers[block.split].add(block.tokens, block.document_ends, block.n_bytes)
            advance(block.n_bytes)
    documents = sum(writer.documents for writer in writers.values())
    megabytes = sum(writer.n_bytes for writer in writers.values()) / 1e6
    speed = megabytes / max(time.monotonic() - started_at, 1e-9)
    report(f"{counted(documents, 'document')}, {megabytes:,.1f} MB of text tokenized, {speed:,.1f} MB/s")
    return empty_documents
