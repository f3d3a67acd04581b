"""Access to the Hugging Face Hub: reachability check, retries with backoff, and explanations of its errors."""

import errno
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from types import ModuleType
from typing import TypeVar

from tfs_core.data.network import can_reach
from tfs_core.errors import DataError
from tfs_core.plugins import did_you_mean
from tfs_core.progress import progress
from tfs_datasets.needed import need

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

Report = Callable[[str], None]
"""A callback for messages, one line each."""

BACKOFF_SECONDS = (1.0, 2.0, 4.0)
"""Delay before each retry while the Hub is busy or cannot be reached."""

ANSWER_SECONDS = 10.0
"""Timeout of the first request, for a host that accepts connections and never answers."""

BUSY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Values of `OSError.errno` that mean a problem of the local disk, not of the Hub."""


def endpoint() -> str:
    """Return the URL of the Hub. Raises DataError when its client libraries are not installed.

    It silences their warnings, which tfs reports in its own words, and their progress bars, unless the environment
    variable HF_HUB_VERBOSITY or DATASETS_VERBOSITY is set.
    """
    for package in ("huggingface_hub", "datasets"):
        need(package, for_what="data sets of the Hugging Face Hub", extra="hub")
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    for library, variable in (("huggingface_hub", "HF_HUB_VERBOSITY"), ("datasets", "DATASETS_VERBOSITY")):
        if variable not in os.environ:
            logging.getLogger(library).setLevel(logging.ERROR)
    disable_progress_bars()
    return str(constants.ENDPOINT)


def import_datasets() -> ModuleType:
    """Return the library `datasets`, imported without its progress bars."""
    import datasets

    datasets.disable_progress_bars()
    return datasets


def waiting_for(what: str, request: Callable[[], Answer]) -> Answer:
    """Return the answer to a request that takes long within a library: visible as progress, and ended by Ctrl-C."""
    answer: Future[Answer] = Future()

    def ask() -> None:
        try:
            answer.set_result(request())
        except BaseException as error:  # raised by `result` below
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    with progress(what, unit="files") as advance:
        while True:
            try:
                return answer.result(timeout=0.1)
            except TimeoutError:
                if answer.done():
                    raise
                advance(0)


def why_unreachable(*, offline: bool) -> str:
    """Return the reason why the Hub cannot be reached, empty if it can. Takes less than a second."""
    address = endpoint()
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        return "the network is switched off (HF_HUB_OFFLINE)"
    return "" if can_reach(address) else f"{address} cannot be reached"


def with_retries(
    request: Callable[[], Answer], what: str, *, report: Report = log.warning, size: Callable[[], int] = lambda: 0
) -> Answer:
    """Return the answer to a request about `what`, such as a data set.

    While the Hub is busy, cannot be reached or drops connections, the request is repeated a few times. The count starts
    again whenever `size`, that of an unfinished download, has grown.
    """
    delays, done = iter(BACKOFF_SECONDS), size()
    while True:
        try:
            return request()
        except Exception as error:  # raised by huggingface_hub, or by `datasets` around it
            is_damaged = _among(_causes(error), json.JSONDecodeError)
            reason = f"{endpoint()} sent a damaged answer" if is_damaged else _temporary_problem(error)
            if size() > done:
                delays, done = iter(BACKOFF_SECONDS), size()
            seconds = next(delays, None)
            if not reason or seconds is None:
                raise
        report(f"{what}: {reason}. Trying again in {seconds:g} s.")
        time.sleep(seconds)


def _temporary_problem(error: BaseException) -> str:
    """Return a description of an error that a repeated request may not meet again; empty for any other error."""
    if status := _busy_status(error):
        return f"{endpoint()} is busy (HTTP {status})"
    if _is_network_error(error):
        return f"the connection to {endpoint()} failed ({_first_line(error)})"
    return ""


def _is_network_error(error: BaseException) -> bool:
    """Return whether the connection could not be made, was dropped, or timed out."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    causes = _causes(error)
    if _among(causes, OfflineModeIsEnabled):
        return False
    # The HTTP library, httpx or a fork of it, depends on the version of huggingface_hub.
    names = {base.__name__ for cause in causes for base in type(cause).__mro__}
    return "TransportError" in names or _among(causes, ConnectionError) or _among(causes, TimeoutError)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")


def _busy_status(error: BaseException) -> int | None:
    """Return the HTTP status of the error if it means that the Hub is busy; None for any other error."""
    from huggingface_hub.errors import HfHubHTTPError

    statuses = [cause.response.status_code for cause in _causes(error) if isinstance(cause, HfHubHTTPError)]
    return next((status for status in statuses if status in BUSY_STATUSES), None)


def commit_of(path: str, revision: str) -> str:
    """Return the commit of a revision of a data set. This is the first request to the Hub, so it has a timeout."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    information = with_retries(
        lambda: api.repo_info(path, repo_type="dataset", revision=revision, timeout=ANSWER_SECONDS), path
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
    if _among(causes, errors.OfflineModeIsEnabled):
        return f"{path}: the network is switched off (HF_HUB_OFFLINE). Switch it on, and try again."
    if problem := _temporary_problem(error):
        return f"{path}: {problem}. Try again later."
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
