"""A batching of a plugin, chosen by `data.batching`, trains and resumes like the core's."""

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import tfs_core
from tfs_core.errors import ConfigError, StoppedBySignalError
from tfs_core.registry import get_registry
from tfs_core.runs import Run, find_run

InstallPlugin = Callable[..., None]
Train = Callable[..., Run]

PLUGIN = """
@hookimpl
def tfs_components():
    return [Component(kind="batching", name="in-order", summary="rows in the order of the text",
                      factory="their_batching.made:InOrder", config="their_batching.options:InOrderConfig")]
"""

OPTIONS = """
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class InOrderConfig:
    first: int = 0
    "The row that the run begins with."
"""

MADE = """
import numpy as np
import torch
from tfs_core.builtin.batchings import Packed
from tfs_core.errors import ConfigError

class InOrder(Packed):
    STATES = []

    def __init__(self, options, **given):
        super().__init__(None, **given)
        self.first = options.first

    @staticmethod
    def check(settings, *, source):
        if settings.seed == 13:
            raise ConfigError("seed: 13 brings bad luck")

    def _find_rows(self, first, stop):
        return np.arange(self.first + first, self.first + stop) % self.rows

    def open(self, folder, *, step, state, report):
        self.STATES.append((folder.name, step, state and state["where"]))
        report("the rows are put in order")
        torch.rand(1)  # which a resumed run must not notice
        return super().open(folder, step=step, state=state, report=report)

    def state(self, step):
        return {"where": self.first + step * self.rows_per_step}
"""


@pytest.fixture
def in_order(install_plugin: InstallPlugin) -> Any:
    """Install the batching, and return its class."""
    install_plugin("their-batching", PLUGIN, options=OPTIONS, made=MADE)
    from their_batching.made import InOrder  # type: ignore[import-not-found]

    return InOrder


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Return `train(batching, max_steps=..., ...)`, which trains a small model with dropout."""
    (tmp_path / "text.txt").write_text("".join(f"line {i} of the text.\n" for i in range(60)), encoding="utf-8")

    def run(
        batching: Any, *, max_steps: int = 6, seed: int = 3, data: Mapping[str, Any] | None = None, **options: Any
    ) -> Run:
        config = {
            "experiment_name": "ordered",
            "seed": seed,
            "data": {
                "dataset": {"name": "text", "path": str(tmp_path / "text.txt"), "separator": ".\n"},
                "tokenizer": "byte",
                "max_length": 8,
                "validation_fraction": 0.2,
                "batching": batching,
                **(data or {}),
            },
            "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 8, "dropout": 0.2},
            "training": {"batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": max_steps, "warmup_steps": 0},
            "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
            "loggers": ["jsonl"],
        }
        config["training"] |= {"lr_decay": "constant", "checkpoint_every": 3}
        return tfs_core.run(config, assets=tmp_path / "assets", **options)

    return run


def batching_of(run: Run) -> Any:
    """Return `data.batching` of the run's `config.yaml`."""
    return yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))["data"]["batching"]


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in run.metrics()]


def test_batching_of_a_plugin_is_chosen_by_name_and_gets_its_options(in_order: Any, train: Train) -> None:
    said: list[str] = []
    first = train({"name": "in-order"}, name="first", report=said.append)
    later = train({"name": "in-order", "first": 3}, name="later")
    packed = train("packed", name="packed")
    assert len({tuple(losses(run)) for run in (first, later, packed)}) == 3
    assert in_order.STATES == [("first", 0, None), ("later", 0, None)]
    assert "the rows are put in order" in said
    assert first.info["plugins"]["their-batching"] == "1.2"
    assert batching_of(later) == {"name": "in-order", "first": 3}


def test_batching_without_options_is_a_plain_word_in_the_run_s_configuration(train: Train) -> None:
    assert batching_of(train({"name": "padded"})) == "padded"


def test_run_of_a_plugin_s_batching_resumes_as_if_never_stopped(in_order: Any, train: Train) -> None:
    whole = train({"name": "in-order", "first": 5}, name="whole")
    begun = train({"name": "in-order", "first": 5}, name="begun", max_steps=3)
    resumed = tfs_core.run(resume=begun.folder, assets=begun.folder.parent.parent, overrides=["training.max_steps=6"])
    assert in_order.STATES[-1] == ("begun", 3, 5 + 3 * 4), "it is given what it recorded"
    assert losses(resumed) == losses(whole)
    assert resumed.latest is not None
    assert whole.latest is not None
    weights = [(folder / "model.safetensors").read_bytes() for folder in (resumed.latest, whole.latest)]
    assert weights[0] == weights[1]


def test_another_batching_is_rejected_on_resume(in_order: Any, train: Train) -> None:
    begun = train({"name": "in-order", "first": 5}, max_steps=3)
    for change in ("data.batching=packed", "data.batching.first=6"):
        with pytest.raises(ConfigError, match=r"cannot be resumed with changed settings: data\.batching"):
            tfs_core.run(resume=begun.folder, assets=begun.folder.parent.parent, overrides=[change])


def test_signal_while_a_batching_waits_saves_and_its_run_resumes(
    in_order: Any, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train({"name": "in-order"}, name="whole")

    def ready(self: Any, step: int) -> bool:
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return step < 2

    with monkeypatch.context() as patch:
        patch.setattr(in_order, "ready", ready)
        with pytest.raises(StoppedBySignalError):
            train({"name": "in-order"}, name="stopped")
    stopped = find_run("stopped", whole.folder.parent.parent)
    assert stopped.latest is not None
    assert json.loads((stopped.latest / "state.json").read_bytes())["where"] == 8
    resumed = tfs_core.run(resume="stopped", assets=whole.folder.parent.parent)
    assert losses(resumed) == losses(whole)


@pytest.mark.usefixtures("in_order")
def test_settings_that_a_batching_rejects_are_errors_before_any_text_is_read(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^seed: 13 brings bad luck$"):
        train({"name": "in-order"}, seed=13)
    assert not (tmp_path / "assets").exists()


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_shard_tokens_without_a_stream_are_told_to_have_no_effect(
    batching: str, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    train(batching, data={"shard_tokens": 1000})
    assert "data.shard_tokens has no effect: the data set 'text' does not stream" in caplog.text


@pytest.mark.usefixtures("in_order")
def test_unknown_batching_and_wrong_options_are_reported_by_name(train: Train) -> None:
    with pytest.raises(ConfigError, match=r"data\.batching: .*'in-ordr'.*in-order"):
        train("in-ordr")
    with pytest.raises(
        ConfigError, match=r"data\.batching\.frist is not a setting of the batching 'in-order'.*'first'"
    ):
        train({"name": "in-order", "frist": 1})


def test_batching_is_chosen_by_its_distribution_where_two_have_the_name(
    in_order: Any, train: Train, install_plugin: InstallPlugin
) -> None:
    plain = train({"name": "in-order", "first": 5}, name="plain")
    install_plugin("their-other", PLUGIN.replace("their_batching", "their_other"), options=OPTIONS, made=MADE)
    get_registry.cache_clear()
    with pytest.raises(ConfigError, match=r"'their-batching/in-order' or 'their-other/in-order'"):
        train({"name": "in-order"})
    chosen = train({"name": "their-batching/in-order", "first": 5}, name="chosen")
    assert losses(chosen) == losses(plain)
    assert chosen.info["plugins"]["their-batching"] == "1.2"
    assert "their-other" not in chosen.info["plugins"]
