"""Parse the shape comments of a source file, and find the code that each describes. Nothing is executed."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType

LISTS = re.compile(r"#\s*(each\s)?\s*(\[[^\[\]]*\](?:\s*(?:,|and)\s*\[[^\[\]]*\])*)")
ONE_LIST = re.compile(r"\[([^\[\]]*)\]")

Shape = tuple[str, ...]
"""The dimensions in one pair of brackets: `("batch_size", "3*d_model")`."""


@dataclass(frozen=True)
class Comment:
    """One shape comment."""

    line: int
    shapes: tuple[Shape, ...]
    each: bool  # the one shape applies to every value, and to every item of a container


@dataclass(frozen=True)
class Described:
    """A shape comment and the names that it describes."""

    comment: Comment
    names: tuple[str, ...]  # `x`, `self.keys`, `caches[0]`; none for a returned value
    values: tuple[CodeType, ...]  # a compiled expression for each of them
    resumes: bool = False  # the statement contains a yield or an await, so it ends after the frame is resumed


@dataclass
class CommentedFunction:
    """The shape comments of one function."""

    parameters: list[Described] = field(default_factory=list)
    statements: dict[int, Described] = field(default_factory=dict)  # every line of a statement -> its comment
    returns: dict[int, Described] = field(default_factory=dict)


@dataclass
class CommentedFile:
    """The shape comments of one file."""

    path: Path
    functions: dict[tuple[str, int], CommentedFunction] = field(default_factory=dict)  # by name and first line
    fields: dict[str, list[Described]] = field(default_factory=dict)  # by class name
    unattached: list[int] = field(default_factory=list)  # lines with a shape comment that describes no code

    def lines(self) -> set[int]:
        """Return the line of every comment that describes code."""
        found = [described for fields in self.fields.values() for described in fields]
        for function in self.functions.values():
            found += [*function.parameters, *function.statements.values(), *function.returns.values()]
        return {described.comment.line for described in found}


def read_comments(path: Path) -> CommentedFile:
    """Return the shape comments of a file, each with the code that it describes."""
    source = path.read_text(encoding="utf-8")
    lines = source.split("\n")
    comments: dict[int, Comment] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line, column = token.start
        match = LISTS.match(token.string) if token.type == tokenize.COMMENT else None
        if match and lines[line - 1][:column].strip():  # only after code: a comment on its own line is prose
            shapes = (listed.split(",") for listed in ONE_LIST.findall(match[2]))
            words = tuple(tuple(word.strip() for word in shape if word.strip()) for shape in shapes)
            comments[line] = Comment(line, words, each=match[1] is not None)
    found = CommentedFile(path.resolve())
    _Attach(found, comments).visit(ast.parse(source))
    found.unattached = sorted(set(comments) - found.lines())
    return found


class _Attach(ast.NodeVisitor):
    """Attaches each comment of a module to the statement, parameter or field on the same line."""

    def __init__(self, found: CommentedFile, comments: Mapping[int, Comment]) -> None:
        self.found = found
        self.comments = comments
        self.scope: ast.ClassDef | CommentedFunction | None = None

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.scope = self.scope, node
        self.generic_visit(node)
        self.scope = outer

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        function = CommentedFunction()
        first_line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        self.found.functions[node.name, first_line] = function
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            line = _last_line(argument)
            if line in self.comments and line < node.body[0].lineno:
                function.parameters.append(self.described(line, [ast.Name(argument.arg)]))
        outer, self.scope = self.scope, function
        for statement in node.body:
            self.visit(statement)
        self.scope = outer

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 (ast's own name)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.statement(node, node.targets[-1])

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.statement(node, node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(self.scope, ast.ClassDef) and _last_line(node) in self.comments:
            fields = self.found.fields.setdefault(self.scope.name, [])
            fields.append(self.described(_last_line(node), [node.target]))
        else:
            self.statement(node, node.target)

    def visit_For(self, node: ast.For) -> None:
        self.statement(node, node.target, last=node.iter)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        self.statement(node, None)

    def statement(self, node: ast.stmt, target: ast.expr | None, last: ast.expr | None = None) -> None:
        """Attach a shape comment to a statement: the one on its last line, or else the one on its first line."""
        last_line = _last_line(last or node)
        line = last_line if last_line in self.comments else node.lineno
        if not isinstance(self.scope, CommentedFunction) or line not in self.comments:
            return
        targets = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target] if target else []
        resumes = any(isinstance(inner, (ast.Yield, ast.YieldFrom, ast.Await)) for inner in ast.walk(node))
        described = self.described(line, targets, resumes=resumes)
        lines = self.scope.returns if target is None else self.scope.statements
        lines.update(dict.fromkeys(range(node.lineno, last_line + 1), described))

    def described(self, line: int, targets: Sequence[ast.expr], *, resumes: bool = False) -> Described:
        """Return the comment of a line with the names and the compiled expressions of its targets."""
        names = tuple(ast.unparse(target).removeprefix("*") for target in targets)
        values = tuple(compile(name, "<shape comment>", "eval") for name in names)
        return Described(self.comments[line], names, values, resumes)


def _last_line(node: ast.stmt | ast.expr | ast.arg) -> int:
    return node.end_lineno or node.lineno
