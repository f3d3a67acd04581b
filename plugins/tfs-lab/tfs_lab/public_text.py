"""Removal of secrets, host names, user names and home folders from text that is made to be sent to others."""

import getpass
import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

HIDDEN = "[not shown]"

PUBLIC_HOSTS = {"huggingface.co", "download.pytorch.org", "pypi.org", "127.0.0.1", "localhost"}
"""Hosts that a URL may name; any other may be internal to an organization."""

MIN_SECRET_CHARACTERS = 4
"""Shorter values of secret variables, such as `1`, are not searched for in other text."""

_SECRET_NAME = re.compile(r"token|secret|passw|key|credential|auth|proxy|cookie", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\b(?:sk-|hf_|ghp_|gho_|github_pat_|glpat-|xox[bp]-|AKIA)[A-Za-z0-9_-]{8,}")
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*)://[^\s'\"<>]+")
_CREDENTIALS = re.compile(r"[^\s/@:]+:[^\s/@]+@")
_OTHER_HOME = re.compile(r"(?:/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\s'\":;,]+")
_PATH_OR_ADDRESS = re.compile(r"\S*[/\\@]\S*")


def is_secret(variable: str) -> bool:
    """Return whether the value of an environment variable of this name must not be shown."""
    return _SECRET_NAME.search(variable) is not None


def public_text(text: str) -> str:
    """Return the text without secrets, URLs of other hosts, home folders, user name and host name."""
    for variable, value in os.environ.items():
        if is_secret(variable) and len(value) >= MIN_SECRET_CHARACTERS:
            text = text.replace(value, HIDDEN)
    text = _CREDENTIALS.sub(f"{HIDDEN}@", _URL.sub(_public_url, _SECRET_VALUE.sub(HIDDEN, text)))
    home = str(Path.home())
    if len(home) > 1:  # a system user may have `/`
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    text = _OTHER_HOME.sub("~", text)
    if user := _user_name():
        text = _PATH_OR_ADDRESS.sub(lambda match: _without_word(match[0], user, "[user]"), text)
    host = socket.gethostname()
    for name in (host, host.partition(".")[0]):
        if name not in ("", "localhost"):
            text = _without_word(text, name, "[host]")
    return text


def _public_url(match: re.Match[str]) -> str:
    """Return a URL without user, password, query and fragment, and without any host that is not public."""
    try:
        url = urlsplit(match[0])
        host, port = url.hostname, url.port
    except ValueError:
        return f"{match[1]}://{HIDDEN}"
    if host not in PUBLIC_HOSTS:
        return f"{match[1]}://{HIDDEN}"
    return f"{match[1]}://{host}{f':{port}' if port else ''}{url.path}"


def _user_name() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # the system does not know the user
        return None


def _without_word(text: str, word: str, replacement: str) -> str:
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", replacement, text)
