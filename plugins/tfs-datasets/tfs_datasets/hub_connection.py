"""Access to the Hugging Face Hub: reachability check, retries with backoff, and explanations of its errors."""

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tfs_core.data.network import can_reach
from tfs_core.errors import DataError
from tfs_core.plugins import did_you_mean
from tfs_datasets.needed import need

Answer = TypeVar("Answer")

BACKOFF_SECONDS = (1.0, 2.0, 4.0)
"""Delay before each retry while the Hub is busy."""

ANSWER_SECONDS = 10.0
"""Timeout of the first request, for a host that accepts connections and never answers."""

BUSY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Values of `OSError.errno` that mean a problem of the local disk, not of the Hub."""


def endpoint() -> str:
    """Return the URL of the Hub. Raises DataError when its client libraries are not installed."""
    for package in ("huggingface_hub", "datasets"):
        need(package, for_what="data sets of the Hugging Face Hub", extra="hub")
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def why_unreachable(*, offline: bool) -> str:
    """Return the reason why the Hub cannot be reached, empty if it can. Takes less than a second."""
    address = endpoint()
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        return "the network is switched off (HF_HUB_OFFLINE)"
    return "" if can_reach(address) else f"{address} cannot be reached"


def retry_while_busy(request: Callable[[], Answer]) -> Answer:
    """Return the answer to a request, with a few retries while the Hub is busy."""
    for seconds in BACKOFF_SECONDS:
        try:
            return request()
        except Exception as error:  # raised by huggingface_hub, or by `datasets` around it
            if not _busy_status(error):
                raise
        time.sleep(seconds)
    return request()


def _busy_status(error: BaseException) -> int | None:
    """Return the HTTP status of the error if it means that the Hub is busy; None for any other error."""
    from huggingface_hub.errors import HfHubHTTPError

    statuses = [cause.response.status_code for cause in _causes(error) if isinstance(cause, HfHubHTTPError)]
    return next((status for status in statuses if status in BUSY_STATUSES), None)


def commit_of(path: str, revision: str) -> str:
    """Return the commit of a revision of a data set. This is the first request to the Hub, so it has a timeout."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    information = retry_while_busy(
        lambda: api.repo_info(path, repo_type="dataset", revision=revision, timeout=ANSWER_SECONDS)
    )
    return str(information.sha)


@contextmanager
def hub_errors_explained(path: str, *, revision: str, config: str | None) -> Iterator[None]:
    """Convert the exceptions of the Hub's client libraries into a DataError that says what to do."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # raised by huggingface_hub, datasets, or a library below them
        raise DataError(_explanation(error, path, revision=revision, config=config)) from error


def _explanation(error: BaseException, path: str, *, revision: str, config: str | None) -> str:
    from huggingface_hub import errors, get_token

    address, logged_in = endpoint(), get_token() is not None
    causes = _causes(error)
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    said = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return f"{path}: the download cannot be written: {said}. Make room, or choose another place with --assets."
    if _among(causes, errors.GatedRepoError) or "is a gated dataset" in said:  # `datasets` hides the cause
        then = "wait for the authors to grant you access" if logged_in else log_in
        return f"{path} is gated. Accept its terms at {address}/datasets/{path}, then {then}."
    if _among(causes, errors.RevisionNotFoundError):
        return f"{path} has no revision '{revision}'. Choose a branch, tag or commit of {address}/datasets/{path}"
    if _among(causes, errors.RepositoryNotFoundError):
        private = "it is private and your account has no access" if logged_in else f"it is private: {log_in}"
        return f"there is no data set {path} at {address}, or {private}."
    if listed := re.search(r"(?:[Aa]vailable|configs): \[(.*?)\]", said):
        configs = re.findall(r"'([^']+)'", listed[1])
        if config is None:
            return f"{path} has several configurations. Choose one with `config`: {', '.join(configs)}."
        hint = did_you_mean(config, configs)
        return f"{path} has no configuration '{config}'.{hint} Configurations: {', '.join(configs)}."
    if status := _busy_status(error):
        return f"{path}: {address} is busy (HTTP {status}). Try again later."
    return f"{path} could not be loaded from {address}: {type(error).__name__}: {said[:300]}"


def _causes(error: BaseException | None) -> list[BaseException]:
    """Return an exception and the chain of its causes."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _among(causes: list[BaseException], kind: type[BaseException]) -> bool:
    return any(isinstance(cause, kind) for cause in causes)
