"""Conformance checks for plugins, run by pytest and by `tfs check`.

A complete test file of a plugin with a model:

    from tfs_lab.testing import ModelConformance, PluginConformance

    class TestPlugin(PluginConformance):
        distribution = "tfs-mygpt"

    class TestMyGPT(ModelConformance):
        name = "tfs-mygpt/mygpt"
        config = {"d_model": 32}

`docs/checking.md` explains each check of a model. Importing this module imports nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfs_lab.testing.model_checks import check_model as check_model
    from tfs_lab.testing.parity import check_parity as check_parity
    from tfs_lab.testing.results import CheckResult as CheckResult
    from tfs_lab.testing.shape_comments import check_shape_comments as check_shape_comments
    from tfs_lab.testing.small_model import SmallModel as SmallModel
    from tfs_lab.testing.suites import BatchingConformance as BatchingConformance
    from tfs_lab.testing.suites import DatasetConformance as DatasetConformance
    from tfs_lab.testing.suites import LoggerConformance as LoggerConformance
    from tfs_lab.testing.suites import ModelConformance as ModelConformance
    from tfs_lab.testing.suites import OptimizerConformance as OptimizerConformance
    from tfs_lab.testing.suites import PluginConformance as PluginConformance
    from tfs_lab.testing.suites import SchedulerConformance as SchedulerConformance
    from tfs_lab.testing.suites import TokenizerConformance as TokenizerConformance
    from tfs_lab.testing.suites import WrapperConformance as WrapperConformance

_MODULES = {
    "BatchingConformance": "tfs_lab.testing.suites",
    "CheckResult": "tfs_lab.testing.results",
    "DatasetConformance": "tfs_lab.testing.suites",
    "LoggerConformance": "tfs_lab.testing.suites",
    "ModelConformance": "tfs_lab.testing.suites",
    "OptimizerConformance": "tfs_lab.testing.suites",
    "PluginConformance": "tfs_lab.testing.suites",
    "SchedulerConformance": "tfs_lab.testing.suites",
    "SmallModel": "tfs_lab.testing.small_model",
    "TokenizerConformance": "tfs_lab.testing.suites",
    "WrapperConformance": "tfs_lab.testing.suites",
    "check_model": "tfs_lab.testing.model_checks",
    "check_parity": "tfs_lab.testing.parity",
    "check_shape_comments": "tfs_lab.testing.shape_comments",
}

__all__ = [
    "BatchingConformance",
    "CheckResult",
    "DatasetConformance",
    "LoggerConformance",
    "ModelConformance",
    "OptimizerConformance",
    "PluginConformance",
    "SchedulerConformance",
    "SmallModel",
    "TokenizerConformance",
    "WrapperConformance",
    "check_model",
    "check_parity",
    "check_shape_comments",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'tfs_lab.testing' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
