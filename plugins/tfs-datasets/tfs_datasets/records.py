r"""The text of records of `jsonl`, `csv` and `parquet`: the value of a dotted key, or keys that a template writes.

A record is a JSON value: a dict, a list, text, a number, a truth value or None.

    key       of a dict; `meta.text` is the key `text` of the dict under `meta`, unless there is a key `meta.text`.
              A list within a key is read item by item. `*` stands for each item of a list, or is the list of the
              values of a dict.
    template  text with keys in braces, such as "{role}: {content}\n"; `{}` is the value itself, `{{` a brace.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tfs_core.plugins import did_you_mean
from tfs_datasets.bad_input import SKIP
from tfs_datasets.template import template_parts

MAX_DEPTH = 10
MAX_ITEMS = 20
MAX_KEYS = 20
"""Limits of the keys that an error message names: their depth, the values of a list or object, their number."""

FEWEST_IDS = 3
"""Number of objects in an object from which on its keys are taken for ids, and are named `*`."""

WHOLE = "."
"""The key that stands for the record itself, or for all records of a file."""

SPEAKER_KEYS = (
    *("role", "from", "author.name", "sender", "sender_name", "speaker", "author", "user", "name"),
    *("author.role", "message.author.role"),
)
MESSAGE_KEYS = ("content", "value", "text", "message", "body", "content.parts", "message.content.parts")
"""Usual keys of messages, for the template that an error message proposes."""


@dataclass(frozen=True)
class OtherValue:
    """A value of a type that holds no text."""

    type_name: str


class Found(Protocol):
    """Passes on invalid input."""

    def __call__(self, message: str, *, advice: str = SKIP) -> None:
        """Pass on a message such as "line 3 has no key 'text'", and the advice for a user who wants to read it."""


class UnreadableValueError(ValueError):
    """A value that cannot be read as text, with advice."""

    def __init__(self, problem: str, advice: str = SKIP) -> None:
        super().__init__(problem)
        self.advice = advice


class RecordText:
    """The documents of a record: the value of `key`, written by `template` if there is one.

    Without a key, the value is the record itself. Error messages call the option that chooses the key `setting`, and
    the key a `noun`.
    """

    def __init__(self, key: str | None, template: str | None, *, setting: str, noun: str = "key") -> None:
        self._key, self._setting, self._noun = key, setting, noun
        self._keys = () if key in (None, WHOLE) else tuple(str(key).split("."))
        self._template = None if template is None else Template(template)
        self._has_read = False  # then the options fit the files, and invalid records are exceptions

    def documents(self, record: Any, place: str, found: Found) -> Iterator[str]:
        """Iterate over the documents of the record at a place such as "line 3"; null is an empty document.

        A document that is invalid, and an item of a list that the template cannot write, are passed to `found`.
        """

        def unreadable(place: str, error: UnreadableValueError) -> None:
            found(f"{place} {error}", advice=SKIP if self._has_read else error.advice)

        def missing(place: str) -> None:
            unreadable(place, self._missing(record))

        try:
            for value_place, value in values_at(record, self._keys, place, missing):
                try:
                    document = self._document(value, value_place, unreadable)
                except UnreadableValueError as error:
                    unreadable(value_place, error)
                else:
                    if document is not None:
                        self._has_read = True
                        yield document
        except RecursionError:
            found(f"{place} is nested too deeply")

    def first_keys(self, names: Sequence[str]) -> list[str]:
        """Return those keys of a record, among `names`, that hold what the documents are made of."""
        keys = self._template.keys() if self._key is None and self._template is not None else [str(self._key)]
        if any(key in ("", WHOLE) or key.startswith("*") for key in keys):
            return list(names)
        return [name for name in names if any(f"{key}.".startswith(f"{name}.") for key in keys)]

    def _document(self, value: Any, place: str, unreadable: Callable[[str, UnreadableValueError], None]) -> str | None:
        """Return the document of a value, without the items of a list that cannot be read; None if none of them can."""
        if value is None:
            return ""
        if self._template is None:
            return checked(self._text(value))
        if not isinstance(value, list):
            return checked(self._template.written(value))
        parts = []
        for number, item in enumerate(value, start=1):
            try:
                parts.append(checked(self._template.written(item)))
            except UnreadableValueError as error:
                unreadable(f"{place}, item {number}", error)
        return "".join(parts) if parts or not value else None

    def _text(self, value: Any) -> str:
        """Return a value that is text. Raises UnreadableValueError with the settings that would read another one."""
        if isinstance(value, str):
            return value
        problem = f"holds {kind_of(value)} under '{self._key}', not text"
        if isinstance(value, list) and value:
            advice = f"To join its items, set {template_for(value)}"
            if all(isinstance(item, str) for item in value):
                advice += f"; to read each as a document, {self._setting}: {self._key}.*"
            raise UnreadableValueError(problem, advice)
        if isinstance(value, dict) and (keys := text_keys(value, str(self._key))):
            raise UnreadableValueError(problem, f"Set {self._setting} to a key that holds text: {', '.join(keys)}.")
        raise UnreadableValueError(problem)

    def _missing(self, record: Any) -> UnreadableValueError:
        """Return the error for a record without the key, with the settings that would read it."""
        if isinstance(record, str):
            advice = f'To read it, set {self._setting}: null and template: "{{}}"'
            return UnreadableValueError("is text, not an object with keys", advice)
        if not isinstance(record, dict | list):
            return UnreadableValueError(f"is {kind_of(record)}, not an object such as {{{json.dumps(self._key)}: ...}}")
        keys = text_keys(record)
        if not keys:
            return UnreadableValueError(f"has no {self._noun} '{self._key}', and none of its {self._noun}s holds text")
        if self._key in keys:
            return UnreadableValueError(f"has no {self._noun} '{self._key}', which items beside it have")
        more = " and more" if len(keys) == MAX_KEYS else ""
        problem = f"has no {self._noun} '{self._key}'. Its {self._noun}s that hold text: {', '.join(keys)}{more}"
        if meant := did_you_mean(str(self._key), keys):
            return UnreadableValueError(problem, f"{meant.strip()} Set {self._setting} to it.")
        if lists := list(itertools.islice(object_lists(record), MAX_ITEMS)):
            key, items = max(lists, key=lambda found: not set(MESSAGE_KEYS).isdisjoint(text_keys(found[1])))
            advice = f"To join the items of '{key}', set {self._setting}: {key} and {template_for(items)}"
            return UnreadableValueError(problem, advice)
        advice = advice_to_choose(self._setting, keys)
        if self._noun == "key" and set(keys) & set(SPEAKER_KEYS) and set(keys) & set(MESSAGE_KEYS):
            advice = f"To join the messages of a file, set {self._setting}: {WHOLE} and {template_for([record])}"
        return UnreadableValueError(problem, advice)


class Template:
    """Text with keys in braces. Raises ValueError for an invalid one."""

    def __init__(self, template: str) -> None:
        self._parts = template_parts(template)

    def keys(self) -> list[str]:
        """Return the keys in order; the empty key stands for the value itself."""
        return [key for _, key in self._parts if key is not None]

    def written(self, value: Any) -> str:
        """Return the text with the keys of a value, an empty one if all of them are null.

        Raises UnreadableValueError for a key that is missing or holds no text.
        """
        parts, is_null = [], True
        for literal, key in self._parts:
            parts.append(literal)
            if key is not None:
                found = list(self._values(value, key))
                is_null = is_null and all(inside is None for inside in found)
                parts += [_as_text(inside, key) for inside in found]
        return "" if is_null else "".join(parts)

    def _values(self, value: Any, key: str) -> Iterator[Any]:
        def missing(_place: str) -> None:
            keys = text_keys(value)
            if key in keys:
                raise UnreadableValueError(f"has an item without the key '{key}', which items beside it have")
            advice = f"{did_you_mean(key, keys)} {SKIP}".strip()
            raise UnreadableValueError(f"has no key '{key}'. {_its_keys(value)}", advice)

        for _, found in values_at(value, tuple(key.split(".")) if key else (), "", missing):
            yield found


def values_at(
    value: Any, keys: tuple[str, ...], place: str, missing: Callable[[str], None]
) -> Iterator[tuple[str, Any]]:
    """Iterate over the values under dotted keys as (place, value); `missing` is called with each place without them."""
    if not keys or value is None:
        yield place, value
    elif isinstance(value, list):
        rest = keys[1:] if keys[0] == "*" else keys
        for number, item in enumerate(value, start=1):
            yield from values_at(item, rest, f"{place}, item {number}", missing)
    elif isinstance(value, dict):
        for n in range(len(keys), 0, -1):  # a key that contains dots goes first
            if (key := ".".join(keys[:n])) in value:
                yield from values_at(value[key], keys[n:], place, missing)
                return
        if keys[0] != "*":
            missing(place)
            return
        yield from values_at(list(value.values()), keys[1:], place, missing)
    else:
        missing(place)


def checked(text: str) -> str:
    """Return the text. Raises UnreadableValueError when it has no encoding, because of half a character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        raise UnreadableValueError(f"contains the lone surrogate {surrogate}, half of a character") from error
    return text


def _as_text(value: Any, key: str) -> str:
    """Return a value as text: a list is joined, and an object in it is its `text`. Raises UnreadableValueError."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_as_text(item, key) for item in value)
    if isinstance(value, dict):
        if "text" in value:
            return _as_text(value["text"], key)
        raise UnreadableValueError(f"holds an object under '{key}', which has no key 'text'. {_its_keys(value, key)}")
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise UnreadableValueError(f"holds {kind_of(value)} under '{key}', not text")


def kind_of(value: Any) -> str:
    """Return what a value is, with its article: "a number"."""
    type_name = value.type_name if isinstance(value, OtherValue) else type(value).__name__
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"a value of the type {type_name}")


def text_keys(value: Any, prefix: str = "", depth: int = 0) -> list[str]:
    """Return the dotted keys that hold text, in lists too, as many as an error message names."""
    if isinstance(value, str):
        return [prefix]
    found: dict[str, None] = {}
    if depth < MAX_DEPTH:
        for key, item in _inside(value, prefix):
            found |= dict.fromkeys(text_keys(item, key, depth + 1))
    return list(found)[:MAX_KEYS]


def object_lists(value: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, list[Any]]]:
    """Iterate over the lists of objects that hold text, as (dotted key, items)."""
    if depth < MAX_DEPTH:
        if _are_ids(value):
            prefix, value = _dotted(prefix, "*"), list(value.values())
        if prefix and isinstance(value, list) and value and isinstance(value[0], dict) and text_keys(value):
            yield prefix, value
        for key, item in _inside(value, prefix):
            yield from object_lists(item, key, depth + 1)


def _inside(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Iterate over the first values in an object or a list as (dotted key, value)."""
    if isinstance(value, list):
        yield from ((prefix, item) for item in value[:MAX_ITEMS])
    elif isinstance(value, dict):
        for key, item in itertools.islice(value.items(), MAX_ITEMS):
            yield _dotted(prefix, "*" if _are_ids(value) else key), item


def _dotted(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def _are_ids(value: Any) -> bool:
    """Return whether the keys of an object seem to be ids of objects."""
    return (
        isinstance(value, dict)
        and len(value) >= FEWEST_IDS
        and all(isinstance(inside, dict) for inside in value.values())
    )


def template_for(items: list[Any]) -> str:
    r"""Return a setting that writes the items, as an example: `template: "{role}: {content}\n"`."""
    return _template(_example_keys(text_keys(items)), end="\n")


def advice_to_choose(setting: str, keys: list[str]) -> str:
    """Return the advice to set `setting` to one of the keys that hold text, or to join several."""
    if len(keys) == 1:
        return f"Set {setting} to it"
    examples = _example_keys(keys)
    more = f"such as {examples[0]}" if len(examples) == 1 else f"or to join several, set {_template(examples, end='')}"
    return f"Set {setting} to one of them, {more}"


def _template(keys: list[str], *, end: str) -> str:
    between = "\n" if set(keys).isdisjoint(MESSAGE_KEYS) else ": "
    text = between.join(f"{{{key}}}" for key in keys) or "{}"
    return f"template: {json.dumps(text + end, ensure_ascii=False)}"


def _example_keys(keys: list[str]) -> list[str]:
    """Return the keys of a template: the usual ones of messages, or else the first three."""
    messages = [key for key in MESSAGE_KEYS if key in keys][:1]
    speakers = [key for key in SPEAKER_KEYS if key in keys][:1] if messages else []
    return [*speakers, *messages] or keys[:3]


def _its_keys(value: Any, prefix: str = "") -> str:
    if not isinstance(value, dict):
        return f"It is {kind_of(value)}"
    return f"Its keys that hold text: {', '.join(text_keys(value, prefix)) or 'none'}"
