"""Names that scripts of the original tools import: CheckpointManager, Evaluator, TrainingLogger, load_training_log.

The evaluator is the core's. The others are components of the kind `script`, provided by plugins. (The training loop is
in `trainer.py`.)
"""

from typing import Any

_COMPONENTS = {
    "CheckpointManager": "checkpoint-manager",
    "TrainingLogger": "training-logger",
    "load_training_log": "load-training-log",
}


def __getattr__(name: str) -> Any:
    if name == "Evaluator":
        from tfs_core.evaluator import Evaluator

        return Evaluator
    if name not in _COMPONENTS:
        raise AttributeError(f"module 'tfs_core.training' has no attribute '{name}'")
    from tfs_core.errors import PluginError
    from tfs_core.registry import get_registry

    try:
        return get_registry().find("script", _COMPONENTS[name]).load_factory()
    except PluginError as error:
        raise ImportError(f"tfs_core.training.{name}: {error}") from error
