"""Imports point inward, to the contracts: a model knows no trainer, a plugin no other plugin, the core no plugin."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(path.parent for folder in ("plugins", "examples") for path in ROOT.glob(f"{folder}/*/pyproject.toml"))
PLUGIN_PACKAGES = {folder.name.replace("-", "_") for folder in PLUGINS}

# What each part of the core may not import: the arrow of the flow points the other way.
FORBIDDEN = {
    "contracts.py": ["tfs_core.data", "tfs_core.training", "tfs_core.config", "tfs_core.cli", "tfs_core.builtin"],
    "models.py": ["tfs_core.data", "tfs_core.training", "tfs_core.cli", "tfs_core.builtin", "tfs_core.runs"],
    "data": ["tfs_core.training", "tfs_core.cli", "tfs_core.builtin", "tfs_core.generation", "tfs_core.runs"],
    "runs.py": ["torch", "tfs_core.training", "tfs_core.data", "tfs_core.cli", "tfs_core.builtin"],
    "generation.py": ["tfs_core.training", "tfs_core.cli", "tfs_core.builtin"],
    "training": ["tfs_core.cli", "tfs_core.builtin"],
    "builtin": ["tfs_core.cli"],
    "config": ["torch", "tfs_core.training", "tfs_core.cli", "tfs_core.builtin"],
}


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def docstrings(tree: ast.AST) -> set[int]:
    """Return the ids of the string constants that only document: statements that are a string."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_plugin_imports_no_other_plugin(folder: Path) -> None:
    own = folder.name.replace("-", "_")
    for path in (folder / own).rglob("*.py"):
        foreign = {module.split(".")[0] for module in imported_modules(path)} & (PLUGIN_PACKAGES - {own})
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}: plugins meet in the registry only"


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_plugin_has_the_files_that_every_plugin_has(folder: Path) -> None:
    package = folder / folder.name.replace("-", "_")
    for path in (folder / "README.md", package / "plugin.py", package / "__init__.py"):
        assert path.exists(), f"{path.relative_to(ROOT)} is missing"
    assert list((folder / "tests").glob("test_*.py")), f"{folder.name} has no tests"
    assert not (folder / "__init__.py").exists()


def test_core_names_no_plugin() -> None:
    for path in (ROOT / "tfs_core").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = docstrings(tree)
        words = {
            word
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
            for word in re.findall(r"tfs[_-]\w+", node.value)
        } | {module.split(".")[0] for module in imported_modules(path)}
        named = {word.replace("-", "_") for word in words} & PLUGIN_PACKAGES
        assert not named, f"{path.relative_to(ROOT)} names {named}"


@pytest.mark.parametrize("part", FORBIDDEN)
def test_core_part_imports_only_inward(part: str) -> None:
    place = ROOT / "tfs_core" / part
    paths = place.rglob("*.py") if place.is_dir() else [place]
    for path in paths:
        for module in imported_modules(path):
            for forbidden in FORBIDDEN[part]:
                assert not f"{module}.".startswith(f"{forbidden}."), f"{path.relative_to(ROOT)} imports {module}"


def test_requirements_dev_lists_every_plugin() -> None:
    lines = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    listed = {
        line.removeprefix("-e ").partition("[")[0] for line in lines if line.startswith(("-e plugins/", "-e examples/"))
    }
    assert listed == {f"{folder.parent.name}/{folder.name}" for folder in PLUGINS}


def test_files_are_named_after_what_they_know() -> None:
    nameless = {"utils.py", "helpers.py", "base.py", "common.py", "misc.py"}
    found = [
        path
        for path in [*ROOT.glob("tfs_core/**/*.py"), *ROOT.glob("plugins/**/*.py"), *ROOT.glob("examples/**/*.py")]
        if path.name in nameless
    ]
    assert not found
