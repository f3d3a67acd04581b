"""Reading and writing YAML, with the place (file and line) of every key, and a list of problems.

Scalars follow YAML 1.2's core schema: `3e-4` is a number, `yes`, `no`, `on`, `off`, `1:30` and `2026-01-31` are text,
and `true` and `false` are the only booleans. (PyYAML follows YAML 1.1, with the opposite result for each of these
examples.) Duplicate keys and tags such as `!!python/name` are errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tfs_core.errors import CheckpointError, ConfigError
from tfs_core.stored_json import MAX_DEPTH, read_bytes
from tfs_core.terminal import escape_control_characters

Key = tuple[str | int, ...]
"""The path of a value in a configuration: `("loggers", 0, "every")`, which `dotted` writes as `loggers.0.every`."""

MAX_BYTES = 1 << 18
"""Limit on the size of a YAML file, a hundred times its usual size: PyYAML takes 30 seconds for a megabyte."""

MAX_VALUES = 100_000
"""Limit on the number of values: nested YAML aliases can expand exponentially and exhaust the memory."""


def dotted(key: Key) -> str:
    """Return the key in dotted form: `training.batch_size`."""
    return ".".join(map(str, key))


def show(value: object) -> str:
    """Return a value for an error message: at most 80 characters, on one line, control characters escaped."""
    match value:
        case None | bool():
            return json.dumps(value)
        case dict():
            return "a mapping"
        case list():
            return "a list" if value else "an empty list"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of many digits"  # Python refuses to print thousands of them
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}...{text[-1]}"


class Invalid(Exception):  # noqa: N818 (caught inside this package; users see the ConfigError of `raise_problems`)
    """Raised for an invalid value, after its problem was added to the document."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place in a file or on the command line where a key is written."""

    source: str
    """The file, by the name that the user gave, or `--set`, `--model`, `configuration`."""

    base: Path
    """The absolute folder to which paths at this place are relative."""

    line: int | None = None
    """The line number, from 1; None outside a file."""

    order: tuple[int, ...] = ()
    """Sort key: the file from top to bottom, then the command line."""

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass
class Document:
    """A parsed configuration, not yet validated."""

    values: Any
    """A mapping; for the document of a single `--set`, a value of any type."""

    places: dict[Key, Place]
    problems: list[tuple[Place, str]] = field(default_factory=list)
    owners: Mapping[str, str] = field(default_factory=dict)
    """{"<kind> <name>": distribution}, for names that several distributions have: recorded by the run, if any."""

    moot: dict[Key, str] = field(default_factory=dict)
    """Settings of the file that lost their effect by the command line, each with the reason."""

    def place(self, key: Key) -> Place:
        """Return the place of the key, or else the place of the innermost enclosing section with a known place."""
        while key not in self.places:
            key = key[:-1]
        return self.places[key]

    def forget(self, key: Key) -> None:
        """Remove the places of a key and of all keys below it."""
        self.places = {known: place for known, place in self.places.items() if known[: len(key)] != key}

    def problem(self, key: Key, message: str, place: Place | None = None) -> Invalid:
        """Add a problem; return an exception to raise. `message` comes after the key: ` is missing`, `: expected x`."""
        self.problems.append((place or self.place(key), f"{dotted(key)}{message}".removeprefix(": ")))
        return Invalid()

    def makes_moot(self, cause: Key, key: Key) -> bool:
        """Return whether the setting `cause` is from the command line, and the setting `key` from a file."""
        return self.place(cause).order[:1] == (1,) and self.place(key).order[:1] == (0,)

    def raise_problems(self) -> None:
        """Raise one ConfigError with all problems, one per line, in the order of their places, if there are any."""
        ordered = sorted(self.problems, key=lambda problem: problem[0].order)
        if ordered:
            raise ConfigError("\n".join(dict.fromkeys(f"{place}: {message}" for place, message in ordered)))


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML reads it from the class; not shared with SafeLoader)


class _Dumper(yaml.SafeDumper):
    """A dumper whose output means the same in YAML 1.1 and 1.2: text that looks like another type is quoted."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Indent lists inside mappings."""
        super().increase_indent(flow, False)

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Return the node of a text, in double quotes if it contains a character that YAML or `say` would change."""
        style = '"' if re.search("[\x85\u2028\u2029]", text) or escape_control_characters(text) != text else None
        return self.represent_scalar(f"{TAGS}str", text, style)


TAGS = "tag:yaml.org,2002:"
SCALARS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", lambda text: None),  # noqa: ARG005
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", lambda text: int(text, 0 if text[:2] in ("0o", "0x") else 10)),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        lambda text: float(re.sub(r"\.(inf|nan)$", r"\1", text.lower())),
    ),
}
"""Types of plain scalars: {tag: (pattern, conversion)}. The first match decides; otherwise the scalar is text."""

_Dumper.add_representer(str, _Dumper.represent_text)
for _name, (_pattern, _) in SCALARS.items():
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"{TAGS}{_name}", re.compile(rf"(?:{_pattern})$"), None)


def read_yaml(path: Path) -> Document:
    """Parse a YAML file. Raises ConfigError when it cannot be read, or is not a YAML mapping in UTF-8.

    Problems of single keys are in the document's `problems`.
    """
    try:
        data = read_bytes(path, limit=MAX_BYTES)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: this is not UTF-8: save the file in that encoding") from None
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    except (OSError, ValueError) as error:  # ValueError: the path has a null character
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from None
    document = read_text(text, Place(source=str(path), base=path.absolute().parent, line=1, order=(0,)))
    if document.values is None:
        raise ConfigError(f"{path}: the file is empty: expected settings, such as 'experiment_name: first'")
    if not isinstance(document.values, dict):
        found = "a list" if isinstance(document.values, list) else f"only {show(document.values)}"
        raise ConfigError(f"{path}:1: expected settings, such as 'experiment_name: first', not {found}")
    return document


def read_text(text: str, place: Place, key: Key = ()) -> Document:
    """Parse YAML text; `key` is its position in the configuration. The value may be of any type.

    Raises ConfigError when the text is not YAML.
    """
    document = Document(values=None, places={key: place})
    try:
        node = _Loader(text).get_single_node()
        if node is not None:
            document.values = _value(node, key, (), document, place)
        return document
    except yaml.MarkedYAMLError as error:
        never_closed = error.context_mark is not None and "stream" in (error.problem or "")
        place = _at(place, error.context_mark if never_closed else error.problem_mark)
        message = f"not YAML: {_syntax(error)}"
    except yaml.reader.ReaderError as error:
        place = place if place.line is None else replace(place, line=text.count("\n", 0, error.position) + 1)
        message = f"not YAML: the character U+{error.character:04X} is not allowed"
    except RecursionError:
        message = "nested too deeply"
    raise ConfigError(f"{place}: {dotted(key)}: {message}" if key else f"{place}: {message}")


def write_yaml(values: Any) -> str:
    """Return plain values as YAML; reading it gives equal values. Raises ValueError for other values."""
    try:
        text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    except yaml.representer.RepresenterError as error:
        raise ValueError(f"{error.args[-1]!r:.80} cannot be written as YAML") from None
    return text


def _value(node: yaml.Node, key: Key, around: tuple[yaml.Node, ...], document: Document, root: Place) -> Any:
    """Return the value of a node, and add its places and problems to the document; `around` are the enclosing nodes."""
    if node in around:
        raise yaml.composer.ComposerError(None, None, "an alias contains itself", node.start_mark)
    if len(document.places) > MAX_VALUES:
        raise yaml.composer.ComposerError(None, None, f"more than {MAX_VALUES} values", node.start_mark)
    if len(around) > MAX_DEPTH:
        raise RecursionError
    tag = node.tag.removeprefix(TAGS)
    unsupported = f": the tag {node.tag.replace(TAGS, '!!')} is not supported"
    if isinstance(node, yaml.ScalarNode):
        if tag == "str":
            return node.value
        if tag not in SCALARS:
            document.problem(key, f"{unsupported}: write a plain value")
            return node.value
        try:
            return SCALARS[tag][1](node.value)
        except ValueError:  # such as !!int "x", or an integer with thousands of digits
            document.problem(key, f": cannot be read as {tag}")
            return None

    if tag not in ("map", "seq"):
        document.problem(key, unsupported)
    if isinstance(node, yaml.SequenceNode):
        items = [(index, item, item) for index, item in enumerate(node.value)]
    else:
        items = [(name.value, name, item) for name, item in node.value]
    values: dict[str | int, Any] = {}
    for name, name_node, item in items:
        inner, place = (*key, name), _at(root, name_node.start_mark)
        if isinstance(name, list):  # a list of nodes: the key is a list or a mapping
            document.problem(key, ": a key must be a word, not a list or a mapping", place)
        elif name in values:
            line = document.places[inner].line
            first = "" if line is None else f"; the first is on line {line}"
            document.problem(inner, f" is given twice{first}. Remove one of them", place)
        else:
            document.places[inner] = place
            values[name] = _value(item, inner, (*around, node), document, root)
    return list(values.values()) if isinstance(node, yaml.SequenceNode) else values


def _at(place: Place, mark: yaml.Mark | None) -> Place:
    """Return the place of a YAML mark (line, column); `place` is where the marked text begins."""
    if place.line is None or mark is None:
        return place
    return replace(place, line=mark.line + 1, order=(0, mark.line, mark.column))


def _syntax(error: yaml.MarkedYAMLError) -> str:
    """Return PyYAML's error message, or advice for the two most common mistakes."""
    problem, context = error.problem or "", error.context or ""
    if "'\\t'" in problem:
        return "a tab; indent with spaces"
    if "mapping values are not allowed" in problem:
        return "a ':' where none is expected. Check the indentation, and quote text that holds ': '"
    return f"{context}, {problem}" if problem.startswith("but") else f"{problem} {context}".strip()
