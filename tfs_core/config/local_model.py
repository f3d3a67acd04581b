"""Import a model from a local file instead of a plugin: `name: ./my_model.py:MyModel`.

This is the only place where such a file is imported, and it asks for the permission itself. Security: a run folder or
checkpoint that names a file is not enough. The user must name it in a configuration (`--config`) or allow it with
`--allow-local-code`.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from tfs_core.config.document import Document, Invalid, Place
from tfs_core.config.load import check_together
from tfs_core.config.schema import Choice, RunConfig, is_local_model
from tfs_core.config.validation import Validator
from tfs_core.contracts import ModelConfig
from tfs_core.errors import ConfigError
from tfs_core.plugins import describe, did_you_mean


def with_local_model(config: RunConfig, *, allowed: bool) -> RunConfig:
    """Return the configuration. If its model is local, import it, check its options and fill in their defaults.

    Raises ConfigError when the model is local and not allowed, or invalid.
    """
    if not is_local_model(config.model.name):
        return config
    _, options = load_local_model(config.model, allowed=allowed)
    complete = replace(config, model=Choice(config.model.name, options))
    check_together(complete)
    return complete


def load_local_model(choice: Choice, *, allowed: bool = False) -> tuple[Callable[..., Any], Any]:
    """Import the file of a local model if that is allowed, and return (factory, options).

    A choice whose options are an instance of their class has been imported with permission before. Every other choice
    comes from a file and needs `allowed`: the user named the model, or gave --allow-local-code.

    The name after the colon is the factory, a class or a function. The annotation of its first parameter is the class
    of the options, which are checked here. The file may import other files of its folder. Raises ConfigError for
    problems with the file or the options, and without permission.
    """
    if not (allowed or isinstance(choice.options, ModelConfig)):
        raise ConfigError(
            f"the model is code in the file {choice.name}, and a run folder or checkpoint is not allowed to run "
            "it: add --allow-local-code if you trust the file"
        )
    path, _, attribute = choice.name.rpartition(":")
    file = Path(path)
    module = _import_file(file)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        names = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise ConfigError(
            f"{file}: there is no callable '{attribute}'.{did_you_mean(attribute, names)} "
            f"In the file: {', '.join(names) or 'nothing'}."
        )
    first = next(iter(inspect.signature(factory).parameters.values()), None)
    options_class: Any = first and first.annotation
    if isinstance(options_class, str):  # from __future__ import annotations
        options_class = vars(module).get(options_class)
    if not (isinstance(options_class, type) and issubclass(options_class, ModelConfig)):
        raise ConfigError(
            f"{choice.name}: the first parameter needs the class of the options as its type, a frozen dataclass that "
            "extends tfs_core.contracts.ModelConfig: (config: MyConfig, *, vocab_size, generator)"
        )
    if isinstance(choice.options, options_class):
        return factory, choice.options
    document = Document(choice.options, {(): Place(source=choice.name, base=file.parent)})
    with suppress(Invalid):
        options = Validator(document).section(options_class, choice.options, ("model",), " of this model")
    document.raise_problems()
    return factory, options


def _import_file(file: Path) -> ModuleType:
    """Import the file as a module, once per process, and return the module."""
    name = f"tfs_local_model_{sha256(str(file).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ConfigError(f"{file}: there is no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution: dataclasses look up their module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # user code may raise anything
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{file}:{line}" if line else str(file)
        raise ConfigError(f"{where}: cannot be imported: {describe(error)}") from error
    return module
