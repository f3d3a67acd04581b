"""The tokenizer `hub`: downloaded from a Hugging Face Hub repository into the local cache, and verified."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha1, sha256
from pathlib import Path
from typing import TypeVar

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tfs_core.contracts import Tokenizer
from tfs_core.data.network import can_reach
from tfs_core.errors import DataError
from tfs_core.stored_json import read_bytes
from tfs_tokenizers.config import HubConfig
from tfs_tokenizers.file import read
from tfs_tokenizers.tokenizer_json import CONFIG_FILE_NAME, FILE_NAME, LARGEST_FILE

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

BACKOFF_SECONDS = (1.0, 2.0, 4.0)
"""Delay before each retry while the Hub is busy."""

ATTEMPTS = 3
"""Downloads of a file whose checksum is wrong each time, before it is refused."""

BUSY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

WAYS_OUT = "copy that folder from a machine that has it, or use the tokenizer 'bpe', which is trained on your text"


def build(
    config: HubConfig,
    *,
    assets: Path,  # noqa: ARG001 (the Hub's own cache is used)
    offline: bool,
    documents: object,  # noqa: ARG001 (nothing is trained)
) -> Tokenizer:
    """Return the tokenizer of a repository of the Hub. Raises DataError when it is not available."""
    file = from_hub((config.repository,), revision=config.revision, offline=offline, ways_out=WAYS_OUT)
    return read(file, end_of_text=config.end_of_text)


def from_hub(repositories: tuple[str, ...], *, revision: str, offline: bool, ways_out: str) -> Path:
    """Return the `tokenizer.json` of the first repository that is cached, or download it from `repositories[0]`.

    Raises DataError when it is not available; without a network, within a second.
    """
    for repository in repositories:
        file = try_to_load_from_cache(repository, FILE_NAME, revision=revision)
        if isinstance(file, str):
            return Path(file)
    repository = repositories[0]
    if "HF_HUB_VERBOSITY" not in os.environ:  # its warnings are reported here, in a sentence
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if offline or constants.HF_HUB_OFFLINE or not can_reach(constants.ENDPOINT):
        why = "the network is switched off" if offline or constants.HF_HUB_OFFLINE else "that cannot be reached"
        raise DataError(
            f"{repository}: its {FILE_NAME} is not in {constants.HF_HUB_CACHE}, and must be downloaded from "
            f"{constants.ENDPOINT}: {why}. Go online once, {ways_out}."
        )
    try:
        # First the file that names the end of text, which some repositories lack: once the tokenizer itself is in the
        # cache, the cache is complete.
        with suppress(EntryNotFoundError):
            _download(repository, CONFIG_FILE_NAME, revision)
        return _download(repository, FILE_NAME, revision)
    except DataError:
        raise
    except Exception as error:  # raised by huggingface_hub, or a library below it
        raise DataError(_explanation(error, repository, revision)) from error


def _download(repository: str, name: str, revision: str) -> Path:
    """Download a file of a repository into the cache. Raises DataError when its checksum is wrong, `ATTEMPTS` times."""
    file_at_hub = _retry_while_busy(lambda: get_hf_file_metadata(hf_hub_url(repository, name, revision=revision)))
    if (file_at_hub.size or 0) > LARGEST_FILE:
        raise DataError(f"{name} of {repository} has more than {LARGEST_FILE >> 20} MiB, so it is not downloaded")
    expected = file_at_hub.etag or ""
    problem = f"{name} of {repository} arrived with the wrong bytes"
    for attempt in range(1, ATTEMPTS + 1):
        file = Path(hf_hub_download(repository, name, revision=revision))
        if _checksum(read_bytes(file, limit=LARGEST_FILE), like=expected) == expected:
            return file
        file.resolve().unlink()
        file.unlink(missing_ok=True)
        if attempt < ATTEMPTS:
            log.warning(f"{problem}. Downloading it again.")
    raise DataError(
        f"{problem}. It was downloaded {ATTEMPTS} times, and deleted. Try again later; if that does not help, a proxy "
        f"between this machine and {constants.ENDPOINT} may alter the data."
    )


def _checksum(content: bytes, *, like: str) -> str:
    """Return the checksum of a file, by the algorithm of the checksum `like`: SHA-256, or Git's SHA-1 (small files)."""
    if len(like) == 2 * sha256().digest_size:
        return sha256(content).hexdigest()
    if len(like) == 2 * sha1().digest_size:
        return sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return like  # an unknown format (another kind of host) is not checked


def _retry_while_busy(request: Callable[[], Answer]) -> Answer:
    """Return the answer to a request, with a few retries while the Hub is busy."""
    for seconds in BACKOFF_SECONDS:
        try:
            return request()
        except HfHubHTTPError as error:
            if error.response.status_code not in BUSY_STATUSES:
                raise
        time.sleep(seconds)
    return request()


def _explanation(error: Exception, repository: str, revision: str) -> str:
    """Return an error message: the reason why a tokenizer could not be downloaded, and a remedy."""
    address, logged_in = constants.ENDPOINT, get_token() is not None
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        then = "wait for the authors to grant you access" if logged_in else log_in
        return f"{repository} is gated. Accept its terms at {address}/{repository}, then {then}."
    if isinstance(error, RepositoryNotFoundError):
        private = "it is private and your account has no access" if logged_in else f"it is private: {log_in}"
        return f"there is no repository {repository} at {address}, or {private}."
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision '{revision}'. Choose a branch, tag or commit of {address}/{repository}"
    if isinstance(error, EntryNotFoundError):
        return (
            f"{repository} has no {FILE_NAME}, the only tokenizer format that tfs reads. "
            f"Check at {address}/{repository} whether another repository has it for the same model."
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code in BUSY_STATUSES:
        return f"{repository}: {address} is busy (HTTP {error.response.status_code}). Try again later."
    said = " ".join(str(error).split())
    return f"{repository} could not be loaded from {address}: {type(error).__name__}: {said[:300]}"
