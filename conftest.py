"""Fixtures and settings for the tests of the core and of all plugins."""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

from tfs_core.registry import get_registry

# PyTorch's compiler imports setuptools, which fails if `distutils` was imported before it.
with suppress(ImportError):
    import setuptools  # noqa: F401

# No deadlines, since machines may be under load; deterministic examples, so that failures are reproducible.
settings.register_profile("tfs", deadline=None, derandomize=True)
settings.load_profile("tfs")

InstallPlugin = Callable[..., None]


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InstallPlugin]:
    """Return `install(distribution, plugin_py, **other_files)`, which creates a package with an entry point.

    The package has the distribution's name with underscores, and its module `plugin` has the given source. With
    `api=None`, the source must set TFS_PLUGIN_API itself.
    """
    folder = tmp_path / "site-packages"
    folder.mkdir()
    before = set(sys.modules)
    for variable in ("TFS_PLUGINS", "TFS_DISABLE_PLUGINS", "TFS_STRICT_PLUGINS", "TFS_DEBUG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))  # for the processes that a test starts
    get_registry.cache_clear()

    def install(distribution: str, plugin_py: str, *, entry: str = "main", api: int | None = 1, **modules: str) -> None:
        package = folder / distribution.replace("-", "_")
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        head = "from tfs_core import Component, hookimpl\nfrom tfs_core.component import Kind\n"
        head += f"TFS_PLUGIN_API = {api}\n" if api is not None else ""
        (package / "plugin.py").write_text(head + plugin_py, encoding="utf-8")
        for name, source in modules.items():
            (package / f"{name}.py").write_text(source, encoding="utf-8")
        information = folder / f"{package.name}-1.2.dist-info"
        information.mkdir(exist_ok=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n", "utf-8")
        points = f"[console_scripts]\nx = x:y\n\n[tfs.plugins]\n{entry} = {package.name}.plugin\n"
        (information / "entry_points.txt").write_text(points, encoding="utf-8")

    yield install
    get_registry.cache_clear()
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]
