"""tfs dash: the dashboard that compares runs. The public names are imported lazily."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfs_dash.app import create_app as create_app
    from tfs_dash.exports import export_report as export_report
    from tfs_dash.notebook import create_flops_normalized_loss as create_flops_normalized_loss
    from tfs_dash.notebook import create_loss_curves as create_loss_curves
    from tfs_dash.notebook import estimate_model_params as estimate_model_params
    from tfs_dash.serve import launch as launch

_HOMES = {
    "create_app": "tfs_dash.app",
    "create_flops_normalized_loss": "tfs_dash.notebook",
    "create_loss_curves": "tfs_dash.notebook",
    "estimate_model_params": "tfs_dash.notebook",
    "export_report": "tfs_dash.exports",
    "launch": "tfs_dash.serve",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfs_dash' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
