"""The minimal core of tfs: what models, data sets, tokenizers, schedules, optimizers and loggers are, and one loop.

Plugins need two names from here, `Component` and `hookimpl`; whoever runs tfs from Python needs `run`.
Importing this module imports nothing heavy: the names below are loaded when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfs_core.component import Component as Component
    from tfs_core.errors import TfsError as TfsError
    from tfs_core.hookspecs import hookimpl as hookimpl
    from tfs_core.run import run as run

__version__ = "0.1.0"

_HOMES = {
    "Component": "tfs_core.component",
    "TfsError": "tfs_core.errors",
    "hookimpl": "tfs_core.hookspecs",
    "run": "tfs_core.run",
}

__all__ = ["Component", "TfsError", "__version__", "hookimpl", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfs_core' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
