"""Lookup in the cache of Hugging Face `datasets`, used when tfs has not downloaded a data set itself."""

import os
import re
from pathlib import Path

from tfs_datasets.hub_connection import endpoint
from tfs_datasets.hub_store import COMMIT_DIGITS, HubFile, HubSet, Wanted, size_of

_SHARD_NUMBER = re.compile(r"-\d{5}-of-\d{5}$")


def find_cached(wanted: Wanted) -> HubSet | None:
    """Return the newest matching data set in the cache; None when there is none."""
    endpoint()  # raises DataError when the library is missing
    from huggingface_hub import constants

    cache = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets")).expanduser()
    commit = wanted.revision if len(wanted.revision) == COMMIT_DIGITS else "*"
    if commit == "*" and wanted.revision != "main":
        return None  # the cache does not record the commit of a branch or tag
    folders = [
        folder
        for folder in cache.glob(f"{_cached_as(wanted.path)}/{wanted.config or 'default'}/*/{commit}")
        if (folder / "dataset_info.json").exists()
    ]
    if not folders:
        return None
    newest = max(folders, key=lambda folder: folder.stat().st_mtime)
    splits: dict[str, list[HubFile]] = {}
    for shard in sorted(newest.glob("*.arrow")):
        size = size_of(shard)
        if size is None:
            return None  # a link to a file that was deleted, for example
        split = _SHARD_NUMBER.sub("", shard.stem).rpartition("-")[2]
        splits.setdefault(split, []).append(HubFile(shard.name, size, "none", ""))
    return HubSet(wanted.path, wanted.config or "default", newest.name, "arrow", {}, splits, newest)


def _cached_as(path: str) -> str:
    """Return the folder name that `datasets` uses for a data set: TinyStories becomes tiny_stories."""
    owner, _, name = path.rpartition("/")
    snake = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)).lower()
    return f"{owner}___{snake}" if owner else snake
