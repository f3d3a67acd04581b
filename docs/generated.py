"""The parts of the docs that are made from the code: tree, plugins, commands, components (cog calls these)."""

import ast
import difflib
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

ROOT = Path(__file__).parent.parent

# Folders in the order of the tree, with what each is; files speak for themselves by their first line.
FOLDERS = {
    "tfs_core": "the minimal core: contracts.py, then run.py, then trainer.py",
    "tfs_core/config": "schema, YAML with line numbers, overrides",
    "tfs_core/data": "documents -> token store -> batches",
    "tfs_core/builtin": "schedules, optimizers, loggers, batchings: by the same hooks as everyone's",
    "tfs_core/cli": "one small file a command",
    "plugins": "each folder is a distribution that pip installs alone; README.md says which is what",
    "examples": "training by hand, and plugins as a stranger would write them",
    "configs": "ready to run; each header says what it shows, how long it takes and what to expect",
    "assets": "what runs produce",
    "tests": "what needs more than one plugin; tests/core the core alone",
    "benchmarks": "each prints a ratio measured in one run",
    "docs": "short pages, and decisions/",
    "docs/learn": "pages of the chapter: the three models side by side",
}
WITH_FILES = ("tfs_core", "tfs_core/config", "tfs_core/data", "examples")


def first_line(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return documentation.split("\n\n")[0].replace("\n", " ").rstrip(".")


def tree() -> str:
    """Return the commented tree of the repository as a block of code."""
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
    """Return every folder of `plugins/` with its description and the components it brings, as a Markdown table."""
    from tfs_core.registry import get_registry

    registry = get_registry()
    rows = ["", "| folder | what it is | components |", "|---|---|---|"]
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
    """Return every command of the core and of this repository's plugins with its summary, as a Markdown table."""
    from tfs_core.registry import get_registry

    rows = ["", "| command | what it does | from |", "|---|---|---|"]
    for entry in get_registry().entries("command"):
        rows.append(f"| `tfs {entry.component.name}` | {entry.component.summary} | {entry.distribution} |")
    return "\n".join([*rows, ""])


def component_table() -> str:
    """Return every other component that is registered, by kind, as a Markdown table."""
    from tfs_core.registry import get_registry

    rows = ["", "| kind | name | what it is | from |", "|---|---|---|---|"]
    for kind in get_registry().kinds:
        if kind != "command":
            for entry in get_registry().entries(kind):
                rows.append(f"| {kind} | `{entry.component.name}` | {entry.component.summary} | {entry.distribution} |")
    return "\n".join([*rows, ""])


def all_help() -> str:
    """Return the help of every command, the groups' own commands included, each under its heading."""
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
    """Return what `tfs PATH --help` prints, as a block of code."""
    context, command = find_command(*path)
    return _block("\n".join(line.rstrip() for line in command.get_help(context).splitlines()))


def find_command(*path: str) -> "tuple[click.Context, click.Command]":
    """Return the command that `tfs PATH` runs, imported, and a context to ask it for its help in."""
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
    """Return the differences of two classes or functions, docstrings left out, as a block of code.

    Each is given as `tfs-custom/tfs_custom/model.py:Attention.forward`, below `plugins/`.
    """
    lines = difflib.unified_diff(source(first), source(second), first, second, n=1000, lineterm="")
    return "\n```diff\n" + "\n".join(line for line in lines if not line.startswith("@@")) + "\n```\n"


def source(place: str) -> list[str]:
    """Return the lines of a class or function without its docstrings and its indentation."""
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
