"""Reading of files that tfs wrote: regular files of limited size, and JSON of an expected shape and version.

A folder of runs, checkpoints or tokens may come from a stranger, or be damaged. Whatever a file holds, reading it ends
with values of the expected types or with a CheckpointError that names the file, in bounded time and memory.

A shape describes JSON values:

    int                       a whole number from 0 to 2**63 - 1
    range(1, 9)               a whole number from 1 to 8
    {"cpu", "cuda"}           one of these texts
    float, str, bool, dict    a number, a text, a truth value, any object
    None, object              null, anything
    (int, None)               one of several shapes
    [str]                     a list of texts
    {"step": int}             an object with this key; further keys are ignored
    {"step?": int}            the key may be missing
    {str: int}                an object whose values are all whole numbers
"""

import json
import math
import os
import re
from pathlib import Path
from stat import S_ISREG
from typing import Any, NoReturn

from tfs_core.durable import NO_WAITING
from tfs_core.errors import CheckpointError, NewerFormatError

MAX_DEPTH = 50
"""Limit on the nesting of JSON, several times that of any file of tfs: much deeper values cannot be written again."""


def read_bytes(path: Path, *, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises OSError, and CheckpointError otherwise."""
    descriptor = os.open(path, os.O_RDONLY | NO_WAITING)
    with open(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not S_ISREG(state.st_mode):
            raise CheckpointError(f"{path} is not a regular file, so it is not read")
        content = b"" if state.st_size > limit else file.read(limit + 1)
        if max(state.st_size, len(content)) > limit:
            raise CheckpointError(f"{path} has more than {limit:,} bytes, so it is not read")
    return content


def read_json(path: Path, shape: Any, *, limit: int = 1 << 24, version: int | None = None) -> Any:
    """Return the JSON value in a file of at most `limit` bytes, after a comparison with its shape.

    With `version`, the value is an object whose `format_version` must be this one. Raises NewerFormatError for a higher
    version, and CheckpointError for a file that is missing, not JSON, or of another shape.
    """
    try:
        value = parse_json(read_bytes(path, limit=limit))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if version is not None:
        found = value.get("format_version") if isinstance(value, dict) else None
        if type(found) is int and found > version:
            raise NewerFormatError(f"{path} has format {found}, and this tfs reads format {version}: upgrade tfs")
        if type(found) is not int or found != version:
            raise CheckpointError(f"{path} is damaged: its format_version is {found!r:.40}, not {version}")
    if problem := difference(value, shape):
        raise CheckpointError(f"{path} is damaged: {problem}")
    return value


def parse_json(content: bytes) -> Any:
    """Return the value of strict JSON in UTF-8. Raises ValueError, whatever the content is."""
    try:
        value = _decode(content.decode("utf-8"))
        if content.count(b"[") + content.count(b"{") > MAX_DEPTH and _is_deep(value):
            raise RecursionError
        if re.search(rb"\\u[dD][89a-fA-F]", content):  # half of a character: text that cannot be written again
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [item for inner in level for item in (inner.values() if isinstance(inner, dict) else inner)]
        level = [item for item in level if isinstance(item, dict | list)]
    return bool(level)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it contains {name}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.40} is too large")
    return number


_decode = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite).decode


def difference(value: Any, shape: Any, place: str = "") -> str:
    """Return where and how a JSON value differs from a shape, as a sentence; an empty string if it does not."""
    here = place or "its content"
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{here} is not an object"
        for key, inner in shape.items():
            if key is str:
                found = [difference(item, inner, f"{place}.{name:.40}".lstrip(".")) for name, item in value.items()]
                if problem := next(filter(None, found), ""):
                    return problem
                continue
            name = key.removesuffix("?")
            if name not in value:
                if key == name:
                    return f"{name!r} is missing" + (f" in {place}" if place else "")
            elif problem := difference(value[name], inner, f"{place}.{name}".lstrip(".")):
                return problem
        return ""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{here} is not a list"
        items = (difference(item, shape[0], f"{place}.{index}".lstrip(".")) for index, item in enumerate(value))
        return next(filter(None, items), "")
    if isinstance(shape, tuple):
        found = [difference(value, inner, place) for inner in shape]
        return found[0] if all(found) else ""
    if isinstance(shape, range | set):
        fits = type(value) is (int if isinstance(shape, range) else str) and value in shape
        return "" if fits else f"{here} is {value!r:.40}, not in {shape}"
    if shape is int:
        fits = type(value) is int and 0 <= value < 1 << 63
    elif shape is float:
        fits = type(value) is float or (type(value) is int and abs(value) < 1 << 63)
    else:
        fits = value is None if shape is None else isinstance(value, shape)
    return "" if fits else f"{here} is {value!r:.40}, not {_NAMES.get(shape, 'null')}"


_NAMES = {
    int: "a whole number from 0 on",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}
