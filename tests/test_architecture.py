"""Import rules: models do not import the trainer, plugins do not import other plugins, the core imports no plugin.

Each rule is a function of a folder with the project's layout. So it is also tested on a small project that violates
it, with every form of import in Python.

One exception: a plugin may import `tfs_lab.testing` if its pyproject.toml declares tfs-lab. For its package, tfs-lab
must be in `dependencies`; for its tests and scripts, an extra or a dependency group is sufficient.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(path.parent for folder in ("plugins", "examples") for path in ROOT.glob(f"{folder}/*/pyproject.toml"))

IMPORTERS = {"import_module", "__import__", "load_reference", "resolve_name", "run_module"}
"""Functions that import the module named by their first argument."""

TRAINING_LIBRARIES = ("torch", "safetensors")
"""The libraries of the extra `train`, which reading runs and configurations must not need."""

READING_HALF = (
    *("tfs_core", "tfs_core.contracts", "tfs_core.component", "tfs_core.hookspecs", "tfs_core.plugins"),
    *("tfs_core.registry", "tfs_core.config", "tfs_core.runs", "tfs_core.durable", "tfs_core.errors"),
    *("tfs_core.terminal", "tfs_core.records", "tfs_core.cli.main", "tfs_core.cli.plugins", "tfs_core.cli.config"),
    *("tfs_core.builtin.plugin",),
)
"""Modules that read runs, configurations and plugins. They must not import the training libraries, even indirectly."""

FORBIDDEN: Mapping[str, tuple[str, ...]] = {
    "tfs_core.config": (
        *TRAINING_LIBRARIES,
        *(f"tfs_core.{it}" for it in ("run", "trainer", "cli", "builtin", "data")),
    ),
    "tfs_core.data": tuple(
        f"tfs_core.{it}" for it in ("run", "trainer", "checkpoint", "checkpoint_folder", "cli", "builtin", "runs")
    ),
    "tfs_core.models": tuple(f"tfs_core.{it}" for it in ("run", "trainer", "data", "cli", "builtin", "runs")),
    "tfs_core.trainer": ("tfs_core.run", "tfs_core.cli", "tfs_core.builtin"),
    "tfs_core.run": ("tfs_core.cli", "tfs_core.builtin"),
    "tfs_core.builtin": ("tfs_core.cli", "tfs_core.run", "tfs_core.trainer"),
}
"""Module -> modules that it must not import, not even inside functions: they are later in the data flow."""

ALLOWED: Mapping[str, tuple[str, ...]] = {
    "tfs_core.component": (),
    "tfs_core.contracts": ("tfs_core.records",),
    "tfs_core.hookspecs": ("tfs_core.component",),
}
"""Interface modules -> all core modules that they may import. The contracts import the records for types only."""

NAMES_A_PLUGIN = {"tfs_core.testing", "tfs_core.config.implied"}
"""The core modules that may name a plugin: the new home of a module, and the plugin that a setting needs."""


PRINTING = {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write", "traceback.print_exception"}
"""Functions that print text as it is. Only `tfs_core.terminal` may call them."""


@dataclass(frozen=True)
class Import:
    """An import of a module, by its absolute name."""

    module: str
    deferred: bool  # inside a function, so not executed when the importing module is imported
    for_types: bool  # under `if TYPE_CHECKING:`


class Project:
    """The modules of a folder with the project's layout, and their imports."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.plugins = sorted(path.parent for path in root.glob("*/*/pyproject.toml"))
        self.packages = {folder.name.replace("-", "_") for folder in self.plugins}
        self.files: dict[str, Path] = {}
        for folder in [root / "tfs_core", *(plugin / plugin.name.replace("-", "_") for plugin in self.plugins)]:
            for path in sorted(folder.rglob("*.py")):
                parts = path.relative_to(folder.parent).with_suffix("").parts
                self.files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        self.imports = cache(self._imports)

    def modules(self, part: str) -> list[str]:
        """Return a module, or the modules of a package."""
        return [name for name in self.files if f"{name}.".startswith(f"{part}.")]

    def imports_of(self, module: str) -> list[Import]:
        """Return the imports of a module."""
        path = self.files[module]
        return self.imports(path, module if path.stem == "__init__" else module.rpartition(".")[0])

    def _imports(self, path: Path, package: str) -> list[Import]:
        finder = ImportFinder(self, package)
        finder.visit(ast.parse(path.read_text(encoding="utf-8")))
        return finder.found


class ImportFinder(ast.NodeVisitor):
    """Collects the imports of a file, in every form."""

    def __init__(self, project: Project, package: str) -> None:
        self.project = project
        self.package = package  # base of relative imports
        self.found: list[Import] = []
        self.deferred = self.for_types = False
        self.bound: dict[str, str] = {}  # name in the file -> the module or importing function that it refers to

    def add(self, module: str) -> None:
        self.found.append(Import(module, self.deferred, self.for_types))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name)
            self.bound[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = self.absolute("." * node.level + (node.module or ""))
        self.add(module)
        for alias in node.names:
            names = [f"{module}.{alias.name}"]
            if alias.name == "*":
                names = [name for name in self.project.files if name.startswith(f"{module}.")]
            for name in names:
                if name in self.project.files:
                    self.add(name)
            self.bound[alias.asname or alias.name] = f"{module}.{alias.name}"

    def visit_Call(self, node: ast.Call) -> None:
        name = (self.dotted(node.func) or "").rpartition(".")[2]
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        texts = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
        if name in IMPORTERS and texts and isinstance(texts[0], str):
            module, _, attribute = texts[0].partition(":")
            self.add(self.absolute(module, *(text for text in texts[1:] if isinstance(text, str))))
            if (submodule := f"{module}.{attribute}") in self.project.files:
                self.add(submodule)
            for argument in arguments:  # __import__("tfs_core", fromlist=["trainer"])
                for element in argument.elts if isinstance(argument, (ast.List, ast.Tuple)) else []:
                    if isinstance(element, ast.Constant) and f"{module}.{element.value}" in self.project.files:
                        self.add(f"{module}.{element.value}")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if (name := self.dotted(node)) in self.project.files:  # tfs_core.run, which imports itself
            self.add(name)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if self.dotted(node.value) == "sys.modules" and isinstance(node.slice, ast.Constant):
            self.add(str(node.slice.value))
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        before, self.deferred = self.deferred, True
        self.generic_visit(node)
        self.deferred = before

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef  # noqa: N815 (the names are ast's)

    def visit_If(self, node: ast.If) -> None:
        before, self.for_types = self.for_types, ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"
        for child in node.body:
            self.visit(child)
        self.for_types = before
        for child in [node.test, *node.orelse]:
            self.visit(child)

    def dotted(self, node: ast.AST) -> str | None:
        """Return the full name of a name or of a module's attribute, such as `importlib.import_module`."""
        if isinstance(node, ast.Name):
            return self.bound.get(node.id, node.id)
        if isinstance(node, ast.Attribute) and (owner := self.dotted(node.value)):
            return f"{owner}.{node.attr}"
        return None

    def absolute(self, module: str, package: str | None = None) -> str:
        """Return the absolute name of a module that may be relative: `..trainer`."""
        level = len(list(takewhile(".".__eq__, module)))
        if level == 0:
            return module
        parents = (package or self.package).split(".")
        return ".".join([*parents[: len(parents) - level + 1], module[level:]]).strip(".")


def is_in(module: str, part: str) -> bool:
    return f"{module}.".startswith(f"{part}.")


def outward_imports(project: Project) -> Iterator[str]:
    """Iterate over violations of `FORBIDDEN` and `ALLOWED`."""
    for part, forbidden in FORBIDDEN.items():
        for module in project.modules(part):
            for it in project.imports_of(module):
                if any(is_in(it.module, outside) for outside in forbidden):
                    yield f"{module} imports {it.module}"
    for module, allowed in ALLOWED.items():
        for it in project.imports_of(module):
            if is_in(it.module, "tfs_core") and it.module not in (*allowed, module):
                yield f"{module} imports {it.module}"
            elif it.module == "tfs_core.records" and not it.for_types:
                yield f"{module} imports {it.module}, and not for types only"


def torch_for_reading(project: Project) -> Iterator[str]:
    """Iterate over import chains from `READING_HALF` to a training library, without imports inside functions."""
    for start in (
        name for part in READING_HALF for name in project.modules(part) if part != "tfs_core" or name == part
    ):
        came_from: dict[str, str | None] = {start: None}
        waiting = [start]
        while waiting:
            module = waiting.pop()
            imported = [it.module for it in project.imports_of(module) if not it.deferred and not it.for_types]
            for name in imported:
                if any(is_in(name, library) for library in TRAINING_LIBRARIES):
                    way, step = [name], module
                    while step is not None:
                        way, step = [step, *way], came_from[step]
                    yield " imports ".join(way)
                parts = name.split(".")
                for stop in range(1, len(parts) + 1):  # its parent packages are imported first
                    if (it := ".".join(parts[:stop])) in project.files and it not in came_from:
                        came_from[it] = module
                        waiting.append(it)


def import_circles(project: Project) -> Iterator[str]:
    """Iterate over circular imports; imports inside functions are ignored."""
    finished: set[str] = set()

    def follow(module: str, way: list[str]) -> Iterator[str]:
        if module in way:
            yield " imports ".join([*way[way.index(module) :], module])
        elif module not in finished:
            for it in project.imports_of(module):
                if it.module in project.files and it.module != module and not it.deferred and not it.for_types:
                    yield from follow(it.module, [*way, module])
            finished.add(module)

    for module in project.files:
        yield from follow(module, [])


def foreign_plugins(project: Project) -> Iterator[str]:
    """Iterate over the imports of a plugin by another plugin."""
    for folder in project.plugins:
        own = folder.name.replace("-", "_")
        declared, in_extras = requirements(folder / "pyproject.toml")
        for path in sorted(folder.rglob("*.py")):
            in_package = path.is_relative_to(folder / own)
            package = ".".join(path.relative_to(folder).parent.parts) if in_package else ""
            may_use_lab = "tfs-lab" in declared or (not in_package and "tfs-lab" in in_extras)
            for it in project.imports(path, package):
                if it.module.partition(".")[0] not in project.packages - {own}:
                    continue
                where = f"{path.relative_to(project.root)} imports {it.module}"
                if not is_in(it.module, "tfs_lab.testing") and it.module != "tfs_lab":
                    yield f"{where}: plugins meet in the registry only"
                elif not may_use_lab:
                    yield f"{where}, which {folder.name}/pyproject.toml does not declare"


def requirements(path: Path) -> tuple[set[str], set[str]]:
    """Return the dependencies of a pyproject.toml, and those of its extras and dependency groups."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    extras = {**values["project"].get("optional-dependencies", {}), **values.get("dependency-groups", {})}

    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines if isinstance(line, str)}

    return names(values["project"].get("dependencies", [])), names(
        [line for lines in extras.values() for line in lines]
    )


def plugins_that_the_core_names(project: Project) -> Iterator[str]:
    """Iterate over the plugins that the core imports, or names in a string other than a docstring."""
    for module in project.modules("tfs_core"):
        tree = ast.parse(project.files[module].read_text(encoding="utf-8"))
        documentation = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        texts = [joined(node) for node in ast.walk(tree) if id(node) not in documentation]
        words = {word.lower() for text in texts for word in re.findall(r"tfs[_-]\w+", text, re.IGNORECASE)}
        words |= {it.module.partition(".")[0] for it in project.imports_of(module)}
        named = {word.replace("-", "_") for word in words} & project.packages
        if named and module not in NAMES_A_PLUGIN:
            yield f"{module} names {', '.join(sorted(named))}"


def printed_past_the_escape(project: Project) -> Iterator[str]:
    """Iterate over the calls that print without `tfs_core.terminal.say`, which escapes."""
    for module, file in project.files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in PRINTING and module != "tfs_core.terminal":
                yield f"{module}:{node.lineno} calls {ast.unparse(node.func)}"


def joined(node: ast.AST) -> str:
    """Return the value of a string literal or of concatenated literals."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return joined(left) + joined(right)
        case ast.JoinedStr(values=values):
            return "".join(joined(value) for value in values)
        case ast.FormattedValue(value=value):
            return joined(value)
    return ""


RULES = (
    outward_imports,
    torch_for_reading,
    import_circles,
    foreign_plugins,
    plugins_that_the_core_names,
    printed_past_the_escape,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_project_keeps_the_rule(rule: type[Iterator[str]]) -> None:
    assert list(rule(Project(ROOT))) == []


def test_rules_are_about_modules_that_there_are() -> None:
    project = Project(ROOT)
    for part in [*READING_HALF, *FORBIDDEN, *ALLOWED, *(one for parts in FORBIDDEN.values() for one in parts)]:
        assert project.modules(part) or part in TRAINING_LIBRARIES, f"there is no {part}"


TREE = {
    "tfs_core/__init__.py": "from importlib import import_module\n",
    "tfs_core/component.py": "",
    "tfs_core/records.py": "",
    "tfs_core/errors.py": "",
    "tfs_core/contracts.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    "    from tfs_core.records import StepRecord\n",
    "tfs_core/hookspecs.py": "from tfs_core.component import Component\n",
    "tfs_core/plugins.py": "from tfs_core import hookspecs\n",
    "tfs_core/registry.py": "from tfs_core.plugins import discover\n",
    "tfs_core/runs.py": "",
    "tfs_core/models.py": "import torch\n",
    "tfs_core/machine.py": "import torch\n",
    "tfs_core/trainer.py": "import torch\n",
    "tfs_core/checkpoint.py": "from safetensors.torch import save_file\n",
    "tfs_core/run.py": "from tfs_core.trainer import Trainer\nfrom tfs_core.data.store import Store\n",
    "tfs_core/testing.py": "raise ImportError('pip install tfs-lab')\n",
    "tfs_core/config/__init__.py": "from tfs_core.config.schema import RunConfig\n",
    "tfs_core/config/schema.py": "",
    "tfs_core/data/__init__.py": "",
    "tfs_core/data/store.py": "from tfs_core.errors import DataError\n",
    "tfs_core/builtin/__init__.py": "",
    "tfs_core/builtin/plugin.py": "FACTORY = 'tfs_core.cli.main:main'\n",
    "tfs_core/cli/__init__.py": "",
    "tfs_core/cli/main.py": "def main():\n    from tfs_core.run import run\n",
    "plugins/tfs-lab/pyproject.toml": "[project]\ndependencies = []\n",
    "plugins/tfs-lab/tfs_lab/__init__.py": "",
    "plugins/tfs-lab/tfs_lab/report.py": "",
    "plugins/tfs-lab/tfs_lab/testing.py": "from tfs_lab.report import Report\n",
    "plugins/tfs-one/pyproject.toml": "[project]\ndependencies = ['tfs-core']\n",
    "plugins/tfs-one/tfs_one/__init__.py": "",
    "plugins/tfs-one/tfs_one/parts/__init__.py": "",
    "plugins/tfs-one/tfs_one/parts/model.py": "from tfs_core.models import AutogradModel\nfrom .. import parts\n",
    "plugins/tfs-two/pyproject.toml": "[project]\ndependencies = []\noptional-dependencies.test = ['Tfs_Lab>=0.1']\n",
    "plugins/tfs-two/tfs_two/__init__.py": "",
    "plugins/tfs-two/tests/test_it.py": "from tfs_lab.testing import check\n",
}
"""A small project without violations."""

STORE, SCHEMA, REGISTRY = "tfs_core/data/store.py", "tfs_core/config/schema.py", "tfs_core/registry.py"
ONE, TESTS_OF_ONE = "plugins/tfs-one/tfs_one/parts/model.py", "plugins/tfs-one/tests/test_it.py"
TRAINER_IN_DATA = "tfs_core.data.store imports tfs_core.trainer"

EVASIONS = {
    # The forms of an import.
    "import": (STORE, "import tfs_core.trainer", TRAINER_IN_DATA),
    "import as": (STORE, "import tfs_core.trainer as other", TRAINER_IN_DATA),
    "from": (STORE, "from tfs_core.trainer import Trainer", TRAINER_IN_DATA),
    "from the package": (STORE, "from tfs_core import trainer", TRAINER_IN_DATA),
    "from the package as": (STORE, "from tfs_core import errors, trainer as other", TRAINER_IN_DATA),
    "star": (STORE, "from tfs_core import *", TRAINER_IN_DATA),
    "relative": (STORE, "from ..trainer import Trainer", TRAINER_IN_DATA),
    "relative from the package": (STORE, "from .. import trainer", TRAINER_IN_DATA),
    "relative in a package's own file": (
        "tfs_core/data/__init__.py",
        "from .. import run",
        "tfs_core.data imports tfs_core.run",
    ),
    "inside a function": (STORE, "def f():\n    from tfs_core import trainer", TRAINER_IN_DATA),
    "inside a method": (STORE, "class A:\n    async def f(self):\n        import tfs_core.trainer", TRAINER_IN_DATA),
    "under a try": (STORE, "try:\n    from tfs_core import trainer\nexcept ImportError:\n    pass", TRAINER_IN_DATA),
    "for types": (
        STORE,
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tfs_core import trainer",
        TRAINER_IN_DATA,
    ),
    "import_module": (STORE, "import importlib\nimportlib.import_module('tfs_core.trainer')", TRAINER_IN_DATA),
    "import_module by its name": (
        STORE,
        "from importlib import import_module\nimport_module(name='tfs_core.trainer')",
        TRAINER_IN_DATA,
    ),
    "import_module by another name": (
        STORE,
        "from importlib import import_module as load\ndef f():\n    return load('tfs_core.trainer')",
        TRAINER_IN_DATA,
    ),
    "import_module of importlib by another name": (
        STORE,
        "import importlib as i\ni.import_module('tfs_core.trainer')",
        TRAINER_IN_DATA,
    ),
    "import_module, relative": (
        STORE,
        "import importlib\nimportlib.import_module('..trainer', 'tfs_core.data')",
        TRAINER_IN_DATA,
    ),
    "import_module, relative to __package__": (
        STORE,
        "import importlib\nimportlib.import_module('..trainer', __package__)",
        TRAINER_IN_DATA,
    ),
    "__import__": (STORE, "__import__('tfs_core.trainer')", TRAINER_IN_DATA),
    "__import__ with fromlist": (STORE, "__import__('tfs_core', fromlist=['trainer'])", TRAINER_IN_DATA),
    "load_reference": (
        STORE,
        "from tfs_core.plugins import load_reference\nload_reference('tfs_core.trainer:Trainer')",
        TRAINER_IN_DATA,
    ),
    "an attribute": (STORE, "import tfs_core\ndef f():\n    return tfs_core.trainer.Trainer", TRAINER_IN_DATA),
    "an attribute of another name": (STORE, "import tfs_core as core\nx = core.trainer", TRAINER_IN_DATA),
    "sys.modules": (STORE, "import sys\nx = sys.modules['tfs_core.trainer']", TRAINER_IN_DATA),
    # The rules about parts of the core.
    "data imports runs": (STORE, "from tfs_core import runs", "tfs_core.data.store imports tfs_core.runs"),
    "data imports a checkpoint": (STORE, "from ..checkpoint import x", "store imports tfs_core.checkpoint"),
    "data imports cli": (STORE, "from ..cli import main", "store imports tfs_core.cli"),
    "data imports builtin": (STORE, "from ..builtin import plugin", "store imports tfs_core.builtin"),
    "config imports data": (SCHEMA, "def f():\n    from ..data import store", "schema imports tfs_core.data"),
    "config imports run": (SCHEMA, "from tfs_core import run", "schema imports tfs_core.run"),
    "config imports torch in a function": (SCHEMA, "def f():\n    import torch", "schema imports torch"),
    "a model imports data": ("tfs_core/models.py", "from .data import store", "models imports tfs_core.data"),
    "the trainer imports run": ("tfs_core/trainer.py", "from . import run", "tfs_core.trainer imports tfs_core.run"),
    "run imports cli": ("tfs_core/run.py", "def f():\n    from .cli import main", "run imports tfs_core.cli"),
    "builtin imports run": ("tfs_core/builtin/plugin.py", "from tfs_core import run", "plugin imports tfs_core.run"),
    "contracts import": ("tfs_core/contracts.py", "from tfs_core import errors", "contracts imports tfs_core.errors"),
    "contracts import for types": (
        "tfs_core/contracts.py",
        "if TYPE_CHECKING:\n    from . import runs",
        "contracts imports tfs_core.runs",
    ),
    "contracts import records": (
        "tfs_core/contracts.py",
        "from tfs_core.records import StepRecord",
        "contracts imports tfs_core.records, and not for types only",
    ),
    "components import": ("tfs_core/component.py", "from .errors import A", "component imports tfs_core.errors"),
    "hookspecs import": ("tfs_core/hookspecs.py", "from . import contracts", "hookspecs imports tfs_core.contracts"),
    # Reading without the training libraries.
    "torch": (REGISTRY, "import torch.nn", "tfs_core.registry imports torch.nn"),
    "safetensors": ("tfs_core/runs.py", "from safetensors import safe_open", "runs imports safetensors"),
    "torch, in a class": (REGISTRY, "class A:\n    import torch", "tfs_core.registry imports torch"),
    # What prints.
    "print": (STORE, "def f(name):\n    print(name)", "tfs_core.data.store:3 calls print"),
    "echo": (ONE, "import click\nclick.echo('x')", "parts.model:4 calls click.echo"),
    "torch, through a module": (REGISTRY, "from . import machine", "registry imports tfs_core.machine imports torch"),
    "torch, through two": (
        "tfs_core/runs.py",
        "from tfs_core.run import run",
        "runs imports tfs_core.run imports tfs_core.trainer imports torch",
    ),
    "torch, through a package": (
        "tfs_core/data/__init__.py",
        "import torch",
        "tfs_core.registry imports tfs_core.data imports torch",
        (REGISTRY, "from tfs_core.data.store import Store"),
    ),
    "torch, not for types only": (
        REGISTRY,
        "from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    import torch",
        "tfs_core.registry imports torch",
    ),
    "torch, in the other branch": (
        REGISTRY,
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import torch",
        "tfs_core.registry imports torch",
    ),
    # Circles.
    "a circle of two": (
        "tfs_core/errors.py",
        "from .data import store",
        "tfs_core.data.store imports tfs_core.errors imports tfs_core.data.store",
    ),
    "a circle in a plugin": (
        "plugins/tfs-lab/tfs_lab/report.py",
        "from tfs_lab import testing",
        "tfs_lab.report imports tfs_lab.testing imports tfs_lab.report",
    ),
    # Plugins.
    "a plugin imports another": (ONE, "import tfs_two", "parts/model.py imports tfs_two: plugins meet in the registry"),
    "a plugin imports another in a function": (ONE, "def f():\n    from tfs_two import x", "imports tfs_two: plugins"),
    "a plugin imports another by a string": (ONE, "__import__('tfs_two.x')", "imports tfs_two.x: plugins meet"),
    "a test imports another plugin": (TESTS_OF_ONE, "import tfs_two", "test_it.py imports tfs_two: plugins meet"),
    "a script imports another plugin": ("plugins/tfs-one/script.py", "import tfs_two", "script.py imports tfs_two"),
    "a plugin imports the lab's other parts": (
        "plugins/tfs-two/tests/test_it.py",
        "from tfs_lab.report import Report",
        "imports tfs_lab.report: plugins meet in the registry only",
    ),
    "a plugin imports the lab's other parts from it": (
        "plugins/tfs-two/tests/test_it.py",
        "from tfs_lab import report",
        "imports tfs_lab.report: plugins meet in the registry only",
    ),
    "a test imports the lab undeclared": (
        TESTS_OF_ONE,
        "from tfs_lab.testing import x",
        "imports tfs_lab.testing, which tfs-one/pyproject.toml does not declare",
    ),
    "a package imports the lab, declared for tests": (
        "plugins/tfs-two/tfs_two/__init__.py",
        "def f():\n    from tfs_lab import testing",
        "imports tfs_lab.testing, which tfs-two/pyproject.toml does not declare",
    ),
    # The core names no plugin.
    "the core imports a plugin": ("tfs_core/run.py", "def f():\n    import tfs_one", "tfs_core.run names tfs_one"),
    "the core names a plugin": ("tfs_core/run.py", "x = 'pip install tfs-one'", "tfs_core.run names tfs_one"),
    "the core names a plugin in an f-string": ("tfs_core/run.py", "x = f'{1} Tfs_One'", "run names tfs_one"),
    "the core names a plugin in two parts": ("tfs_core/run.py", "x = 'tfs-' + 'one'", "run names tfs_one"),
}
"""Description -> (file, added lines, expected message[, another file, added lines])."""


def grown(root: Path, *additions: tuple[str, str]) -> Project:
    """Return the small project with added lines."""
    tree = dict(TREE)
    for name, lines in additions:
        tree[name] = tree.get(name, "") + lines + "\n"
    for name, source in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")
    return Project(root)


def complaints(project: Project) -> list[str]:
    return [complaint for rule in RULES for complaint in rule(project)]


def test_small_project_keeps_the_rules(tmp_path: Path) -> None:
    assert complaints(grown(tmp_path)) == []


@pytest.mark.parametrize("evasion", EVASIONS.values(), ids=EVASIONS)
def test_rule_cannot_be_evaded(tmp_path: Path, evasion: tuple[str, str, str]) -> None:
    file, lines, complaint, *more = evasion
    found = complaints(grown(tmp_path, (file, lines), *more))
    assert any(complaint in one for one in found), found


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        (REGISTRY, "def f():\n    import torch\n    from tfs_core import run"),
        (REGISTRY, "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("tfs_core/errors.py", "def f():\n    from tfs_core.data import store"),
        ("tfs_core/run.py", '"""Said in the documentation: tfs-one."""'),
        (STORE, "import tfs_core\nx = tfs_core.__version__"),
        ("plugins/tfs-two/tests/test_it.py", "from tfs_lab import testing"),
    ],
)
def test_rule_accepts_valid_imports(tmp_path: Path, file: str, lines: str) -> None:
    assert complaints(grown(tmp_path, (file, lines))) == []


WITHOUT_TRAINING_LIBRARIES = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAINING_LIBRARIES!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Absent())
from tfs_core.cli.main import main
main()
"""

CONFIGURATION = """\
experiment_name: reading
data: {dataset: python-stdlib, tokenizer: byte, max_length: 32}
model: {name: torch, d_model: 16, n_heads: 2, max_seq_len: 32}
training: {max_steps: 1, batch_size: 2}
"""


def without_training_libraries(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tfs` in a process where torch and safetensors cannot be imported."""
    (folder / "run.yaml").write_text(CONFIGURATION, encoding="utf-8")
    environment = {**os.environ, "TFS_STRICT_PLUGINS": "1"}
    command = [sys.executable, "-c", WITHOUT_TRAINING_LIBRARIES, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plugins"],
        ["plugins", "--json"],
        ["plugins", "show", "cosine"],
        ["plugins", "show", "torch"],
        ["config", "validate", "run.yaml"],
        ["config", "show", "run.yaml"],
    ],
    ids=" ".join,
)
def test_reading_works_without_the_training_libraries(tmp_path: Path, arguments: list[str]) -> None:
    process = without_training_libraries(tmp_path, *arguments)
    assert process.stderr == ""
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", [["run", "--config", "run.yaml"], ["evaluate", "reading"]], ids=" ".join)
def test_training_without_its_libraries_says_what_to_install(tmp_path: Path, arguments: list[str]) -> None:
    process = without_training_libraries(tmp_path, *arguments)
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1
    assert re.search(r"""pip install ['"]tfs-core\[train\]['"]""", process.stderr), process.stderr


def test_former_place_of_the_checks_says_where_they_are() -> None:
    with pytest.raises(ImportError, match=r"tfs_lab\.testing.*pip install tfs-lab"):
        __import__("tfs_core.testing")


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_plugin_has_the_files_that_every_plugin_has(folder: Path) -> None:
    package = folder / folder.name.replace("-", "_")
    for path in (folder / "README.md", package / "plugin.py", package / "__init__.py"):
        assert path.exists(), f"{path.relative_to(ROOT)} is missing"
    assert list((folder / "tests").glob("test_*.py")), f"{folder.name} has no tests"
    assert not (folder / "__init__.py").exists()


@pytest.mark.parametrize("folder", [ROOT, *PLUGINS], ids=lambda folder: folder.name)
def test_distribution_contains_its_own_package_only(folder: Path) -> None:
    package = "tfs_core" if folder == ROOT else folder.name.replace("-", "_")
    values = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert values["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [package]


def test_requirements_dev_lists_every_plugin() -> None:
    lines = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    listed = {
        line.removeprefix("-e ").partition("[")[0] for line in lines if line.startswith(("-e plugins/", "-e examples/"))
    }
    assert listed == {f"{folder.parent.name}/{folder.name}" for folder in PLUGINS}


def test_files_are_named_after_what_they_know() -> None:
    nameless = {"utils.py", "helpers.py", "base.py", "common.py", "misc.py"}
    names = [path.name for folder in ("tfs_core", "plugins", "examples") for path in ROOT.glob(f"{folder}/**/*.py")]
    assert len(names) > 100
    assert nameless.isdisjoint(names)
