"""Generated parts of the docs: the tree, and tables of plugins, commands and components. cog calls these functions."""

import ast
import difflib
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

ROOT = Path(__file__).parent.parent

# Folders in the order of the tree, with descriptions. The description of a file is the first line of its docstring.
FOLDERS = {
    "tfs_core": "the minimal core: contracts.py, then run.py, then trainer.py",
    "tfs_core/config": "schema, YAML with line numbers, overrides",
    "tfs_core/data": "documents -> token store -> batches",
    "tfs_core/builtin": "schedules, optimizers, loggers, batchings, registered by the same hooks as those of plugins",
    "tfs_core/cli": "one small file per command",
    "plugins": "one distribution per folder, which pip can install alone; listed in README.md",
    "examples": "training by hand, and plugins by third-party authors",
    "configs": "ready to run; the header states the purpose, the training time and the expected loss",
    "assets": "runs, downloads and token stores",
    "tests": "tests of several plugins together; tests/core tests the core alone",
    "benchmarks": "each prints a ratio measured in one run",
    "docs": "short pages, and decisions/",
    "docs/learn": "comparison of the three models",
}
WITH_FILES = ("tfs_core", "tfs_core/config", "tfs_core/data", "examples")


def first_line(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return documentation.split("\n\n")[0].replace("\n", " ").rstrip(".")


def tree() -> str:
    """Return the commented tree of the repository as a code block."""
    rows: list[tuple[str, str]] = []
    for folder, summary in FOLDERS.items():
        depth = folder.count("/")
        rows.append(("  " * depth + Path(folder).name + "/", summary))
        if folder in WITH_FILES:
            files = sorted(path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py")
            rows += [("  " * (depth + 1) + path.name, first_line(path)) for path in files]
        if folder in ("plugins", "examples"):
            for pyproject in sorted((ROOT / folder).glob("*/pyproject.toml")):
                rows.append(("  " + pyproject.parent.name + "/", description(pyproject)))
    width = max(len(name) for name, _ in rows) + 2
    return _block("\n".join(f"{name:<{width}}{summary}" for name, summary in rows))


def description(pyproject: Path) -> str:
    """Return the description of a distribution, from its pyproject.toml."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    text: str = project["description"]
    return text.removeprefix("tfs ")


def plugin_table() -> str:
    """Return a Markdown table of all folders of `plugins/` with their descriptions and components."""
    from tfs_core.registry import get_registry

    registry = get_registry()
    rows = ["", "| folder | description | components |", "|---|---|---|"]
    for pyproject in sorted((ROOT / "plugins").glob("*/pyproject.toml")):
        folder = pyproject.parent.name
        kinds = []
        for kind in registry.kinds:
            names = [entry.component.name for entry in registry.entries(kind) if entry.distribution == folder]
            if names:
                kinds.append(f"{kind} " + ", ".join(f"`{name}`" for name in names))
        rows.append(f"| [{folder}]({folder}/README.md) | {description(pyproject)} | {'; '.join(kinds)} |")
    return "\n".join([*rows, ""])


def _block(text: str) -> str:
    return f"\n```text\n{text}\n```\n"


def command_table() -> str:
    """Return a Markdown table of all commands of the core and of this repository's plugins, with their summaries."""
    from tfs_core.registry import get_registry

    rows = ["", "| command | description | from |", "|---|---|---|"]
    for entry in get_registry().entries("command"):
        rows.append(f"| `tfs {entry.component.name}` | {entry.component.summary} | {entry.distribution} |")
    return "\n".join([*rows, ""])


def component_table() -> str:
    """Return a Markdown table of all registered components except commands, by kind."""
    from tfs_core.registry import get_registry

    rows = ["", "| kind | name | description | from |", "|---|---|---|---|"]
    for kind in get_registry().kinds:
        if kind != "command":
            for entry in get_registry().entries(kind):
                rows.append(f"| {kind} | `{entry.component.name}` | {entry.component.summary} | {entry.distribution} |")
    return "\n".join([*rows, ""])


def all_help() -> str:
    """Return the help texts of all commands and subcommands, each below a heading."""
    import click

    from tfs_core.cli.main import tfs

    parts = []
    for name in tfs.list_commands(click.Context(tfs)):
        parts += [f"\n## tfs {name}", command_help(name)]
        group = find_command(name)[1]
        if isinstance(group, click.Group):
            for inner in group.commands:
                parts += [f"### tfs {name} {inner}", command_help(name, inner)]
    return "\n".join(parts)


def command_help(*path: str) -> str:
    """Return the output of `tfs PATH --help` as a code block."""
    context, command = find_command(*path)
    return _block("\n".join(line.rstrip() for line in command.get_help(context).splitlines()))


def find_command(*path: str) -> "tuple[click.Context, click.Command]":
    """Return the click command of `tfs PATH`, and a context for its help text."""
    import click

    from tfs_core.cli.main import tfs

    context = click.Context(tfs, info_name="tfs", terminal_width=100)
    command: click.Command = tfs
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None, f"no command {name}"
        context = found.make_context(name, [], parent=context, resilient_parsing=True, terminal_width=100)
        command = context.command
    return context, command


def diff(first: str, second: str) -> str:
    """Return the unified diff of two classes or functions, without docstrings, as a code block.

    Each is given as a path below `plugins/` and a name: `tfs-custom/tfs_custom/model.py:Attention.forward`.
    """
    lines = difflib.unified_diff(source(first), source(second), first, second, n=1000, lineterm="")
    return "\n```diff\n" + "\n".join(line for line in lines if not line.startswith("@@")) + "\n```\n"


def source(place: str) -> list[str]:
    """Return the dedented lines of a class or function without its docstrings."""
    file, _, name = place.partition(":")
    text = (ROOT / "plugins" / file).read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        node = next(it for it in ast.iter_child_nodes(node) if getattr(it, "name", None) == part)
    assert isinstance(node, (ast.ClassDef, ast.FunctionDef))
    documented = (
        it for it in ast.walk(node) if isinstance(it, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(it)
    )
    left_out = {number for it in documented for number in range(it.body[0].lineno, (it.body[0].end_lineno or 0) + 1)}
    lines = text.splitlines()
    left_out |= {number + 1 for number in left_out if not lines[number]}  # a blank line after a docstring
    kept = [lines[number - 1] for number in range(node.lineno, (node.end_lineno or 0) + 1) if number not in left_out]
    return textwrap.dedent("\n".join(kept)).splitlines()
