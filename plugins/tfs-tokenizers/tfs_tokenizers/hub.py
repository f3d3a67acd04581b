"""`hub`: the tokenizer of a repository of the Hugging Face Hub, from its cache, or downloaded into it and verified."""

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
from tfs_tokenizers.config import HubConfig
from tfs_tokenizers.file import read
from tfs_tokenizers.tokenizer_json import CONFIG_FILE_NAME, FILE_NAME

Answer = TypeVar("Answer")

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further attempt when the Hub says that it is busy."""

BUSY = frozenset({408, 429, 500, 502, 503, 504})

OTHER_WAYS = "copy that folder from a machine that has it, or take the tokenizer 'bpe', which is trained on your text"


def build(
    config: HubConfig,
    *,
    assets: Path,  # noqa: ARG001 (the Hub's own cache is used)
    offline: bool,
    documents: object,  # noqa: ARG001 (nothing is trained)
) -> Tokenizer:
    """Return the tokenizer of a repository of the Hub. Raises DataError when it is neither here nor to be had."""
    file = from_hub((config.repository,), revision=config.revision, offline=offline, ways_out=OTHER_WAYS)
    return read(file, end_of_text=config.end_of_text)


def from_hub(repositories: tuple[str, ...], *, revision: str, offline: bool, ways_out: str) -> Path:
    """Return the `tokenizer.json` of the first of the names that is in the cache, or download it by the first name.

    Raises DataError, within a second when there is no network.
    """
    for repository in repositories:
        file = try_to_load_from_cache(repository, FILE_NAME, revision=revision)
        if isinstance(file, str):
            return Path(file)
    repository = repositories[0]
    if offline or constants.HF_HUB_OFFLINE or not can_reach(constants.ENDPOINT):
        why = "the network is switched off" if offline or constants.HF_HUB_OFFLINE else "that cannot be reached"
        raise DataError(
            f"{repository}: its {FILE_NAME} is not in {constants.HF_HUB_CACHE} and comes from {constants.ENDPOINT}: "
            f"{why}. Go online once, {ways_out}."
        )
    try:
        with suppress(EntryNotFoundError):  # not every repository has what names the end of text beside its tokenizer;
            _download(repository, CONFIG_FILE_NAME, revision)  # it comes first: a tokenizer in the cache is complete
        return _download(repository, FILE_NAME, revision)
    except DataError:
        raise
    except Exception as error:  # of huggingface_hub, or of any library below it
        raise DataError(_explanation(error, repository, revision)) from error


def _download(repository: str, name: str, revision: str) -> Path:
    """Return a file of a repository, in the cache. Raises DataError when its bytes are not the repository's."""
    expected = _patiently(lambda: get_hf_file_metadata(hf_hub_url(repository, name, revision=revision))).etag or ""
    file = Path(hf_hub_download(repository, name, revision=revision))
    if _checksum(file.read_bytes(), like=expected) != expected:
        file.resolve().unlink()
        file.unlink(missing_ok=True)
        raise DataError(
            f"{name} of {repository} arrived with the wrong bytes, and was deleted: run the command again. If that "
            f"does not help, what stands between you and {constants.ENDPOINT} changes what it passes on."
        )
    return file


def _checksum(content: bytes, *, like: str) -> str:
    """Return the checksum by which the Hub knows a file: Git's for a small one, sha256 for a large one."""
    if len(like) == 2 * sha256().digest_size:
        return sha256(content).hexdigest()
    if len(like) == 2 * sha1().digest_size:
        return sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return like  # another kind of host, which says nothing of the content


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """Return the Hub's answer, asking again a few times while it is busy."""
    for wait in WAITS:
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in BUSY:
                raise
        time.sleep(wait)
    return ask()


def _explanation(error: Exception, repository: str, revision: str) -> str:
    """Return why a tokenizer could not be downloaded, and what to do."""
    address, logged_in = constants.ENDPOINT, get_token() is not None
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        then = "wait until they let you in" if logged_in else log_in
        agree = f"Agree at {address}/{repository}, then {then}."
        return f"{repository} is gated: its authors want to know who uses it. {agree}"
    if isinstance(error, RepositoryNotFoundError):
        private = "it is private and your account may not see it" if logged_in else f"it is private: {log_in}"
        return f"there is no repository {repository} at {address}, or {private}."
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision '{revision}'. Take a branch, a tag or a commit of {address}/{repository}"
    if isinstance(error, EntryNotFoundError):
        return (
            f"{repository} has no {FILE_NAME}, the one format of a tokenizer that tfs reads. "
            f"See at {address}/{repository} whether it belongs to another model that has one."
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code in BUSY:
        return f"{repository}: {address} is busy (it answers {error.response.status_code}). Try again in a while."
    said = " ".join(str(error).split())
    return f"{repository} could not be had from {address}: {type(error).__name__}: {said[:300]}"
