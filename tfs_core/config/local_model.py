"""A model in a file of the user's own, before there is any package: `name: ./my_model.py:MyModel`.

This is the only place where such a file is imported, and nothing calls it because a run folder or a checkpoint names
the file: a configuration given with `--config`, or `--allow-local-code`, says so first.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from tfs_core.config.problems import Place, config_error
from tfs_core.config.schema import LOCAL_MODEL, Choice
from tfs_core.config.validation import Invalid, Validator
from tfs_core.config.yaml_reader import Document
from tfs_core.contracts import ModelConfig
from tfs_core.errors import ConfigError
from tfs_core.plugins import describe, did_you_mean


def load_local_model(choice: Choice) -> tuple[Callable[..., Any], Any]:
    """Import the file of a model, and return (its factory, its options).

    The factory is what the name after the colon stands for, a class or a function, and the annotation of its first
    parameter is the class of its options, which are checked here. (What the file may import besides what is
    installed: its neighbors.) Raises ConfigError for whatever is wrong with the file or the options.
    """
    match = LOCAL_MODEL.fullmatch(choice.name)
    if match is None:
        raise ConfigError(f"expected a file and the name in it, such as './my_model.py:MyModel', not {choice.name!r}")
    file, attribute = Path(match["file"]), match["attribute"]
    module = _imported(file)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        names = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise ConfigError(
            f"{file}: there is no '{attribute}' that can be called.{did_you_mean(attribute, names)} "
            f"In the file: {', '.join(names) or 'nothing'}."
        )
    return factory, _options(choice, module, factory)


def _imported(file: Path) -> ModuleType:
    """Return the module in the file, which is run once in a process."""
    name = f"tfs_local_model_{sha256(str(file).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ConfigError(f"{file}: there is no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{file}:{line}" if line else str(file)
        raise ConfigError(f"{where}: cannot be imported: {describe(error)}") from error
    return module


def _options(choice: Choice, module: ModuleType, factory: Callable[..., Any]) -> Any:
    """Return the choice's options as the class that the factory's first parameter asks for."""
    parameters = list(inspect.signature(factory).parameters.values())
    annotation: Any = parameters[0].annotation if parameters else None
    if isinstance(annotation, str):  # from __future__ import annotations
        annotation = vars(module).get(annotation)
    if not (isinstance(annotation, type) and issubclass(annotation, ModelConfig)):
        raise ConfigError(
            f"{choice.name}: the first parameter needs the class of the options as its type, a frozen dataclass that "
            "extends tfs_core.contracts.ModelConfig: (config: MyConfig, *, vocab_size, generator)"
        )
    if isinstance(choice.options, annotation):
        return choice.options
    base = Path(choice.name).parent
    document = Document(values=choice.options, places={(): Place(source=choice.name, base=base)})
    try:
        options = Validator(document).section(annotation, choice.options, ("model",), " of this model")
    except Invalid:
        raise config_error(document.problems) from None
    if document.problems:
        raise config_error(document.problems)
    return options
