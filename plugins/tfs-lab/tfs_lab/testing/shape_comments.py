"""Executable shape comments: run the code and compare its tensors with their comments.

A shape comment is at the end of a line that makes a tensor, in the words of the surrounding code:

    scores = queries @ keys.mT  # [batch_size, n_heads, seq_len, seq_len]
    output, cache = linear_forward(x, weight, bias)  # [batch_size, seq_len, d_model]
    keys, values = x.chunk(2, dim=-1)  # [batch_size, seq_len, d_head], [batch_size, seq_len, d_head]
    self.keys = [torch.zeros(shape) for _ in blocks]  # each [batch_size, max_seq_len, d_model]
    return attention_weights @ values  # [batch_size, n_heads, seq_len, d_head]

A comment can describe the targets of any assignment (names, `self.x`, `caches[0]`), the variable of a `for`, a returned
value, a parameter on a line of its own, and a field of a NamedTuple or dataclass, which is checked on every instance
that a function of the file returns. A statement of several lines has its comment on its last or its first line.

Several lists describe several targets from left to right; further targets are not described. `each` describes all
targets, or all items of a list, a tuple or a dict. A dimension is a word, a number, or arithmetic with + - * // and
parentheses (`3*d_model`, `seq_len - 1`); `...` stands for any dimensions, and `[]` for a tensor without any.

Give every word a different size when you run the code, so that a swapped axis cannot hide.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tfs_lab.testing.commented_source import Comment, CommentedFile, CommentedFunction, Described, Shape, read_comments


@dataclass(frozen=True)
class ShapeReport:
    """The result of running the code."""

    checked: frozenset[tuple[Path, int]]
    """The file and line of each comment that was compared with a tensor."""

    never_reached: tuple[str, ...]
    """An error message for each comment that was never compared with a tensor."""

    complaints: tuple[str, ...]
    """An error message for each comment that is wrong, or describes no code."""

    def require(self) -> None:
        """Raise AssertionError with all messages, unless every comment was checked and is true."""
        wrong = [*self.complaints, *self.never_reached]
        if wrong:
            raise AssertionError(f"{len(wrong)} shape comments are wrong or unchecked:\n" + "\n".join(wrong))


def check_shape_comments(
    run: Callable[[], object],
    paths: Sequence[Path | str],
    sizes: Mapping[str, int],
    *,
    per_call: Collection[str] = (),
) -> ShapeReport:
    """Call `run()`, and compare the tensors in these files with their shape comments.

    `sizes` maps each word to its size. A word in `per_call` has no fixed size: in each call of a function, the first
    comment with the word defines its size for the others (`in_features` in an operation that is used twice).
    """
    tracer = _Tracer([read_comments(Path(path)) for path in paths], sizes, frozenset(per_call))
    previous = sys.gettrace()
    sys.settrace(tracer.enter)
    try:
        run()
    finally:
        sys.settrace(previous)
    return tracer.report()


class _Tracer:
    """Traces the calls in the files and compares the values with the comments."""

    def __init__(self, files: Sequence[CommentedFile], sizes: Mapping[str, int], per_call: frozenset[str]) -> None:
        self.files = {file.path: file for file in files}
        self.sizes = sizes
        self.per_call = per_call
        self.checked: set[tuple[Path, int]] = set()
        self.complaints: dict[tuple[Path, int], str] = {}
        self._file_of: dict[str, CommentedFile | None] = {}

    def enter(self, frame: FrameType, _event: str, _argument: object) -> Callable[..., Any] | None:
        """Trace function for calls: return the line tracer of a function in the files, else None."""
        file = self._file(frame.f_code.co_filename)
        if file is None:
            return None
        function = file.functions.get((frame.f_code.co_name, frame.f_code.co_firstlineno), CommentedFunction())
        bound: dict[str, int] = {}  # the sizes of the words of `per_call` in this call
        for described in function.parameters:
            self.compare_names(file, described, frame, bound)
        here = function.statements.get(frame.f_lineno)
        pending = here if here is not None and here.resumes else None  # a generator continues inside a statement
        returning: Described | None = None

        def follow(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal pending, returning
            here = function.statements.get(frame.f_lineno)
            if event == "exception":
                pending = returning = None  # the statement did not complete
            elif event == "line":
                # The event precedes its line: the previous statement is complete when the line is another statement's.
                if pending is not None and here is not pending:
                    self.compare_names(file, pending, frame, bound)
                pending = here
                returning = function.returns.get(frame.f_lineno, returning)
            elif event == "return":
                if pending is not None and not (here is pending and pending.resumes):
                    self.compare_names(file, pending, frame, bound)
                self.compare_returned(file, returning, argument, bound)
            return follow

        return follow

    def _file(self, name: str) -> CommentedFile | None:
        """Return the file of that name when it is under check, else None."""
        if name not in self._file_of:
            self._file_of[name] = None if name.startswith("<") else self.files.get(Path(name).resolve())
        return self._file_of[name]

    def compare_names(self, file: CommentedFile, described: Described, frame: FrameType, bound: dict[str, int]) -> None:
        """Compare the current values of the names with the comment."""
        values = []
        for code in described.values:
            try:
                values.append(eval(code, frame.f_globals, frame.f_locals))
            except (NameError, AttributeError, LookupError):
                values.append(None)  # a loop that never ran, a deleted name: no value
        self.compare_all(file, described.comment, described.names, values, bound)

    def compare_returned(
        self, file: CommentedFile, described: Described | None, value: object, bound: dict[str, int]
    ) -> None:
        """Compare a returned value with its comment, and the fields of instances in the value with their comments."""
        if described is not None and value is not None:
            values: tuple[object, ...] = (value,)
            if isinstance(value, tuple) and not hasattr(value, "_fields"):
                values = value
            self.compare_all(file, described.comment, ["the returned value"] * len(values), values, bound)
        for instance in _instances(value, set()):
            module = sys.modules.get(type(instance).__module__)
            owner = self._file(getattr(module, "__file__", None) or "<built in>")
            if owner is None:
                continue
            for commented in owner.fields.get(type(instance).__name__, ()):
                name = commented.names[0]
                self.compare_all(owner, commented.comment, [name], [getattr(instance, name)], {})

    def compare_all(
        self,
        file: CommentedFile,
        comment: Comment,
        names: Sequence[str],
        values: Sequence[object],
        bound: dict[str, int],
    ) -> None:
        """Compare values with the shapes of a comment in order; with `each`, compare all items with its only shape."""
        shapes: Sequence[Shape] = comment.shapes
        if comment.each:
            items = [pair for name, value in zip(names, values, strict=True) for pair in _items(name, value)]
            names, values = [name for name, _ in items], [value for _, value in items]
            shapes = [comment.shapes[0]] * len(values)
        if len(shapes) > len(values):
            self.complain(file, comment.line, f"{len(shapes)} shapes for {len(values)} value{'s' * (len(values) > 1)}")
        for name, value, shape in zip(names, values, shapes, strict=False):
            self.compare(file, comment.line, name, value, shape, bound)

    def compare(
        self, file: CommentedFile, line: int, name: str, value: object, shape: Shape, bound: dict[str, int]
    ) -> None:
        """Record that a comment was checked, and record an error when the value has another shape."""
        if value is None:
            return  # an optional tensor that is absent
        if not hasattr(value, "shape"):
            return self.complain(file, line, f"'{name}' is a {type(value).__name__}, which has no shape")
        actual = [int(size) for size in value.shape]
        self.checked.add((file.path, line))
        try:
            expected = self.expected(shape, actual, bound)
        except ValueError as error:
            return self.complain(file, line, f"'{name}' has shape {actual}: {error}")
        if actual != expected:
            meant = f"its comment [{', '.join(shape)}] means {expected}"
            self.complain(file, line, f"'{name}' has shape {actual}, {meant}")
        return None

    def expected(self, shape: Shape, actual: Sequence[int], bound: dict[str, int]) -> list[int]:
        """Return the size of each dimension of a comment; a word of `per_call` gets its actual size at first use."""
        if "..." in shape:
            place = shape.index("...")
            after = len(shape) - place - 1
            middle = list(actual[place : len(actual) - after])
            before_sizes = self.expected(shape[:place], actual[:place], bound)
            return before_sizes + middle + self.expected(shape[place + 1 :], actual[len(actual) - after :], bound)
        for place, word in enumerate(shape):
            if word in self.per_call and word not in bound and place < len(actual):
                bound[word] = actual[place]
        return [_evaluate(word, {**self.sizes, **bound}) for word in shape]

    def complain(self, file: CommentedFile, line: int, what: str) -> None:
        """Record an error message about a comment. Later messages about the same comment are dropped."""
        self.complaints.setdefault((file.path, line), f"{file.path}:{line}: {what}")

    def report(self) -> ShapeReport:
        """Return the report."""
        for file in self.files.values():
            for line in file.unattached:
                self.complain(file, line, "this shape comment ends no assignment, for, return, parameter or field")
        unreached = [
            f"{path}:{line}: no tensor reached this shape comment"
            for path, file in self.files.items()
            for line in sorted(file.lines())
            if (path, line) not in self.checked and (path, line) not in self.complaints
        ]
        complaints = [self.complaints[place] for place in sorted(self.complaints)]
        return ShapeReport(frozenset(self.checked), tuple(unreached), tuple(complaints))


def _evaluate(word: str, sizes: Mapping[str, int]) -> int:
    """Return the size that a dimension such as `3*d_model` means. Raises ValueError."""

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(int(number)):
                return number
            case ast.Name(name):
                if name not in sizes:
                    raise ValueError(f"no size was given for the word '{name}' of its comment")
                return sizes[name]
            case ast.BinOp(left, ast.Add(), right):
                return value(left) + value(right)
            case ast.BinOp(left, ast.Sub(), right):
                return value(left) - value(right)
            case ast.BinOp(left, ast.Mult(), right):
                return value(left) * value(right)
            case ast.BinOp(left, ast.FloorDiv(), right):
                return value(left) // value(right)
        raise ValueError(f"its comment has '{word}', which is no dimension")

    try:
        expression = ast.parse(word, mode="eval").body
    except SyntaxError:
        raise ValueError(f"its comment has '{word}', which is no dimension") from None
    return value(expression)


def _items(name: str, value: object) -> list[tuple[str, object]]:
    """Return the items of a list, a tuple or a dict, with their names; or the value itself."""
    if isinstance(value, dict):
        return [(f"{name}[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"{name}[{index}]", item) for index, item in enumerate(value)]
    return [(name, value)]


def _instances(value: object, seen: set[int]) -> Iterator[object]:
    """Iterate over a value and, recursively, the items of containers and the fields of NamedTuples and dataclasses."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    if isinstance(value, (list, tuple)):
        inner: Iterable[object] = value
    elif isinstance(value, dict):
        inner = value.values()
    else:
        inner = [getattr(value, name) for name in getattr(type(value), "__dataclass_fields__", ())]
    for item in inner:
        yield from _instances(item, seen)
