"""One line in a notebook: figures of runs by name, and what a model would count."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfs_core.errors import CheckpointError, TfsError
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
"""A run as any of the ways to have one: from `tfs_core.run` or `find_run`, from `load_training_log`, or its folder."""


def run_data(run: Any, *, name: str | None = None, position: int = 0) -> RunData:
    """Return any of AnyRun as figures want it; raises CheckpointError for a path that is neither folder nor log."""
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
        raise CheckpointError(f"{run!r} is no run: give a run folder, a Run, or what load_training_log returns")
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
    """Return the loss of runs in one chart. `x`: steps, tokens, seconds or flops; `log`: the axes that are, as "xy"."""
    from plotly.graph_objects import Figure

    show = "both" if show_train and show_val else "training" if show_train else "validation"
    figure = Figure(loss_figure(_named(runs), View(x=x, smooth=smooth, log=log, show=show)))
    return figure.update_layout(template=TEMPLATES[theme])


def create_flops_normalized_loss(runs: Mapping[str, Any], *, theme: str = "light") -> "Figure":
    """Return loss against the FLOPs that it cost, as the runs counted them."""
    from plotly.graph_objects import Figure

    return Figure(flops_figure(_named(runs), View())).update_layout(template=TEMPLATES[theme])


def estimate_model_params(model: Any, vocab_size: int | None = None) -> int:
    """Return how many parameters a model has, a tied tensor once: counted on the model itself, never by a formula.

    `model` is a run (or its folder), whose own count it is, or a configuration `{"name": "torch", "d_model": 256, ...}`
    with the size of the vocabulary; the registered model is built for it, without memory where it allows that, which
    needs PyTorch.
    """
    if not isinstance(model, Mapping):
        counted = run_data(model).info["parameters"].get("total")
        if counted is None:
            raise CheckpointError(f"{model!r} does not say how many parameters it has: give the model's configuration")
        return int(counted)
    if vocab_size is None:
        raise CheckpointError("a model's parameters depend on the vocabulary: say vocab_size=...")
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
