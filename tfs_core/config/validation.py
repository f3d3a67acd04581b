"""Plain values become frozen dataclasses, or a list of everything that is wrong with them.

A dataclass is walked field by field, so that unknown and missing keys, wrong types and what a class says in its own
`__post_init__` are all told at once, each at its line. What a single value may be, pydantic decides, in strict mode on
JSON: never True for 1, nor "no" for false. (It is imported when the first value is checked.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tfs_core.config.documentation import field_docs
from tfs_core.config.problems import Key, dotted, show
from tfs_core.config.resolved import plain
from tfs_core.config.schema import (
    COMPONENT_KINDS,
    LOCAL_MODEL,
    Choice,
    DataConfig,
    RunConfig,
    RuntimeConfig,
    SamplesConfig,
    TrainingConfig,
)
from tfs_core.config.types_in_words import in_words, is_list, is_mapping
from tfs_core.config.yaml_reader import Document
from tfs_core.contracts import ModelConfig
from tfs_core.errors import PluginError
from tfs_core.plugins import describe, did_you_mean
from tfs_core.registry import get_registry

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SECTIONS = {
    "": RunConfig,
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "samples": SamplesConfig,
    "runtime": RuntimeConfig,
}
"""Where a setting may be that stands in the wrong section."""


class Invalid(Exception):  # noqa: N818 (a way out, which the Validator catches itself, more than an error)
    """A value that cannot be used; why is among the document's problems."""


class Validator:
    """Turns the values of a document into dataclasses; what is wrong goes to the document's problems."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.known: dict[Key, Any] = {}
        """Every setting whose value is right, defaults included."""

    def invalid(self, key: Key, message: str) -> Invalid:
        """Note a problem, and return what to raise."""
        self.document.problem(key, f"{dotted(key)}{message}" if key else message)
        return Invalid()

    def section(self, cls: type, values: Any, key: Key, owner: str = "") -> Any:
        """Return an instance of a dataclass; `owner` says whose settings these are. Raises Invalid."""
        if values is None:  # `samples:` with nothing below it
            values = {}
        if not isinstance(values, dict):
            raise self.invalid(key, f": expected settings of its own, not {show(values)}")
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
        for name in values:
            if name not in fields:
                self._unknown(str(name), list(fields), key, owner)
        try:
            hints = get_type_hints(cls, include_extras=True)
        except Exception as error:  # a plugin's own class: a name that is imported for type checkers only, say
            raise self.invalid(key, f": the types of {cls.__name__} cannot be read: {describe(error)}") from None
        arguments, failed = {}, set()
        for name, field in fields.items():
            try:
                arguments[name] = self._field(cls, field, hints[name], values, (*key, name))
                self.known[*key, name] = arguments[name]
            except Invalid:
                failed.add(name)
        return self._construct(cls, arguments, failed, key)

    def _field(self, cls: type, field: dataclasses.Field[Any], hint: Any, values: dict[str, Any], key: Key) -> Any:
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name not in values:
            if default is dataclasses.MISSING:
                text = field_docs(cls).get(field.name, "")
                raise self.invalid(key, f" is missing.{' ' if text else ''}{text}")
            return self.value(hint, plain(default), key) if _holds_dataclass(hint) else default
        value = values[field.name]
        if isinstance(default, Choice) and isinstance(value, dict):
            value = {"name": default.name, **value}
        return self.value(hint, value, key)

    def value(self, hint: Any, value: Any, key: Key) -> Any:
        """Return a value as its type has it. Raises Invalid."""
        if hint is Choice:
            setting = next(part for part in reversed(key) if isinstance(part, str))  # not an index in `loggers`
            return self.choice(COMPONENT_KINDS[setting], value, key)
        if _is_dataclass(hint):
            return self.section(hint, value, key)
        if is_list(hint) and isinstance(value, list):
            items = self._each(get_args(hint)[0], dict(enumerate(value)), key)
            return list(items.values()) if get_origin(hint) is list else tuple(items.values())
        if is_mapping(hint) and isinstance(value, dict):
            return self._each(get_args(hint)[1], value, key)
        if get_origin(hint) in (Union, types.UnionType) and isinstance(value, dict | list):
            arms = [arm for arm in get_args(hint) if _holds_dataclass(arm)]
            if len(arms) == 1:
                return self.value(arms[0], value, key)
        return self._single(hint, value, key)

    def _each(self, hint: Any, values: Mapping[Any, Any], key: Key) -> dict[Any, Any]:
        done = {}
        for name, item in values.items():
            with contextlib.suppress(Invalid):
                done[name] = self.value(hint, item, (*key, name))
        if len(done) < len(values):
            raise Invalid
        return done

    def choice(self, kind: str, value: Any, key: Key) -> Choice:
        """Return a component that was chosen, with its options. Raises Invalid."""
        value = {"name": value} if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise self.invalid(key, f": expected a name, or a mapping with a name, of {_a(kind)}, not {show(value)}")
        options = {name: item for name, item in value.items() if name != "name"}
        name, at = value.get("name"), (*key, "name") if (*key, "name") in self.document.places else key
        if name is None:
            names = ", ".join(entry.component.name for entry in get_registry().entries(kind))
            or_option = " (or --model NAME)" if kind == "model" else ""
            raise self.invalid((*key, "name"), f" is missing{or_option}: which {kind}? Installed: {names or 'none'}.")
        if not isinstance(name, str):
            raise self.invalid(at, f": expected the name of {_a(kind)}, not {show(name)}")
        if kind == "model" and re.search(r"\.py(:|$)", name):
            return self._local_model(name, options, at, key)
        registry = get_registry()  # a wrong TFS_PLUGINS is told once, and not as the fault of each setting
        if (for_path := registry.for_path(kind)) and for_path[1] not in options and self._is_path(name, at):
            path, (name, path_option) = name, for_path
            options = {path_option: path, **options}
        try:
            entry = registry.find(kind, name)
            config_class = entry.load_config_class()
        except PluginError as error:
            raise self.invalid(at, f": {error}") from None
        if config_class is None:
            for option in options:
                self.invalid((*key, option), f": the {kind} '{name}' takes no options")
            return Choice(name)
        return Choice(name, self.section(config_class, options, key, f" of the {kind} '{name}'"))

    def _local_model(self, name: str, options: dict[str, Any], at: Key, key: Key) -> Choice:
        """Return the choice of a model in a file of the user's own, which is not imported here."""
        match = LOCAL_MODEL.fullmatch(name)
        if match is None:
            raise self.invalid(
                at, f": expected the file and the name in it, such as './my_model.py:MyModel', not {show(name)}"
            )
        file = self._absolute(Path(match["file"]), at)
        if not file.is_file():
            raise self.invalid(at, f": there is no file {file}")
        self.known |= {(*key, option): value for option, value in options.items() if type(value) is int}
        return Choice(f"{file}:{match['attribute']}", options)

    def _is_path(self, name: str, at: Key) -> bool:
        """Return whether a component's name is a path. Raises Invalid when it can only be one and nothing is there."""
        if not re.search(r"[/\\]|\.json$", name):
            return False
        path = self._absolute(Path(name), at)
        if path.exists():
            return True
        if re.fullmatch(r"[\w-]+/[\w-]+", name):  # may be distribution/name
            return False
        raise self.invalid(at, f": there is no file or folder {path}")

    def _single(self, hint: Any, value: Any, key: Key) -> Any:
        """Return a value that is no section, no component and no list of them, as pydantic checks it."""
        from pydantic import ValidationError
        from pydantic.errors import PydanticUserError

        if type(value) is int and abs(value) >= 2**63:
            raise self.invalid(key, ": the number is too large")
        expected = in_words(hint)
        try:
            result = type_adapter(hint).validate_json(json.dumps(value), strict=True)
            valid = isinstance(value, bool) == isinstance(result, bool)  # Literal[1] would take True
            valid = valid and not (value == "" and isinstance(result, Path))  # it would be the folder itself
        except PydanticUserError:
            raise self.invalid(key, f": a setting cannot have the type {hint}") from None
        except ValidationError as error:
            valid, expected = False, expected or f"something else ({error.errors()[0]['msg']})"
        except TypeError:  # from Python: an object that JSON does not have
            valid = False
        if not valid:
            raise self.invalid(key, f": expected {expected}, not {show(value)}.{_advice(hint, value)}")
        return self._absolute(result, key)

    def _absolute(self, value: Any, key: Key) -> Any:
        """Return the value with its paths made absolute, from the folder that they are relative to."""
        if isinstance(value, Path):
            return Path(os.path.abspath(self.document.place(key).base / value.expanduser()))
        if isinstance(value, tuple | list):
            return type(value)(self._absolute(item, key) for item in value)
        return value

    def _unknown(self, name: str, names: list[str], key: Key, owner: str) -> None:
        near = did_you_mean(name, names)
        elsewhere = [
            f"{section}.{name}" if section else name for section, known in SECTIONS.items() if name in _names(known)
        ]
        there = f" There is a {elsewhere[0]}." if elsewhere else ""
        settings = f" Settings: {', '.join(names)}." if names else " It has none."
        self.invalid((*key, name), f" is not a setting{owner}.{near}{there}{settings}")

    def _construct(self, cls: type, arguments: dict[str, Any], failed: set[str], key: Key) -> Any:
        """Return the instance; what its `__post_init__` says is told at the first setting it names."""
        required = {f.name for f in dataclasses.fields(cls) if _required(f)}
        if required & failed:
            raise Invalid
        try:
            instance = cls(**arguments)
        except ValueError as error:
            message = " ".join(str(error).split())
            names = [word for word in re.findall(r"\w+", message) if word in arguments.keys() | failed]
            given = [name for name in names if (*key, name) in self.document.places]
            if failed and (not names or failed.intersection(names)):  # it may be about what is wrong already
                raise Invalid from None
            raise self.invalid((*key, *given[:1]), f": {message}") from None
        except Exception as error:  # a plugin's own class: whatever it raises is told, with its name
            raise self.invalid(key, f": {cls.__name__} cannot check these settings: {describe(error)}") from None
        if failed:
            raise Invalid
        return instance


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def type_adapter(hint: Any) -> TypeAdapter[Any]:
    """Return what checks values of a type; infinity and NaN are no numbers of a configuration."""
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def _holds_dataclass(hint: Any) -> bool:
    return _is_dataclass(hint) or any(_holds_dataclass(argument) for argument in get_args(hint))


def _is_dataclass(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "optimizer" else f"a {kind}"


def _advice(hint: Any, value: Any) -> str:
    """Return what to write instead, where that is plain."""
    arms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    arms = tuple(get_args(arm)[0] if get_origin(arm) is Annotated else arm for arm in arms)
    if str in arms and isinstance(value, bool | int | float):
        return f" Put it in quotes: '{show(value)}'."
    if int in arms and isinstance(value, float) and value.is_integer():
        return f" Write {int(value)}."
    if int in arms and isinstance(value, str) and re.fullmatch(r"\d+(_\d+)+", value):
        return f" Write {value.replace('_', '')}."
    if isinstance(value, float) and not math.isfinite(value):
        return " It must be finite."
    if all(is_list(arm) or arm is type(None) for arm in arms) and not isinstance(value, dict | list):
        return f" Write [{value}]."
    words = [word for arm in arms if get_origin(arm) is Literal for word in get_args(arm)]
    return did_you_mean(str(value), [word for word in words if isinstance(word, str)])
