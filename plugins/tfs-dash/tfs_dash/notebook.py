"""One-line functions for notebooks: figures of runs, and parameter counts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfs_core.config.schema import is_local_model
from tfs_core.errors import CheckpointError, ConfigError, TfsError
from tfs_core.runs import Run, read_run
from tfs_dash.figures.compute import flops_figure
from tfs_dash.figures.loss import loss_figure
from tfs_dash.figures.style import TEMPLATES
from tfs_dash.run_info import well_formed
from tfs_dash.store import Columns, RunData, RunStore
from tfs_dash.view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from tfs_dash.training_log import TrainingRun

AnyRun = "Run | RunData | TrainingRun | str | Path"
"""A run: from `tfs_core.run`, `find_run` or `load_training_log`, as RunData, or the path of its folder or log."""


def run_data(run: Any, *, name: str | None = None, position: int = 0) -> RunData:
    """Convert any of AnyRun to RunData. Raises CheckpointError for anything else."""
    if isinstance(run, RunData):
        return run
    if isinstance(run, str | Path):
        found = read_run(Path(run))
        if found is None:
            from tfs_dash.training_log import load_training_log

            run = load_training_log(run)
        else:
            run = found
    if isinstance(run, Run):
        return RunStore(run.folder.parent.parent).data_of(run, position=position, name=name)
    if not hasattr(run, "train_metrics"):
        raise CheckpointError(f"{run!r} is not a run: pass a run folder, a Run, or the result of load_training_log")
    return _from_log(run, name=name, position=position)


def _from_log(log: "TrainingRun", *, name: str | None, position: int) -> RunData:
    tables = {"metrics": log.train_metrics, "validation": log.val_metrics}

    def read(table: str, names: Any) -> Columns:
        return {column: _column(tables[table], column) for column in names}

    info = {"experiment_name": log.experiment_name, "model": log.model_type, "started_at": log.started_at}
    config = {"model": {"name": log.model_type, **log.model_config}, "training": log.train_config}
    return RunData(
        name=name or log.experiment_name,
        position=position,
        info=well_formed(info),
        status="finished" if log.finished_at else "stopped",
        read=read,
        read_config=lambda: config,
        read_tail=lambda table: [
            {**vars(row), "tokens_per_second": getattr(row, "tokens_per_sec", None)}
            for row in tables.get(table, [])[-100:]
        ],
    )


def _column(rows: list[Any], name: str) -> np.ndarray:
    attribute = {"tokens_per_second": "tokens_per_sec"}.get(name, name)
    values = [getattr(row, attribute, None) for row in rows]
    return np.array([np.nan if value is None else float(value) for value in values])


def _named(runs: Mapping[str, Any]) -> list[RunData]:
    return [run_data(run, name=name, position=position) for position, (name, run) in enumerate(runs.items())]


def create_loss_curves(
    runs: Mapping[str, Any], *, show_train: bool = True, show_val: bool = True, x: str = "steps", smooth: float = 0.9,
    log: str = "", theme: str = "light",
) -> "Figure":  # fmt: skip
    """Return the loss curves of runs by name as one Plotly figure.

    `x` is steps, tokens, seconds or flops; `smooth` the weight of the past per step (0: none); `log` names the
    logarithmic axes, such as "xy"; `theme` is light or dark.
    """
    from plotly.graph_objects import Figure

    show = "both" if show_train and show_val else "training" if show_train else "validation"
    figure = Figure(loss_figure(_named(runs), View(x=x, smooth=smooth, log=log, show=show)))
    return figure.update_layout(template=TEMPLATES[theme])


def create_flops_normalized_loss(runs: Mapping[str, Any], *, theme: str = "light") -> "Figure":
    """Return loss against cumulative FLOPs, as counted by the runs, as one Plotly figure."""
    from plotly.graph_objects import Figure

    return Figure(flops_figure(_named(runs), View())).update_layout(template=TEMPLATES[theme])


def estimate_model_params(model: Any, vocab_size: int | None = None) -> int:
    """Return the exact number of parameters of a model; a tied tensor is counted once.

    `model` is a run or its folder (run.json has the count), or a configuration `{"name": "torch", "d_model": 256, ...}`
    together with `vocab_size`. For a configuration the registered model is built, which needs PyTorch; no memory is
    allocated if the model supports that.

    Raises CheckpointError for a run without a count and for a configuration without `vocab_size`, ConfigError for an
    invalid configuration and for a model in a local file, TfsError without PyTorch.
    """
    if not isinstance(model, Mapping):
        counted = run_data(model).info["parameters"].get("total")
        if counted is None:
            raise CheckpointError(f"{model!r} has no parameter count: pass the model's configuration")
        return int(counted)
    if vocab_size is None:
        raise CheckpointError("the number of parameters depends on the vocabulary: pass vocab_size=...")
    if is_local_model(str(model.get("name"))):
        raise ConfigError(
            f"{model['name']}: a model in a file is not imported to count its parameters. Import and build it, then "
            "call tfs_core.models.parameter_counts(model).total"
        )
    return _count(json.dumps(dict(model), sort_keys=True), vocab_size)


def _count(model: str, vocab_size: int) -> int:
    try:
        import torch
    except ImportError as error:
        raise TfsError(
            'Counting a model\'s parameters builds the model, which needs PyTorch: pip install "tfs-core[train]"'
        ) from error

    from tfs_core.config import config_from_mapping
    from tfs_core.models import build_model, parameter_counts

    values = json.loads(model)
    length = int(values.get("max_seq_len", 256))
    config = config_from_mapping(
        {"experiment_name": "counted", "model": values,
         "data": {"dataset": "python-stdlib", "tokenizer": "byte", "max_length": length},
         "training": {"max_steps": 1}},
        source="estimate_model_params",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        return parameter_counts(build_model(config.model, vocab_size=vocab_size, seed=0)).total
