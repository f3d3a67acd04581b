"""Checks of `tfs plugins check`: references resolve and fit their kind, options are documented, imports are light."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tfs_core.contracts import ModelConfig
from tfs_core.errors import PluginError
from tfs_core.plugins import Plugin, describe, load_reference
from tfs_core.registry import Entry, get_registry

HEAVY = {
    "dash",
    "datasets",
    "flask",
    "huggingface_hub",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "tokenizers",
    "torch",
}
"""Modules that a plugin's module must not import, directly or indirectly, because every `tfs --help` imports it.
The module of a configuration class may import pydantic, which validates configurations, but none of the others."""


@dataclass(frozen=True)
class Finding:
    """A checked item and its problem; None when there is no problem."""

    subject: str
    problem: str | None = None


def check_plugin(plugin: Plugin) -> Iterator[Finding]:
    """Iterate over the findings of all checks of a plugin. Imports everything that the plugin refers to."""
    if plugin.disabled_by:
        yield Finding(f"plugin {plugin.distribution}", f"it is disabled by {plugin.disabled_by}")
        return
    complaints = [*plugin.problems, *plugin.clashes]
    yield from [Finding(plugin.reference, complaint) for complaint in complaints] or [Finding(plugin.reference)]
    if not plugin.loaded:
        return
    yield from (Finding(reason) for reason in plugin.unused)
    yield _check_light(plugin.reference, HEAVY)
    configs = [component.config for _, component in plugin.components if component.config]
    for module in dict.fromkeys(config.partition(":")[0] for config in configs):
        yield _check_light(module, HEAVY - {"pydantic"})
    for declared in plugin.kinds:
        if declared.protocol:
            yield Finding(f"kind '{declared.name}': protocol {declared.protocol}", _protocol_problem(declared.protocol))
    for kind, component in plugin.components:
        entry = Entry(kind, component, plugin.distribution, plugin.version)
        label = f"{kind} '{component.name}'"
        yield _check(f"{label}: factory {component.factory}", entry, _factory_problem)
        if component.config:
            yield _check(f"{label}: config {component.config}", entry, _config_problem)
        if component.loader:
            yield _check(f"{label}: loader {component.loader}", entry, _loader_problem)


def _check(subject: str, entry: Entry, problem: Callable[[Entry], str | None]) -> Finding:
    try:
        return Finding(subject, problem(entry))
    except PluginError as error:
        return Finding(subject, describe(error.__cause__) if error.__cause__ else str(error))


def _check_light(reference: str, heavy: set[str]) -> Finding:
    """Import a module in a fresh process and report the heavy modules that it imports."""
    module = reference.partition(":")[0]
    code = (
        "import importlib, json, sys\n"
        "importlib.import_module(sys.argv[1])\n"
        "print(json.dumps([name for name in sys.argv[2:] if name in sys.modules]))"
    )
    command = [sys.executable, "-P", "-c", code, module, *sorted(heavy)]
    process = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    subject = f"importing {module} in a fresh process"
    if process.returncode:
        return Finding(subject, (process.stderr.strip().splitlines() or ["the import ended the process"])[-1])
    if not (imported := json.loads(process.stdout.splitlines()[-1])):
        return Finding(subject)
    return Finding(subject, f"it imports {', '.join(imported)}, which belongs in the module of the factory")


def _factory_problem(entry: Entry) -> str | None:
    factory = entry.load_factory()
    if entry.kind == "command":
        import click

        return None if isinstance(factory, click.Command) else "it is not a click command"
    keywords = get_registry().kinds[entry.kind].keywords
    return None if keywords is None else _call_problem(factory, "config", keywords)


def _protocol_problem(reference: str) -> str | None:
    try:
        protocol = load_reference(reference)
    except Exception as error:  # a plugin's own code may raise anything
        return describe(error)
    return None if isinstance(protocol, type) else "it is not a class"


def _loader_problem(entry: Entry) -> str | None:
    return _call_problem(entry.load_loader(), "folder")


def _call_problem(called: Callable[..., object], argument: str, keywords: tuple[str, ...] = ()) -> str | None:
    """Return the reason why a callable rejects one argument with these keywords; None when it accepts them."""
    try:
        inspect.signature(called).bind(None, **dict.fromkeys(keywords))
    except TypeError as error:
        return f"it is called as ({', '.join([argument, *(f'{name}=...' for name in keywords)])}): {error}"
    except ValueError:
        return None  # a callable written in C may have no readable signature
    return None


def _config_problem(entry: Entry) -> str | None:
    from tfs_core.config.documentation import field_docs

    config = entry.load_config_class()
    assert config is not None  # called only for components with a configuration class
    if entry.kind == "model" and not issubclass(config, ModelConfig):
        return "it does not extend tfs_core.contracts.ModelConfig, the base class of every model's options"
    fields = [field for field in dataclasses.fields(config) if field.init]
    path_option = entry.component.path_option
    if path_option is not None and path_option not in {field.name for field in fields}:
        return f"it has no option '{path_option}', which the component's path_option names"
    if undocumented := sorted({field.name for field in fields} - field_docs(config).keys()):
        return f"undocumented: {', '.join(undocumented)}: put a string under each that says how to choose its value"
    required = [f for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    if not required:
        try:
            config()
        except Exception as error:  # a plugin's own code may raise anything
            return f"its defaults do not go together: {describe(error)}"
    return None
