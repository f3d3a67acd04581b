"""Folder layout and manifests of the data sets downloaded from the Hub.

datasets/hub/<owner>--<name>/<commit>/files/...        the repository's own files, at their own paths
                                     <config>.json     manifest: the files of each split, with their checksums
                                     <config>.listing  the same for a stream, whose files are not stored
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tfs_core.durable import write_durably
from tfs_core.errors import CheckpointError, DataError, NewerFormatError
from tfs_core.progress import progress
from tfs_core.stored_json import read_json

FORMAT_VERSION = 1
COMMIT_DIGITS = 40

DOWNLOADED = ".json"
LISTED = ".listing"
"""Suffixes of manifests: of downloaded files, and of a stream's files, which are only listed."""

MAX_MANIFEST_BYTES = 1 << 26

FILE = {"path": str, "size": int, "algorithm": {"sha256", "git-sha1"}, "checksum": str}
MANIFEST = {
    "path": str,
    "config": str,
    "commit": str,
    "earlier_commit?": (str, None),
    "revisions": [str],
    "is_default": bool,
    "downloaded_at": float,
    "kind": str,
    "options": dict,
    "splits": {str: [FILE]},
}
"""The shape of a manifest (see `tfs_core.stored_json`)."""


@dataclass(frozen=True)
class Wanted:
    """A data set on the Hub, its configuration and its revision."""

    path: str
    config: str | None = None
    revision: str = "main"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return len(self.revision) == COMMIT_DIGITS


@dataclass(frozen=True)
class HubFile:
    """An entry of a repository's file listing. Raises DataError when its path leaves the data set's folder."""

    path: str
    size: int
    algorithm: str  # "sha256"; "git-sha1" for a file that is not in large-file storage (LFS)
    checksum: str

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts or any(odd in self.path for odd in "\\:\0"):
            raise DataError(f"a file of the data set has a path that leaves the data set's folder: {self.path!r}")

    def checksum_of(self, file: Path) -> str:
        """Return the checksum of a local file, computed with `algorithm`."""
        if self.algorithm == "sha256":
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size)
        with progress(f"verifying {file.name}", total=self.size, unit="B") as advance, file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
                advance(len(block))
        return digest.hexdigest()


@dataclass(frozen=True)
class HubSet:
    """A configuration of a data set at one commit, with the local paths of its files."""

    path: str
    config: str
    commit: str
    kind: str
    """File format, by the name of the builder in `datasets`: parquet, json, csv, text, ..."""
    options: Mapping[str, Any]
    """Options that the repository sets for the builder."""
    splits: Mapping[str, Sequence[HubFile]]
    files: Path
    earlier_commit: str | None = None
    """An earlier commit with the same files; later commits changed only other files, such as the README."""

    @property
    def text_commit(self) -> str:
        """The commit that identifies the text: the earliest known one with the same files."""
        return self.earlier_commit or self.commit

    def has_text_of(self, other: "HubSet") -> bool:
        """Return whether all splits are equal to those of another commit, in the files and how they are read."""
        return (self.path, self.config, self.kind, self.options) == (
            other.path,
            other.config,
            other.kind,
            other.options,
        ) and all(other.splits.get(split) == files for split, files in self.splits.items())

    def files_of(self, split: str) -> list[Path]:
        """Return the files of a split in order."""
        return [self.files / file.path for file in self.splits[split]]

    def damage(self) -> str:
        """Return a description of the first file that is missing or has a wrong size; empty when there is none."""
        for file in (file for files in self.splits.values() for file in files):
            here = self.files / file.path
            size = size_of(here)
            if size is None:
                return f"{here} is missing"
            if size != file.size:
                return f"{here} has {size:,} bytes, expected {file.size:,}"
        return ""

    @property
    def n_bytes(self) -> int:
        """Total size of the files in bytes."""
        return sum(file.size for files in self.splits.values() for file in files)


def size_of(file: Path) -> int | None:
    """Return the size of a regular file in bytes; None when there is none at this path."""
    return os.path.getsize(file) if os.path.isfile(file) else None  # Path.is_file raises for a very long name


@contextmanager
def writing_explained(folder: Path) -> Iterator[None]:
    """Convert an OSError into a DataError that says what to do (context manager)."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror or error}. "
            "Make room, or choose another place with --output or --assets."
        ) from error


def hub_folder(assets: Path) -> Path:
    """Return the folder for data sets of the Hub."""
    return assets / "datasets" / "hub"


def set_folder(root: Path, path: str) -> Path:
    """Return the folder of a data set."""
    return root / path.replace("/", "--")


def write_manifest(hub_set: HubSet, wanted: Wanted, suffix: str = DOWNLOADED) -> HubSet:
    """Write the manifest that `find_set` reads, and return the set with its `earlier_commit`.

    Splits and revisions of an existing manifest are kept. A damaged manifest is replaced. Raises NewerFormatError for
    one that a newer tfs wrote.
    """
    place = hub_set.files.parent / f"{hub_set.config}{suffix}"
    before: dict[str, Any] = {"revisions": [], "is_default": False}
    known = replace(hub_set, splits={})
    try:
        before, known = _read(place)
    except NewerFormatError:
        raise
    except CheckpointError:  # missing or damaged
        pass
    whole = replace(hub_set, splits={**known.splits, **hub_set.splits})
    earlier_commit = known.earlier_commit if whole.splits == known.splits else _earliest_commit(whole)
    manifest = {
        "format_version": FORMAT_VERSION,
        "path": hub_set.path,
        "config": hub_set.config,
        "commit": hub_set.commit,
        "earlier_commit": earlier_commit,
        "revisions": sorted({*before["revisions"], wanted.revision}),
        "is_default": before["is_default"] or wanted.config is None,
        "downloaded_at": time.time(),
        "kind": hub_set.kind,
        "options": dict(hub_set.options),
        "splits": {split: [asdict(file) for file in files] for split, files in whole.splits.items()},
    }
    write_durably(place, json.dumps(manifest, indent=1).encode("utf-8"))
    return replace(hub_set, earlier_commit=earlier_commit)


def _earliest_commit(hub_set: HubSet) -> str | None:
    """Return the earliest known commit with the same files; None when it is the data set's own."""
    folder = hub_set.files.parent.parent
    known = [found for suffix in (DOWNLOADED, LISTED) for found in _manifests(folder, suffix)]
    same = [found for found in known if not isinstance(found, CheckpointError) and hub_set.has_text_of(found[1])]
    same.sort(key=lambda found: (found[1].commit != hub_set.commit, found[0]["downloaded_at"]))
    commit = same[0][1].text_commit if same else hub_set.commit
    return None if commit == hub_set.commit else commit


def find_set(root: Path, wanted: Wanted, suffix: str = DOWNLOADED) -> HubSet | None:
    """Return the latest download (or, by the suffix, listing) of a data set that matches; None when there is none.

    Damaged manifests are ignored, as if their files were not downloaded. Raises NewerFormatError for a manifest that a
    newer tfs wrote.
    """
    matching = []
    for found in _manifests(set_folder(root, wanted.path), suffix):
        if isinstance(found, NewerFormatError):
            raise found
        if isinstance(found, CheckpointError):
            continue
        manifest, hub_set = found
        matches_revision = wanted.revision in (*manifest["revisions"], hub_set.commit, hub_set.text_commit)
        matches_config = manifest["is_default"] if wanted.config is None else hub_set.config == wanted.config
        if hub_set.path == wanted.path and matches_revision and matches_config:
            matching.append((manifest["downloaded_at"], hub_set))
    return max(matching, key=lambda found: found[0])[1] if matching else None


def all_sets(root: Path) -> list[HubSet]:
    """Return all data sets downloaded to a folder, without those whose manifest cannot be read."""
    found = (entry for folder in sorted(root.glob("*")) for entry in _manifests(folder))
    return [entry[1] for entry in found if not isinstance(entry, CheckpointError)]


def unreadable_manifests(folder: Path) -> list[str]:
    """Return a sentence for each manifest of a data set that cannot be read."""
    return [str(found) for found in _manifests(folder) if isinstance(found, CheckpointError)]


def _manifests(folder: Path, suffix: str = DOWNLOADED) -> Iterator[tuple[dict[str, Any], HubSet] | CheckpointError]:
    """Iterate over the manifests of a data set: each with its HubSet, or the reason why it cannot be read."""
    for place in sorted(folder.glob(f"*/*{suffix}")):
        try:
            yield _read(place)
        except CheckpointError as error:
            yield error


def _read(place: Path) -> tuple[dict[str, Any], HubSet]:
    """Return a manifest and its HubSet. Raises CheckpointError when it is missing or damaged."""
    manifest = read_json(place, MANIFEST, limit=MAX_MANIFEST_BYTES, version=FORMAT_VERSION)
    if (manifest["commit"], manifest["config"]) != (place.parent.name, place.stem):
        raise CheckpointError(f"{place} is damaged: it is the manifest of another commit or configuration")
    try:
        splits = {
            split: [HubFile(*(file[key] for key in FILE)) for file in files]
            for split, files in manifest["splits"].items()
        }
    except DataError as error:
        raise CheckpointError(f"{place} is damaged: {error}") from error
    if not all(splits.values()):
        raise CheckpointError(f"{place} is damaged: a split has no files")
    named = {name: manifest[name] for name in ("path", "config", "commit", "kind", "options")}
    earlier_commit = manifest.get("earlier_commit")
    return manifest, HubSet(**named, splits=splits, files=place.parent / "files", earlier_commit=earlier_commit)
