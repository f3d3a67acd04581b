"""Training of a byte-level BPE on a data set or on files, saved in a folder that a configuration can name."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from itertools import count
from pathlib import Path

from tfs_core.contracts import DatasetSource
from tfs_core.data.documents import TrainingText, describe, hash_of, read_pieces
from tfs_core.durable import write_durably
from tfs_core.errors import CheckpointError, DataError, UsageError
from tfs_core.registry import get_registry
from tfs_core.runs import assets_folder
from tfs_core.stored_json import read_bytes, read_json
from tfs_core.terminal import escape_control_characters
from tfs_tokenizers import bpe, named
from tfs_tokenizers.byte_level import ByteLevelTokenizer
from tfs_tokenizers.config import END_OF_TEXT, BpeConfig
from tfs_tokenizers.kept import locked, write_errors
from tfs_tokenizers.tokenizer_json import (
    CONFIG_FILE_NAME,
    FILE_NAME,
    LARGEST_FILE,
    check_replaces_nothing,
    config_json,
    write_tokenizer,
)

log = logging.getLogger(__name__)

RECORD_NAME = "training.json"
"""File beside a trained `tokenizer.json`: the fingerprint of the training text, the options, and the SHA-256 of the
tokenizer."""

TEXT_OPTIONS = {"jsonl": "text_key", "csv": "column", "parquet": "column"}
"""Data set -> its option that names the key or column of the text."""


def train_tokenizer(
    name: str,
    vocab_size: int,
    *,
    output: str | Path | None = None,
    subset_size: int | None = None,
    min_frequency: int = 2,
    special_tokens: Sequence[str] = (),
    assets: str | Path | None = None,
) -> Path:
    """Train a BPE on the training text of a data set and return the folder with its `tokenizer.json`.

    `name` is a registered name, a path, YAML with options, or a run. Only the first `subset_size` training documents
    are read, without the documents that a run holds out for validation. The folder is `output`, or by default
    `<assets>/tokenizers/<name>_bpe_<vocab_size>`. A tokenizer in it is never replaced: if it was trained on the same
    text with the same options, it is reused; otherwise an `output` is refused before the training begins, and the
    default gets the number 2, 3, ... Raises TfsErrors when it is refused, the data cannot be read, or the folder cannot
    be written.
    """
    root = assets_folder(assets)
    config = _config(vocab_size, min_frequency, special_tokens)
    text = TrainingText(named.dataset(name, assets=root), subset_size)
    default = _default(root, named.dataset_choice(name, assets=root).name, vocab_size)
    return _train(text(), config, output, default, fingerprint=text.fingerprint)


def train_tokenizer_from_files(
    files: str | Path | Sequence[str | Path],
    vocab_size: int,
    *,
    output: str | Path | None = None,
    text_key: str = "text",
    min_frequency: int = 2,
    special_tokens: Sequence[str] = (),
    assets: str | Path | None = None,
) -> Path:
    """Train a BPE on the whole text of one or more files and return the folder with its `tokenizer.json`.

    Text, JSON, CSV and Parquet are distinguished by file extension; `text_key` is the key or column of the text.
    The folder is that of `train_tokenizer`, with the name of the first file. Raises TfsErrors when it is refused, no
    file is given, a file cannot be read, or the folder cannot be written.
    """
    files = [files] if isinstance(files, str | Path) else files
    if not files:
        raise UsageError("name at least one file to train on")
    root = assets_folder(assets)
    config = _config(vocab_size, min_frequency, special_tokens)
    sources = [
        named.dataset_of_files(
            paths,
            format_name=format_name,
            options={TEXT_OPTIONS[format_name]: text_key} if format_name in TEXT_OPTIONS else {},
            assets=root,
        )
        for format_name, paths in _by_format([Path(file) for file in files]).items()
    ]
    default = _default(root, Path(files[0]).name.partition(".")[0] or "files", vocab_size)
    fingerprint = hash_of(["whole", [source.fingerprint() for source in sources]])
    return _train(_all_text(sources), config, output, default, fingerprint=fingerprint)


def _default(root: Path, name: str, vocab_size: int) -> Path:
    """Return the default folder of a tokenizer trained on the data set or file `name`."""
    label = re.sub(r"[^\w.-]+", "-", name)
    return root / "tokenizers" / f"{label}_bpe_{vocab_size}"


def _config(vocab_size: int, min_frequency: int, special_tokens: Sequence[str]) -> BpeConfig:
    try:
        return BpeConfig(vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=tuple(special_tokens))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _by_format(files: list[Path]) -> Mapping[str, list[Path]]:
    """Return the files by the name of the data set that reads them."""
    formats: dict[str, list[Path]] = {}
    for file in files:
        name, _ = get_registry().for_path("dataset", str(file)) or ("text", "path")
        formats.setdefault(name, []).append(file)
    return formats


def _all_text(sources: Sequence[DatasetSource]) -> Iterator[str]:
    """Iterate over the text of all sources. Raises DataError when there is none."""
    empty = True
    for source in sources:
        for piece in read_pieces(source, "train"):
            if piece.text:
                empty = False
                yield piece.text
    if empty:
        raise DataError(f"there is no text in {', '.join(describe(source) for source in sources)}")


def _train(
    texts: Iterator[str], config: BpeConfig, output: str | Path | None, default: Path, *, fingerprint: str
) -> Path:
    """Train a BPE into `output`, or else into the first of `default`, `default`-2, ... that is free, and return it.

    A folder that already has the tokenizer is reused. `fingerprint` is that of the text. Raises DataError when `output`
    has another tokenizer.
    """
    training = {"text": fingerprint, **asdict(config), "special_tokens": list(config.special_tokens)}
    content = first_conflict = None
    for number in count(1):
        folder = Path(output or (default if number == 1 else default.with_name(f"{default.name}-{number}")))
        place = escape_control_characters(str(folder))
        with write_errors(folder):
            conflict = _conflict(folder, training)
            if conflict is None and (folder / FILE_NAME).exists():
                log.warning("%s: nothing to do, it was trained on the same text with the same options", place)
                return folder
        if conflict is None:
            if content is None:
                content = bpe.train(texts, **asdict(config))
                bpe.warn_if_small(ByteLevelTokenizer(content), config)
            with locked(folder), write_errors(folder):
                conflict = _conflict(folder, training)  # another process may have filled the folder in the meantime
                if conflict is None and not (folder / FILE_NAME).exists():
                    record = training | {"sha256": sha256(content.encode("utf-8")).hexdigest()}
                    write_durably(folder / RECORD_NAME, (json.dumps(record, indent=2) + "\n").encode("utf-8"))
                    write_tokenizer(folder, content)  # `tokenizer.json` last: a folder that has one is complete
        if conflict is None:
            break
        if output:
            raise DataError(
                f"{conflict}. It is not replaced, since a run may depend on it: choose another folder with --output, "
                "or delete this one."
            )
        first_conflict = first_conflict or conflict
    if first_conflict:
        log.warning("%s. The new tokenizer is in %s", escape_control_characters(first_conflict), place)
    return folder


def _conflict(folder: Path, training: Mapping[str, object]) -> str | None:
    """Return why the tokenizer of a training cannot be in a folder; None if the folder has it, or has no tokenizer."""
    if folder.exists() and not folder.is_dir():
        return f"{folder} is not a folder"
    if not (folder / FILE_NAME).exists():
        try:
            check_replaces_nothing(folder / CONFIG_FILE_NAME, config_json(END_OF_TEXT))
        except DataError:
            return f"{folder / CONFIG_FILE_NAME} exists with other content"
        return None
    has = f"{folder} already has a tokenizer"
    if not (folder / RECORD_NAME).exists():
        return f"{has}, without a {RECORD_NAME} that says how it was trained"
    try:
        record = read_json(folder / RECORD_NAME, {"sha256": str})
    except CheckpointError as error:
        return f"{has}, and {error}"
    if different := [name for name, value in training.items() if record.get(name) != value]:
        return f"{has}, trained with another {', '.join(different)}"
    if sha256(read_bytes(folder / FILE_NAME, limit=LARGEST_FILE)).hexdigest() != record["sha256"]:
        return f"{has}, changed after its training"
    return None
