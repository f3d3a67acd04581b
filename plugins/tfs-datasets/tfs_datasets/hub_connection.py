"""The Hugging Face Hub from outside: whether it is there, what to do when it is busy, and what its refusals mean."""

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

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further attempt when the Hub says that it is busy."""

ANSWER_SECONDS = 10.0
"""The first question is given up after so long: a host that takes connections and says nothing is no Hub."""

BUSY = frozenset({408, 429, 500, 502, 503, 504})

OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Numbers of an OSError when something is wrong with this machine's disk, and not with the Hub."""


def endpoint() -> str:
    """Return the address of the Hub. Raises DataError when its libraries are not installed."""
    for package in ("huggingface_hub", "datasets"):
        need(package, for_what="data sets of the Hugging Face Hub", extra="hub")
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def why_unreachable(*, offline: bool) -> str:
    """Return why the Hub cannot be asked, "" when it can; the answer takes less than a second."""
    address = endpoint()
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        return "the network is switched off (HF_HUB_OFFLINE)"
    return "" if can_reach(address) else f"{address} cannot be reached"


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Return the Hub's answer, asking again a few times while it is busy."""
    for wait in WAITS:
        try:
            return ask()
        except Exception as error:  # of huggingface_hub, or of `datasets` around it
            if not _busy_status(error):
                raise
        time.sleep(wait)
    return ask()


def _busy_status(error: BaseException) -> int | None:
    """Return the HTTP status by which the Hub said that it is busy, None when something else is wrong."""
    from huggingface_hub.errors import HfHubHTTPError

    statuses = [cause.response.status_code for cause in _causes(error) if isinstance(cause, HfHubHTTPError)]
    return next((status for status in statuses if status in BUSY), None)


def commit_of(path: str, revision: str) -> str:
    """Return the commit that a revision of a data set is: the first question, which shows whether the Hub answers."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    information = patiently(lambda: api.repo_info(path, repo_type="dataset", revision=revision, timeout=ANSWER_SECONDS))
    return str(information.sha)


@contextmanager
def refusals_explained(path: str, *, revision: str, config: str | None) -> Iterator[None]:
    """Turn what the libraries raise when a data set cannot be had into a DataError that says what to do."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # of huggingface_hub, datasets, or of any library below them
        raise DataError(_explanation(error, path, revision=revision, config=config)) from error


def _explanation(error: BaseException, path: str, *, revision: str, config: str | None) -> str:
    from huggingface_hub import errors, get_token

    address, logged_in = endpoint(), get_token() is not None
    causes = _causes(error)
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    said = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return f"{path}: what arrives cannot be written here: {said}. Make room, or choose another place with --assets."
    if _among(causes, errors.GatedRepoError) or "is a gated dataset" in said:  # `datasets` hides the cause
        then = "wait until they let you in" if logged_in else log_in
        return (
            f"{path} is gated: its authors want to know who uses it. Agree at {address}/datasets/{path}, then {then}."
        )
    if _among(causes, errors.RevisionNotFoundError):
        return f"{path} has no revision '{revision}'. Take a branch, a tag or a commit of {address}/datasets/{path}"
    if _among(causes, errors.RepositoryNotFoundError):
        private = "it is private and your account may not see it" if logged_in else f"it is private: {log_in}"
        return f"there is no data set {path} at {address}, or {private}."
    if listed := re.search(r"(?:[Aa]vailable|configs): \[(.*?)\]", said):
        configs = re.findall(r"'([^']+)'", listed[1])
        if config is None:
            return f"{path} has several configurations. Choose one by `config`: {', '.join(configs)}."
        return (
            f"{path} has no configuration '{config}'.{did_you_mean(config, configs)} There are: {', '.join(configs)}."
        )
    if status := _busy_status(error):
        return f"{path}: {address} is busy (it answers {status}). Try again in a while."
    return f"{path} could not be had from {address}: {type(error).__name__}: {said[:300]}"


def _causes(error: BaseException | None) -> list[BaseException]:
    """Return an error and the ones that led to it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _among(causes: list[BaseException], kind: type[BaseException]) -> bool:
    return any(isinstance(cause, kind) for cause in causes)
