"""Validation: convert plain values to frozen dataclasses, or collect all problems.

A dataclass is validated field by field, so that unknown and missing keys, wrong types and the errors of the class's
`__post_init__` are all reported at once, each with its line. Single values are validated by pydantic in strict JSON
mode: True is not a number, and "no" is not a boolean. (pydantic is imported when the first value is checked.)
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import types
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tfs_core.config.document import Document, Invalid, Key, dotted, show
from tfs_core.config.documentation import field_docs, in_words, is_list, is_mapping, is_section
from tfs_core.config.other_names import our_setting
from tfs_core.config.resolved import plain
from tfs_core.config.schema import COMPONENT_KINDS, LOCAL_MODEL, Choice, RunConfig
from tfs_core.contracts import ModelConfig
from tfs_core.errors import PluginError
from tfs_core.plugins import describe, did_you_mean
from tfs_core.registry import get_registry

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def chosen_component(kind: str, value: Any, document: Document) -> Choice:
    """Return the component of this kind that `value` chooses; its key in the document is `kind`. Raises ConfigError."""
    with suppress(Invalid):
        choice = Validator(document).choice(kind, value, (kind,))
    document.raise_problems()
    return choice


class Validator:
    """Converts the values of a document to dataclasses, and adds problems to the document.

    Methods return the converted value, or raise Invalid after adding a problem.
    """

    def __init__(self, document: Document) -> None:
        self.document, self.problem = document, document.problem
        self.known: dict[str, Any] = {}
        """All valid settings, defaults included, by their dotted names."""

    def section(self, cls: type, values: Any, key: Key, owner: str = "") -> Any:
        """Return an instance of a dataclass; `owner` names the owner of the settings in error messages."""
        values = {} if values is None else values  # `samples:` without content
        if not isinstance(values, dict):
            raise self.problem(key, f": expected settings of its own, not {show(values)}")
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
        for name in values:
            if name not in fields:
                self._unknown(str(name), list(fields), key, owner)
        try:
            hints = get_type_hints(cls, include_extras=True)
        except Exception as error:  # a plugin's class, for example with a name imported for type checkers only
            raise self.problem(key, f": the types of {cls.__name__} cannot be read: {describe(error)}") from None

        arguments, failed = {}, set()
        for name, field in fields.items():
            try:
                arguments[name] = self._field(cls, field, hints[name], values, (*key, name))
                self.known[dotted((*key, name))] = arguments[name]
            except Invalid:
                failed.add(name)
        try:
            instance = cls(**arguments)
        except ValueError as error:  # from `__post_init__`: reported at the first setting in its message
            message = " ".join(str(error).split())
            names = [word for word in re.findall(r"\w+", message) if word in fields]
            if failed and (not names or failed.intersection(names)):  # invalid values may be the cause
                raise Invalid from None
            written = [name for name in names if (*key, name) in self.document.places]
            raise self.problem((*key, *written[:1]), f": {message}") from None
        except Exception as error:  # a plugin's class may raise anything; a missing argument raises TypeError
            if failed:
                raise Invalid from None
            raise self.problem(key, f": {cls.__name__} cannot check these settings: {describe(error)}") from None
        if failed:
            raise Invalid
        return instance

    def _field(self, cls: type, field: dataclasses.Field[Any], hint: Any, values: dict[str, Any], key: Key) -> Any:
        """Return the value of a field, or its default."""
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in values:
            value = values[field.name]
            if isinstance(default, Choice) and isinstance(value, dict):
                value = {"name": default.name, **value}
            return self.value(hint, value, key)
        if default is dataclasses.MISSING:
            raise self.problem(key, f" is missing. {field_docs(cls).get(field.name, '')}".rstrip(" "))
        return self.value(hint, plain(default), key) if _contains_section(hint) else default  # adds default options

    def value(self, hint: Any, value: Any, key: Key) -> Any:
        """Return a value converted to its type."""
        if hint is Choice:
            setting = next(part for part in reversed(key) if isinstance(part, str))  # skips indices, as in `loggers.0`
            return self.choice(COMPONENT_KINDS[setting], value, key)
        if is_section(hint):
            return self.section(hint, value, key)
        if is_list(hint) and isinstance(value, list):
            items = self._each(get_args(hint)[0], dict(enumerate(value)), key).values()
            return list(items) if get_origin(hint) is list else tuple(items)
        if is_mapping(hint) and isinstance(value, dict):
            return self._each(get_args(hint)[1], value, key)
        if isinstance(value, dict | list):  # `extra: Rotation | None`
            arms = [arm for arm in _union_members(hint) if arm is not hint and _contains_section(arm)]
            if len(arms) == 1:
                return self.value(arms[0], value, key)
        return self._single(hint, value, key)

    def _each(self, hint: Any, values: dict[Any, Any], key: Key) -> dict[Any, Any]:
        """Return the converted items of a list, by index, or of a mapping, by name."""
        done = {}
        for name, item in values.items():
            with suppress(Invalid):
                done[name] = self.value(hint, item, (*key, name))
        if len(done) < len(values):
            raise Invalid
        return done

    def choice(self, kind: str, value: Any, key: Key) -> Choice:
        """Return the choice of a component, with its options converted."""
        value = {"name": value} if isinstance(value, str) else value
        a_kind = f"an {kind}" if kind == "optimizer" else f"a {kind}"
        if not isinstance(value, dict):
            raise self.problem(key, f": expected a name, or a mapping with a name, of {a_kind}, not {show(value)}")
        options = dict(value)
        name, at = options.pop("name", None), (*key, "name") if (*key, "name") in self.document.places else key
        registry = get_registry()
        if name is None:
            names = ", ".join(entry.component.name for entry in registry.entries(kind)) or "none"
            or_option = " (or --model NAME)" if kind == "model" else ""
            message = f" is missing{or_option}: which {kind}? Installed: {names}."
            raise self.problem((*key, "name"), message)
        if not isinstance(name, str):
            raise self.problem(at, f": expected the name of {a_kind}, not {show(name)}")
        if kind == "model" and re.search(r"\.py(:|$)", name):
            return self._local_model(name, options, at, key)
        for_path = registry.for_path(kind, str(self._absolute(Path(name), at)))
        if for_path and for_path[1] not in options and self._is_path(kind, name, at):
            path, (name, path_option) = name, for_path
            options = {path_option: path, **options}
        if len(registry.owners(kind, name)) > 1 and f"{kind} {name}" in self.document.owners:
            name = f"{self.document.owners[f'{kind} {name}']}/{name}"
        try:
            config_class = registry.find(kind, name).load_config_class()
        except PluginError as error:
            raise self.problem(at, f": {error}") from None
        self.known[dotted((*key, "name"))] = name
        known = set() if config_class is None else {field.name for field in dataclasses.fields(config_class)}
        for option in set(options) - known:
            if self.document.makes_moot(at, (*key, option)) and _is_option_of_another(kind, option):
                self.document.moot[*key, option] = f"is not a setting of the {kind} '{name}'"
                del options[option]
        if config_class is not None:
            return Choice(name, self.section(config_class, options, key, f" of the {kind} '{name}'"))
        for option in options:
            self.problem((*key, option), f": the {kind} '{name}' takes no options")
        return Choice(name)

    def _local_model(self, name: str, options: dict[str, Any], at: Key, key: Key) -> Choice:
        """Return the choice of a local model. Its file is not imported here."""
        match = LOCAL_MODEL.fullmatch(name)
        if match is None:
            message = f": expected the file and the name in it, such as './my_model.py:MyModel', not {show(name)}"
            raise self.problem(at, message)
        file = self._absolute(Path(match["file"]), at)
        if not file.is_file():
            raise self.problem(at, f": there is no file {file}")
        self.known |= {dotted((*key, option)): value for option, value in options.items() if type(value) is int}
        return Choice(f"{file}:{match['attribute']}", options)

    def _is_path(self, kind: str, name: str, at: Key) -> bool:
        """Return whether a component's name is an existing path, and no component has this name.

        Raises Invalid for a path that does not exist, unless the name may be `distribution/name`.
        """
        if get_registry().owners(kind, name):
            return False
        path = self._absolute(Path(name), at)
        exists = os.path.exists(path)  # Path.exists raises for a very long name
        looks_like_one = re.search(r"[/\\]|\.[a-z]\w{0,6}$", name)
        if looks_like_one and not exists and not re.fullmatch(r"[\w-]+/[\w-]+", name):  # may be distribution/name
            raise self.problem(at, f": there is no file or folder {path}")
        return exists

    def _single(self, hint: Any, value: Any, key: Key) -> Any:
        """Return a value that contains neither sections nor components, validated by pydantic."""
        from pydantic import PydanticUserError, ValidationError

        if type(value) is int and abs(value) >= 2**63:
            raise self.problem(key, ": the number is too large")
        reason = ""
        try:
            result = type_adapter(hint).validate_json(json.dumps(value), strict=True)
            # pydantic accepts True for Literal[1], and an empty path as the current folder
            valid = isinstance(value, bool) == isinstance(result, bool) and not (value == "" and result == Path())
        except PydanticUserError:
            raise self.problem(key, f": a setting cannot have the type {hint}") from None
        except ValidationError as error:
            valid, reason = False, error.errors()[0]["msg"]
        except TypeError:  # from Python: an object that is not JSON
            valid = False
        if not valid:
            expected = in_words(hint) or f"something else ({reason})"
            raise self.problem(key, f": expected {expected}, not {show(value)}.{_advice(hint, value)}")
        return self._absolute(result, key)

    def _absolute(self, value: Any, key: Key) -> Any:
        """Return the value with relative paths made absolute, from the folder of their place."""
        if isinstance(value, Path):
            return Path(os.path.abspath(self.document.place(key).base / os.path.expanduser(value)))
        if isinstance(value, tuple | list):
            return type(value)(self._absolute(item, key) for item in value)
        return value

    def _unknown(self, name: str, names: list[str], key: Key, owner: str) -> None:
        """Add a problem for an unknown key, with the nearest name, and the section that has a setting of this name."""
        sections = {"": RunConfig, **get_type_hints(RunConfig), "model": ModelConfig}
        there = [section for section, cls in sections.items() if name in getattr(cls, "__dataclass_fields__", ())]
        elsewhere = f" There is a {f'{there[0]}.{name}'.lstrip('.')}." if there else ""
        settings = f" Settings: {', '.join(names)}." if names else " It has none."
        ours = "" if there else our_setting(name, names)
        near = f" Did you mean '{ours}'?" if ours else did_you_mean(name, names)
        self.problem((*key, name), f" is not a setting{owner}.{near}{elsewhere}{settings}")


def _is_option_of_another(kind: str, option: str) -> bool:
    """Return whether an installed component of this kind has an option of this name: it is not misspelled."""
    for entry in get_registry().entries(kind):
        with suppress(PluginError):
            config_class = entry.load_config_class()
            if config_class is not None and option in {field.name for field in dataclasses.fields(config_class)}:
                return True
    return False


def type_adapter(hint: Any) -> TypeAdapter[Any]:
    """Return pydantic's validator of a type; infinity and NaN are invalid."""
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def _union_members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union; for any other type, the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _contains_section(hint: Any) -> bool:
    return is_section(hint) or any(map(_contains_section, get_args(hint)))


def _advice(hint: Any, value: Any) -> str:
    """Return a hint on how to fix the value, or an empty string."""
    arms = tuple(get_args(arm)[0] if get_origin(arm) is Annotated else arm for arm in _union_members(hint))
    if str in arms and isinstance(value, bool | int | float):
        return f" Put it in quotes: '{show(value)}'."
    if str in arms and isinstance(value, dict):  # {key} is a mapping in YAML
        return " Text with braces or ': ' needs quotes: \"{a}: b\", on the command line '\"{a}: b\"'."
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
