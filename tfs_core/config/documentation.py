"""The documentation of settings, for errors and tables: the string under a field, and its type in words."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from tfs_core.config.schema import Choice

WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    type(None): "null",
    Choice: "a component",
}
BOUNDS = {Ge: "of at least", Gt: "above", Le: "of at most", Lt: "below"}


def field_docs(cls: type) -> dict[str, str]:
    """Return {field: the string under it, on one line}, inherited fields first; {} when the source is not available."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # defined with exec or at a prompt
            continue
        for field, string in pairwise(getattr(tree.body[0], "body", [])):
            match field, string:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


def in_words(hint: Any) -> str | None:
    """Return a setting's type in words, such as `a whole number of at least 1, or null`; None for an unknown type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in WORDS:
        return WORDS[hint]
    if is_section(hint):
        return "settings of its own"
    if origin is Annotated:
        words, metadata = in_words(arguments[0]), arguments[1:]
        bounds = [f"{BOUNDS[type(b)]} {dataclasses.astuple(b)[0]}" for b in metadata if type(b) in BOUNDS]
        return f"{words} {' and '.join(bounds)}" if words and bounds else words
    if origin in (Union, types.UnionType):
        arms = [in_words(arm) for arm in sorted(arguments, key=lambda arm: arm is type(None))]  # null last
        return ", or ".join(map(str, arms)) if all(arms) else None
    if origin is Literal:
        values = [f"'{value}'" if isinstance(value, str) else str(value) for value in arguments]
        return " or ".join(filter(None, [", ".join(values[:-1]), values[-1]]))
    if is_list(hint) and (item := in_words(arguments[0])):
        return f"a list, each item {item}"
    if origin is tuple and all(items := [in_words(argument) for argument in arguments]):
        return f"a list of {len(items)}: {', '.join(map(str, items))}"
    if is_mapping(hint) and (item := in_words(arguments[1])):
        return f"a mapping, each value {item}"
    return None


def is_section(hint: Any) -> bool:
    """Return whether the type is a dataclass, whose fields are settings."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def is_list(hint: Any) -> bool:
    """Return whether the type is a list of any length: `tuple[X, ...]`, `list[X]`, `Sequence[X]`."""
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        return len(arguments) == 2 and arguments[1] is Ellipsis
    return get_origin(hint) in (list, Sequence) and len(arguments) == 1


def is_mapping(hint: Any) -> bool:
    """Return whether the type is a mapping from text: `dict[str, X]`, `Mapping[str, X]`."""
    return get_origin(hint) in (dict, Mapping) and get_args(hint)[0] is str
