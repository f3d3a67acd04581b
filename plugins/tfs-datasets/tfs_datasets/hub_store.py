"""Folder layout and manifests of the data sets downloaded from the Hub.

datasets/hub/<owner>--<name>/<commit>/files/...        the repository's own files, at their own paths
                                     <config>.json     manifest: the files of each split, with their checksums
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tfs_core.durable import write_durably
from tfs_core.errors import DataError

FORMAT_VERSION = 1
COMMIT_DIGITS = 40


@dataclass(frozen=True)
class Wanted:
    """A data set on the Hub, its configuration and its revision."""

    path: str
    config: str | None = None
    revision: str = "main"


@dataclass(frozen=True)
class HubFile:
    """An entry of a repository's file listing. Raises DataError when its path leaves the data set's folder."""

    path: str
    size: int
    algorithm: str  # "sha256"; "git-sha1" for a file that is not in large-file storage (LFS)
    checksum: str

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts or "\\" in self.path or ":" in self.path:
            raise DataError(f"the Hub lists a file whose path leaves the data set's folder: {self.path!r}")

    def checksum_of(self, file: Path) -> str:
        """Return the checksum of a local file, computed with `algorithm`."""
        if self.algorithm == "sha256":
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size)
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
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

    def files_of(self, split: str) -> list[Path]:
        """Return the files of a split in order."""
        return [self.files / file.path for file in self.splits[split]]

    def damage(self) -> str:
        """Return a description of the first file that is missing or has a wrong size; empty when there is none."""
        for file in (file for files in self.splits.values() for file in files):
            here = self.files / file.path
            size = here.stat().st_size if here.is_file() else None
            if size is None:
                return f"{here} is missing"
            if size != file.size:
                return f"{here} has {size:,} bytes, expected {file.size:,}"
        return ""

    @property
    def n_bytes(self) -> int:
        """Total size of the files in bytes."""
        return sum(file.size for files in self.splits.values() for file in files)


def hub_folder(assets: Path) -> Path:
    """Return the folder for data sets of the Hub."""
    return assets / "datasets" / "hub"


def set_folder(root: Path, path: str) -> Path:
    """Return the folder of a data set."""
    return root / path.replace("/", "--")


def write_manifest(hub_set: HubSet, wanted: Wanted) -> None:
    """Write the manifest that `find_set` reads. Splits and revisions of an existing manifest are kept."""
    place = hub_set.files.parent / f"{hub_set.config}.json"
    before = _read(place) or {"revisions": [], "is_default": False, "splits": {}}
    splits = {split: [asdict(file) for file in files] for split, files in hub_set.splits.items()}
    manifest = {
        "format_version": FORMAT_VERSION,
        "path": hub_set.path,
        "config": hub_set.config,
        "commit": hub_set.commit,
        "revisions": sorted({*before["revisions"], wanted.revision}),
        "is_default": before["is_default"] or wanted.config is None,
        "downloaded_at": time.time(),
        "kind": hub_set.kind,
        "options": dict(hub_set.options),
        "splits": before["splits"] | splits,
    }
    write_durably(place, json.dumps(manifest, indent=1).encode("utf-8"))


def find_set(root: Path, wanted: Wanted) -> HubSet | None:
    """Return the latest download of a data set that matches; None when there is none."""
    matching = [
        (manifest["downloaded_at"], hub_set)
        for manifest, hub_set in _sets_in(set_folder(root, wanted.path))
        if wanted.revision in (*manifest["revisions"], hub_set.commit)
        and (manifest["is_default"] if wanted.config is None else hub_set.config == wanted.config)
    ]
    return max(matching, key=lambda found: found[0])[1] if matching else None


def all_sets(root: Path) -> list[HubSet]:
    """Return all data sets downloaded to a folder."""
    return [hub_set for folder in sorted(root.glob("*")) for _, hub_set in _sets_in(folder)]


def _sets_in(folder: Path) -> Iterator[tuple[dict[str, Any], HubSet]]:
    for place in sorted(folder.glob("*/*.json")):
        if manifest := _read(place):
            splits = {split: [HubFile(**file) for file in files] for split, files in manifest["splits"].items()}
            named = {name: manifest[name] for name in ("path", "config", "commit", "kind", "options")}
            yield manifest, HubSet(**named, splits=splits, files=place.parent / "files")


def _read(place: Path) -> dict[str, Any] | None:
    """Return a manifest; None when it is missing, invalid, or has another format version."""
    try:
        manifest: dict[str, Any] = json.loads(place.read_bytes())
        return manifest if manifest["format_version"] == FORMAT_VERSION else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
