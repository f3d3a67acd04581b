"""The minimal core of tfs: interfaces for models, data sets, tokenizers, optimizers and loggers, and a training loop.

Plugins need `Component` and `hookimpl` from here. Python scripts that train need `run`.
Importing this module is fast: the names in `__all__` are imported lazily, at their first use.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfs_core.component import Component as Component
    from tfs_core.errors import TfsError as TfsError
    from tfs_core.hookspecs import hookimpl as hookimpl
    from tfs_core.run import run as run

__version__ = "0.1.0"

# A thread of OpenMP that waits for the others first spins. Beside other busy processes, the threads that it waits for
# may get no processor while it spins, and training takes ten times as long (benchmarks/busy_machine.py). So threads
# spin for microseconds only. The runtime reads this when torch is first imported: GNU's, LLVM's and Intel's.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"}:
    os.environ |= {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}

_LAZY_IMPORTS = {
    "Component": "tfs_core.component",
    "TfsError": "tfs_core.errors",
    "hookimpl": "tfs_core.hookspecs",
    "run": "tfs_core.run",
}

__all__ = ["Component", "TfsError", "__version__", "hookimpl", "run"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'tfs_core' has no attribute '{name}'")
    return getattr(import_module(_LAZY_IMPORTS[name]), name)
