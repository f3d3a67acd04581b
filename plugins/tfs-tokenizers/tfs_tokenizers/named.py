"""Data sets and tokenizers given on the command line: by name, by path, as YAML with a name and options, or by a run.

A run, given by its name, its folder or a checkpoint, stands for its data set or its tokenizer.
"""

import os
from pathlib import Path
from typing import Any

from tfs_core.config.document import Document, Place, read_text
from tfs_core.config.schema import Choice, RunConfig
from tfs_core.config.validation import chosen_component
from tfs_core.contracts import DatasetSource, Tokenizer
from tfs_core.data.documents import TrainingText
from tfs_core.data.network import is_offline_mode
from tfs_core.data.prepare import build_source, build_tokenizer
from tfs_core.registry import get_registry
from tfs_core.runs import find_checkpoint, run_folders


def choice(kind: str, text: str) -> Choice:
    """Parse a choice such as `byte` or `{name: jsonl, path: a.jsonl}`. Raises ConfigError."""
    document = read_text(text, Place(source="command line", base=Path.cwd()), (kind,))
    return chosen_component(kind, document.values, document)


def dataset_choice(name: str, *, assets: Path) -> Choice:
    """Return the choice of a data set, or that of a run. Raises TfsErrors."""
    if not _is_run("dataset", name, assets):
        return choice("dataset", name)
    return _checkpoint(name, assets)[1].data.dataset


def dataset(name: str, *, assets: Path) -> DatasetSource:
    """Return the data set given by a name, a path, YAML or a run. Raises TfsErrors when it is not available."""
    return build_source(dataset_choice(name, assets=assets), assets=assets, offline=is_offline_mode())


def dataset_of_files(paths: list[Path], *, format_name: str, options: dict[str, Any], assets: Path) -> DatasetSource:
    """Return the data set `format_name` (text, jsonl, ...) of the files at `paths`."""
    value = {"name": format_name, "path": [str(path) for path in paths], **options}
    document = Document(values=value, places={("dataset",): Place(source="command line", base=Path.cwd())})
    return build_source(chosen_component("dataset", value, document), assets=assets, offline=is_offline_mode())


def tokenizer(name: str, *, assets: Path, documents: TrainingText | None = None) -> Tokenizer:
    """Return the tokenizer given by a name, a path, YAML or a run, trained on `documents` if it needs training.

    That of a run is the copy in its latest checkpoint. Raises TfsErrors when it is not available.
    """
    if not _is_run("tokenizer", name, assets):
        return build_tokenizer(choice("tokenizer", name), assets=assets, offline=is_offline_mode(), documents=documents)
    from tfs_core.trained import read_tokenizer

    folder, config = _checkpoint(name, assets)
    return read_tokenizer(config.data.tokenizer.name, folder / "tokenizer")


def _checkpoint(run: str, assets: Path) -> tuple[Path, RunConfig]:
    """Return the latest checkpoint of a run, and its configuration. Raises CheckpointError when it is damaged."""
    from tfs_core.checkpoint import read_config
    from tfs_core.checkpoint_folder import verify_checkpoint

    folder = find_checkpoint(run, assets)
    verify_checkpoint(folder)
    return folder, read_config(folder)


def _is_run(kind: str, name: str, assets: Path) -> bool:
    """Return whether a name is that of a run or checkpoint, and neither a component's nor that of another path."""
    if get_registry().owners(kind, name):
        return False
    if os.path.exists(name):
        return any(os.path.lexists(Path(name, file)) for file in ("run.json", "manifest.json"))
    return bool(run_folders(assets, name))
