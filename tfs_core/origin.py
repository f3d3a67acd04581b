"""The code that decides the steps of a run: the distributions of its components, and the files of a local model.

Every checkpoint records it. A resume builds each component from the distribution that it came from, even if another one
has the same name by then; it reports changed plugins, and refuses a changed local model.
"""

import sys
from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tfs_core.config.schema import LOCAL_MODEL
from tfs_core.errors import CheckpointError
from tfs_core.registry import Entry, get_registry
from tfs_core.stored_json import read_bytes

PLUGINS = {str: {"version": str, "sha256": (str, None), "components": [str]}}
"""The shape of `plugins` in `state.json` (see `tfs_core.stored_json`)."""


def plugins_of(entries: Iterable[Entry]) -> dict[str, Any]:
    """Return {distribution: {version, sha256, components}} of components, such as `model torch`, as JSON values.

    `sha256` is a checksum of all modules of the distribution's packages: an editable one changes without its version.
    It is null for a distribution of nothing but loggers, which decide no step.
    """
    plugins: dict[str, Any] = {}
    for entry in sorted(entries, key=lambda entry: (entry.distribution, entry.kind, entry.component.name)):
        new: dict[str, Any] = {"version": entry.version, "sha256": None, "components": []}
        plugin = plugins.setdefault(entry.distribution, new)
        plugin["components"].append(f"{entry.kind} {entry.component.name}")
        if entry.kind != "logger" and plugin["sha256"] is None:
            plugin["sha256"] = _checksum(_packages(entry.distribution))
    return plugins


def _packages(distribution: str) -> list[str]:
    """Return the top-level packages with the entry points of a distribution."""
    plugins = [plugin for plugin in get_registry().plugins if plugin.distribution == distribution]
    return sorted({plugin.reference.partition(".")[0] for plugin in plugins})


def _checksum(packages: Iterable[str]) -> str:
    digest = sha256()
    for package in packages:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        file = Path(spec.origin)
        modules = sorted(file.parent.rglob("*.py")) if spec.submodule_search_locations else [file]
        for module in modules:
            digest.update(f"{module.relative_to(file.parent).as_posix()} {_code_checksum(module)}\n".encode())
    return digest.hexdigest()


def _code_checksum(file: Path) -> str | None:
    """Return the checksum of a file's content; None if it cannot be read, or is larger than any source code."""
    try:
        return sha256(read_bytes(file, limit=1 << 24)).hexdigest()
    except (OSError, ValueError, CheckpointError):
        return None


def owners(plugins: Mapping[str, Any]) -> dict[str, str]:
    """Return {"<kind> <name>": distribution} of recorded plugins.

    `plugins` are those of `state.json`, or of the `run.json` of a run of an older tfs, which has no more than versions.
    """
    found: dict[str, str] = {}
    for name, plugin in plugins.items():
        if isinstance(plugin, dict):
            found.update(dict.fromkeys(plugin["components"], name))
        else:
            offered = (f"{it.kind} {it.component.name}" for it in get_registry().entries() if it.distribution == name)
            found.update(dict.fromkeys(offered, name))
    return found


def code_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the changes between the `plugins` and `local_files` of two states: `tfs-torch was 0.1.0, is 0.2.0`."""
    found = []
    plugins, plugins_now = before.get("plugins", {}), now["plugins"]
    for name in sorted(plugins.keys() & plugins_now.keys()):
        old, new = plugins[name], plugins_now[name]
        if old["version"] != new["version"]:
            found.append(f"{name} was {old['version']}, is {new['version']}")
        elif old["sha256"] != new["sha256"]:
            found.append(f"the code of {name} has changed")
    files, files_now = before.get("local_files", {}), now["local_files"]
    return found + [f"{name} has changed" for name, checksum in files.items() if files_now.get(name) != checksum]


def local_files(model_name: str) -> dict[str, str]:
    """Return {path: checksum} of a local model's file and of the modules that it imported from the same folder.

    Paths are relative to that folder. Empty for a model of a plugin.
    """
    match = LOCAL_MODEL.fullmatch(model_name)
    if match is None:
        return {}
    file = Path(match["file"])
    packages = {plugin.reference.partition(".")[0] for plugin in get_registry().plugins}
    files = {file}
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "/")
        is_installed = "site-packages" in path.parts or name.partition(".")[0] in packages
        if path.is_relative_to(file.parent) and not is_installed and not path.is_relative_to(sys.prefix):
            files.add(path)
    return {path.relative_to(file.parent).as_posix(): _code_checksum(path) or "" for path in sorted(files)}


def changed_local_files(model_name: str, recorded: Mapping[str, str]) -> list[str]:
    """Return the recorded files of a local model that have another content now, or are missing."""
    match = LOCAL_MODEL.fullmatch(model_name)
    if match is None:
        return []
    folder = Path(match["file"]).parent
    return [path for path, checksum in recorded.items() if _code_checksum(folder / path) != checksum]
