"""Plugins that violate an interface are reported by name, do not stop other parts, and corrupt no files."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tfs_core
from tfs_core.cli.main import tfs
from tfs_core.config import config_from_mapping
from tfs_core.config.implied import check_required_components
from tfs_core.errors import ConfigError, PluginError
from tfs_core.registry import get_registry
from tfs_core.runs import Run

InstallPlugin = Callable[..., None]

PLUGIN = """
@hookimpl
def tfs_components():
    here = "their_seams.parts:"
    return [
        Component(kind="logger", name="recorder", summary="no JSON", factory=here + "Recorder"),
        Component(kind="logger", name="meddler", summary="leaves eval mode on", factory=here + "Meddler"),
        Component(kind="wrapper", name="nothing", summary="returns None", factory=here + "nothing"),
        Component(kind="wrapper", name="no-json", summary="records a set", factory=here + "no_json"),
        Component(kind="wrapper", name="kernels", summary="a name that is taken", factory=here + "nothing"),
        Component(kind="batching", name="half", summary="no batching at all", factory=here + "Half"),
    ]
"""

PARTS = """
import torch
from tfs_core.contracts import RunLogger

class Recorder(RunLogger):
    def __init__(self, config, *, run):
        self.run = run
    def on_step(self, record):
        self.run.record(thing={1, 2})

class Meddler(RunLogger):
    def __init__(self, config, *, run):
        pass
    def moments(self, step):
        return {"gradients"}
    def observe(self, moment, view):
        view.model.eval()
        torch.set_grad_enabled(False)

class Wrapper:
    stage = "adapt"
    changes_weights = False
    def __init__(self, records):
        self.records = records
    def wrap(self, loss, *, context):
        if self.records:
            context.record(thing={1, 2})
            return loss

def nothing(config):
    return Wrapper(False)

def no_json(config):
    return Wrapper(True)

class Half:
    def __init__(self, config, **keywords):
        pass
"""


@pytest.fixture
def train(tmp_path: Path, install_plugin: InstallPlugin) -> Callable[..., Run]:
    """Return `train(name, **settings)`: install the plugin above and train a small model for four steps."""
    install_plugin("their-seams", PLUGIN, parts=PARTS)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 40, encoding="utf-8")

    def run(name: str, **settings: Any) -> Run:
        data: dict[str, Any] = {"dataset": {"name": "text", "path": str(tmp_path / "text.txt")}, "tokenizer": "byte"}
        config = {
            "experiment_name": name,
            "data": {**data, "max_length": 8, **settings.pop("data", {})},
            "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 8, "dropout": 0.2},
            "training": {"batch_size": 2, "max_steps": 4, "learning_rate": 1e-2},
            "runtime": {"threads": 1, "matmul": "highest"},
            "loggers": ["jsonl"],
            **settings,
        }
        return tfs_core.run(config, assets=tmp_path / "assets")

    return run


def test_logger_that_records_what_is_not_json_is_dropped_and_run_json_stays_whole(train: Callable[..., Run]) -> None:
    run = train("recorded", loggers=["jsonl", "recorder"])
    assert run.status == "finished"
    assert "thing" not in json.loads((run.folder / "run.json").read_bytes())
    assert [event["kind"] for event in run.events()].count("warning") == 1


def test_logger_that_leaves_the_model_in_eval_mode_changes_nothing(train: Callable[..., Run]) -> None:
    assert [row["loss"] for row in train("meddled", loggers=["jsonl", "meddler"]).metrics()] == [
        row["loss"] for row in train("alone").metrics()
    ]


@pytest.mark.parametrize(("name", "told"), [("nothing", "its `wrap` returned None"), ("no-json", "not JSON")])
def test_wrapper_that_violates_the_interface_is_reported(name: str, told: str, train: Callable[..., Run]) -> None:
    with pytest.raises(PluginError, match=f"the wrapper Wrapper cannot wrap this model: .*{told}"):
        train("wrapped", wrappers=[name])


def test_batching_without_its_methods_is_reported_by_name(train: Callable[..., Run]) -> None:
    with pytest.raises(PluginError, match="batching 'half' of their-seams: it returned"):
        train("half", data={"batching": "half"})


def test_wrapper_chosen_twice_is_rejected(train: Callable[..., Run]) -> None:
    with pytest.raises(ConfigError, match=r"wrappers\.1: 'nothing' is given twice"):
        train("twice", wrappers=["nothing", "nothing"])


def test_another_plugin_with_the_name_of_an_implied_component_stops_no_run(train: Callable[..., Run]) -> None:
    assert len(get_registry().owners("wrapper", "kernels")) == 2
    assert "matmul" in train("implied", runtime={"threads": 1}).info["machine"]  # its usual owner, tfs-speed, is taken


def test_settings_whose_component_is_missing_are_reported_together_and_by_validate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {
        "experiment_name": "x",
        "data": {"dataset": "python-stdlib", "tokenizer": "byte"},
        "model": "torch",
        "training": {"max_steps": 1},
        "runtime": {"compile": True},
        "samples": {"prompts": ["a"]},
    }
    config = config_from_mapping(values)
    check_required_components(config)
    monkeypatch.setenv("TFS_DISABLE_PLUGINS", "tfs-speed,tfs-generate")
    get_registry.cache_clear()
    try:
        with pytest.raises(ConfigError) as caught:
            check_required_components(config)
        for told in (
            "runtime.compile needs the wrapper 'compile'",
            "samples.prompts needs the logger 'samples'",
            "tfs-speed is disabled",
        ):
            assert told in str(caught.value)
        (tmp_path / "c.yaml").write_text(json.dumps(values), encoding="utf-8")
        result = CliRunner().invoke(tfs, ["config", "validate", str(tmp_path / "c.yaml")])
        assert result.exit_code == 2
        assert "runtime.compile needs" in result.output
    finally:
        get_registry.cache_clear()


def test_run_is_pickled_and_copied_as_a_function_is() -> None:
    assert pickle.loads(pickle.dumps(tfs_core.run)) is tfs_core.run
    assert copy.deepcopy(tfs_core.run) is tfs_core.run
    assert callable(tfs_core.run)
