"""Download of data sets from the Hugging Face Hub. Interrupted downloads are resumed, and every file is verified.

The library `datasets` determines which files belong to which split. The files are stored unchanged, at one commit. A
file whose size or checksum differs from the repository's listing is deleted and downloaded again, a few times at most.
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tfs_core.errors import DataError
from tfs_core.plugins import did_you_mean
from tfs_core.progress import progress
from tfs_core.terminal import counted
from tfs_datasets.hub_connection import (
    Report,
    commit_of,
    endpoint,
    hub_errors_explained,
    import_datasets,
    waiting_for,
    with_retries,
)
from tfs_datasets.hub_store import (
    HubFile,
    HubSet,
    Wanted,
    set_folder,
    size_of,
    write_manifest,
    writing_explained,
)

if TYPE_CHECKING:
    from datasets import DatasetBuilder

PATHS_AT_ONCE = 500
ATTEMPTS = 3
"""Downloads of a file whose checksum is wrong each time, before it is refused."""

NOT_OPTIONS = frozenset({"name", "version", "data_dir", "data_files", "description", "features"})


def download(
    wanted: Wanted, splits: Sequence[str] | None, *, root: Path, report: Report, cache_dir: Path | None = None
) -> HubSet:
    """Download and verify the files of some splits (None: of all splits) into a folder of `root`.

    Complete files are not downloaded again. Files in Hugging Face's cache (`cache_dir`, or the default one) are copied.
    Raises DataError when the data set is not available, a checksum is wrong, or the folder cannot be written.
    """
    folder = set_folder(root, wanted.path)
    with hub_errors_explained(wanted.path, revision=wanted.revision, config=wanted.config):
        hub_set = waiting_for(f"listing {wanted.path}", lambda: listed(wanted, splits, folder))
    with writing_explained(folder):
        hub_set.files.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "download.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            report(f"another process is downloading {wanted.path}: waiting for it")
            lock.acquire()
        try:
            _fetch_all(hub_set, report, cache_dir)
            return write_manifest(hub_set, wanted)
        finally:
            lock.release()


def listed(wanted: Wanted, splits: Sequence[str] | None, folder: Path) -> HubSet:
    """Return the files of some splits (None: of all splits) as the Hub lists them, without downloading.

    Raises DataError for an unknown split, and for a file that is outside the repository or not listed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=endpoint())
    commit = commit_of(wanted.path, wanted.revision)
    builder = with_retries(
        lambda: import_datasets().load_dataset_builder(wanted.path, wanted.config, revision=commit), wanted.path
    )
    available: Mapping[str, Sequence[str]] = {str(split): urls for split, urls in builder.config.data_files.items()}
    paths = {}
    for split in available if splits is None else splits:
        if split not in available:
            hint = did_you_mean(split, available)
            raise DataError(f"{wanted.path} has no split '{split}'.{hint} Splits: {', '.join(available)}.")
        paths[split] = [_path_in_repository(url, wanted.path, commit) for url in available[split]]
    everything = list(dict.fromkeys(path for in_split in paths.values() for path in in_split))
    listed: dict[str, HubFile] = {}
    for first in range(0, len(everything), PATHS_AT_ONCE):
        some = everything[first : first + PATHS_AT_ONCE]
        for entry in with_retries(
            lambda some=some: api.get_paths_info(wanted.path, some, revision=commit, repo_type="dataset"), wanted.path
        ):
            if isinstance(entry, RepoFile):
                algorithm, checksum = ("sha256", entry.lfs.sha256) if entry.lfs else ("git-sha1", entry.blob_id)
                listed[entry.path] = HubFile(entry.path, entry.size, algorithm, checksum)
    if missing := [path for path in everything if path not in listed]:
        raise DataError(f"{wanted.path}: the Hub's listing of {commit[:8]} lacks {missing[0]}. Try again later.")
    return HubSet(
        path=wanted.path,
        config=str(builder.config.name),
        commit=commit,
        kind=type(builder).__module__.rpartition(".")[2],
        options=_options(builder),
        splits={split: [listed[path] for path in in_split] for split, in_split in paths.items()},
        files=folder / commit / "files",
    )


def _path_in_repository(url: str, path: str, commit: str) -> str:
    """Return the path of a file in its repository from its URL: hf://datasets/owner/name@commit/a/b.parquet."""
    start = f"hf://datasets/{path}@{commit}/"
    if not url.startswith(start):
        raise DataError(f"{path} refers to a file outside its repository: {url}. tfs downloads only files in it.")
    return url.removeprefix(start)


def _options(builder: "DatasetBuilder") -> dict[str, Any]:
    """Return the reader options that the repository sets to other values than the defaults, such as `sep`."""
    options = {}
    for field in dataclasses.fields(builder.config):
        value = getattr(builder.config, field.name)
        plain = isinstance(value, str | int | float | bool | list)
        if field.name not in NOT_OPTIONS and plain and value != field.default:
            options[field.name] = value
    return options


def _fetch_all(hub_set: HubSet, report: Report, cache_dir: Path | None) -> None:
    files = list(dict.fromkeys(file for in_split in hub_set.splits.values() for file in in_split))
    missing = [file for file in files if not is_whole(file, hub_set.files / file.path)]
    missing_bytes = sum(file.size for file in missing)
    if not missing:
        report(f"{hub_set.path}: already downloaded and verified: {counted(len(files), 'file')}")
        return
    free = shutil.disk_usage(hub_set.files).free
    if free < missing_bytes:
        raise DataError(
            f"{hub_set.files}: {missing_bytes / 1e9:,.1f} GB to download, but only {free / 1e9:,.1f} GB free. "
            "Make room, or choose another place with --output or --assets."
        )
    report(
        f"{hub_set.path}: {len(missing)} of {counted(len(files), 'file')} to download, {missing_bytes / 1e6:,.1f} MB"
    )
    started_at = time.monotonic()
    for number, file in enumerate(missing, start=1):
        fetch(hub_set, file, cache_dir, report=report)
        seconds = max(time.monotonic() - started_at, 1e-9)
        done = sum(whole.size for whole in missing[:number]) / 1e6
        report(f"{number}/{len(missing)} {file.path}: verified; {done:,.1f} MB, {done / seconds:,.1f} MB/s")


def is_whole(file: HubFile, here: Path) -> bool:
    """Return whether the file at path `here` has the size and checksum of the repository."""
    return size_of(here) == file.size and file.checksum_of(here) == file.checksum


def fetch(hub_set: HubSet, file: HubFile, cache_dir: Path | None, *, report: Report) -> None:
    """Download one file, or copy it from the cache.

    Raises DataError when it cannot be downloaded, and when its checksum is not the repository's, `ATTEMPTS` times.
    """
    from huggingface_hub import try_to_load_from_cache

    here = hub_set.files / file.path
    part = here.with_name(f"{here.name}.part")
    here.parent.mkdir(parents=True, exist_ok=True)
    if part.is_symlink() or (part.exists() and not part.is_file()):
        part.unlink()  # writing would follow a link, and wait at a named pipe
    cached = try_to_load_from_cache(
        hub_set.path, file.path, cache_dir=cache_dir, revision=hub_set.commit, repo_type="dataset"
    )
    if isinstance(cached, str) and is_whole(file, Path(cached)):
        shutil.copyfile(cached, part)
    for attempt in range(1, ATTEMPTS + 1):
        with hub_errors_explained(hub_set.path, revision=hub_set.commit, config=hub_set.config):
            with_retries(
                lambda: _download_rest(hub_set, file, part),
                f"{file.path} of {hub_set.path}",
                report=report,
                size=lambda: size_of(part) or 0,
            )
        if (found := file.checksum_of(part)) == file.checksum:
            os.replace(part, here)
            return
        part.unlink()
        problem = (
            f"{file.path} of {hub_set.path} arrived with the wrong bytes: its {file.algorithm} is {found[:12]}... and "
            f"the repository's {file.checksum[:12]}..."
        )
        if attempt < ATTEMPTS:
            report(f"{problem} Downloading it again.")
    raise DataError(
        f"{problem} It was downloaded {ATTEMPTS} times, and deleted. Try again later; if that does not help, a proxy "
        f"between this machine and {endpoint()} may alter the data."
    )


def _download_rest(hub_set: HubSet, file: HubFile, part: Path) -> None:
    """Download what an unfinished file lacks. Raises the exceptions of the HTTP library, and ConnectionError."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    done = size_of(part) or 0
    if done > file.size:
        part.unlink()
        done = 0
    if done == file.size:
        part.touch()  # an empty file
        return
    url = hf_hub_url(hub_set.path, file.path, repo_type="dataset", revision=hub_set.commit, endpoint=endpoint())
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={done}-"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with (
        progress(f"downloading {PurePosixPath(file.path).name}", total=file.size - done, unit="B") as advance,
        get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response,
    ):
        hf_raise_for_status(response)
        is_rest = response.status_code == HTTPStatus.PARTIAL_CONTENT  # otherwise the file from its beginning
        with part.open("ab" if is_rest else "wb") as content:
            for block in response.iter_bytes():
                content.write(block)
                advance(len(block))
    if size_of(part) != file.size:
        raise ConnectionError("the answer has the wrong length")
