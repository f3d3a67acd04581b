"""Errors while a component is built name the component; the original exception is the cause."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tfs_core
from tfs_core.config import load_local_model
from tfs_core.config.schema import Choice, TrainingConfig
from tfs_core.data.prepare import build_source, build_tokenizer
from tfs_core.errors import ConfigError, DataError, PluginError, TrainingError
from tfs_core.machine import as_out_of_memory_error
from tfs_core.models import build_model
from tfs_core.run import build_optimizer, build_schedule
from tfs_core.trainer import Plan

PLUGIN = """
def of(name):
    return Component(name=name, summary=f"the {name}", factory=f"tfs_bad.made:{name}")

def named(*names):
    return [of(name) for name in names]

@hookimpl
def tfs_models():
    return named("raises", "nothing", "greedy")

@hookimpl
def tfs_datasets():
    return named("raises", "nothing", "refuses")

@hookimpl
def tfs_tokenizers():
    return [Component(name="raises", summary="s", factory="tfs_bad.made:raises", loader="tfs_bad.made:raises")]

@hookimpl
def tfs_schedulers():
    return named("raises", "nothing", "nan", "negative", "word", "late")

@hookimpl
def tfs_optimizers():
    return named("raises", "nothing", "other")

@hookimpl
def tfs_loggers():
    return named("raises", "nothing")
"""

MADE = """
from tfs_core.errors import DataError

def raises(*_, **__):
    return {}["there is no such key"]

def nothing(*_, **__):
    pass

def greedy(*_, **__):
    raise MemoryError

def refuses(*_, **__):
    raise DataError("this data set is closed on Sundays")

def other(*_, **__):
    return "an optimizer"

def nan(*_, **__):
    return lambda step: float("nan")

def negative(*_, **__):
    return lambda step: -1e-3

def word(*_, **__):
    return lambda step: "fast"

def late(*_, **__):
    return lambda step: 1e-3 if step < 2 else {}[step]
"""

BLAMED = r"of tfs-bad cannot be built: KeyError: 'there is no such key'\. TFS_DEBUG=1 shows where\."


@pytest.fixture(autouse=True)
def bad_plugin(install_plugin: Callable[..., None]) -> None:
    install_plugin("tfs-bad", PLUGIN, made=MADE)


class Weights(torch.nn.Module):
    """The part of a model that an optimizer uses."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, 3))


def build(kind: str, name: str) -> Any:
    """Build a component of the plugin as training does."""
    choice = Choice(f"tfs-bad/{name}")
    if kind == "model":
        return build_model(choice, vocab_size=7, seed=0)
    if kind == "dataset":
        return build_source(choice, assets=Path("assets"), offline=True)
    if kind == "tokenizer":
        return build_tokenizer(choice, assets=Path("assets"), offline=True, documents=None)
    if kind == "optimizer":
        return build_optimizer(TrainingConfig(max_steps=9, optimizer=choice), Weights())  # type: ignore[arg-type]
    assert kind == "scheduler"
    return build_schedule(TrainingConfig(max_steps=9, lr_decay=choice), Plan(total_steps=9, warmup_steps=0))


@pytest.mark.parametrize("kind", ["model", "dataset", "tokenizer", "optimizer", "scheduler"])
def test_factory_that_raises_is_named_with_its_distribution_and_the_cause(kind: str) -> None:
    with pytest.raises(PluginError, match=f"^{kind} 'raises' {BLAMED}$") as caught:
        build(kind, "raises")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("kind", ["model", "dataset", "optimizer", "scheduler"])
def test_factory_that_returns_nothing_is_named(kind: str) -> None:
    with pytest.raises(PluginError, match=f"^{kind} 'nothing' of tfs-bad: its factory '.*' returned None$"):
        build(kind, "nothing")


def test_tfs_error_of_a_factory_is_not_changed() -> None:
    with pytest.raises(DataError, match=r"^this data set is closed on Sundays$"):
        build("dataset", "refuses")


def test_factory_result_that_is_not_an_optimizer_is_reported_by_name() -> None:
    with pytest.raises(PluginError, match=r"^optimizer 'other' of tfs-bad: .*'an optimizer', which is no torch\.optim"):
        build("optimizer", "other")


@pytest.mark.parametrize(("name", "rate"), [("nan", "nan"), ("negative", "-0.001"), ("word", "'fast'")])
def test_invalid_learning_rate_names_its_schedule(name: str, rate: str) -> None:
    schedule = build("scheduler", name)
    with pytest.raises(PluginError, match=f"^scheduler '{name}' of tfs-bad: the learning rate of step 4 is {rate}; "):
        schedule(4)


def test_schedule_that_raises_in_the_middle_is_named_with_the_step() -> None:
    schedule = build("scheduler", "late")
    assert schedule(1) == 1e-3
    with pytest.raises(PluginError, match=r"^scheduler 'late' of tfs-bad cannot compute the learning rate of step 2: "):
        schedule(2)


def test_memory_error_while_a_plugin_builds_is_reported_as_such() -> None:
    with (
        pytest.raises(TrainingError, match="needs more memory than is available"),
        as_out_of_memory_error("preparing the run"),
    ):
        build("model", "greedy")


def config(folder: Path, **sections: Any) -> dict[str, Any]:
    """Return the configuration of a run of one step on a text in a folder."""
    (folder / "text.txt").write_text("the cat sat on the mat. " * 20, encoding="utf-8")
    return {
        "experiment_name": "a",
        "data": {"dataset": {"name": "text", "path": str(folder / "text.txt")}, "tokenizer": "byte", "max_length": 8},
        "model": {"name": "torch", "d_model": 4, "n_heads": 1, "n_blocks": 1, "max_seq_len": 8},
        "training": {"batch_size": 2, "max_steps": 1},
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        **sections,
    }


@pytest.mark.parametrize("name", ["raises", "nothing"])
def test_logger_that_cannot_be_built_is_left_out_with_the_reason(name: str, tmp_path: Path) -> None:
    said: list[str] = []
    loggers = [f"tfs-bad/{name}", "jsonl"]
    run = tfs_core.run(config(tmp_path, loggers=loggers), assets=tmp_path / "assets", report=said.append)
    (warning,) = [event["details"]["message"] for event in run.events() if event["kind"] == "warning"]
    assert warning.startswith(f"the logger 'tfs-bad/{name}' is left out: logger '{name}' of tfs-bad")
    assert warning in said
    assert len(run.metrics()) == 1


def test_model_in_a_file_that_raises_is_named(tmp_path: Path) -> None:
    file = tmp_path / "brittle.py"
    file.write_text(
        "from tfs_core.contracts import ModelConfig\n"
        "def brittle(config: ModelConfig, *, vocab_size, generator):\n"
        "    return [][vocab_size]\n",
        encoding="utf-8",
    )
    _, options = load_local_model(Choice(f"{file}:brittle", {}), allowed=True)
    with pytest.raises(PluginError, match=r"the model .*brittle\.py:brittle cannot be built: IndexError: "):
        build_model(Choice(f"{file}:brittle", options), vocab_size=7, seed=0)


def test_model_in_a_file_is_not_built_without_permission(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"own\.py:Own, and a run folder or checkpoint is not allowed to run it"):
        build_model(Choice(f"{tmp_path / 'own.py'}:Own", {}), vocab_size=7, seed=0)
