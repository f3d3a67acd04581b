"""What decides the steps of a run is recorded, and a resume obeys it: code, owners of components, tokenizer, options.

The runs are small and trained in this process; a "later session" forgets the imported local model first.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import tfs_core
from tfs_core.cli.main import tfs
from tfs_core.config import config_from_mapping
from tfs_core.errors import ConfigError, PluginError
from tfs_core.origin import local_files
from tfs_core.registry import get_registry
from tfs_core.runs import Run

InstallPlugin = Callable[..., None]

MODEL = """
import torch
from dataclasses import dataclass
from torch import nn
from tfs_core.contracts import ModelConfig
from tfs_core.models import AutogradModel
from parts_of_it import activation

@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    width: int = 8

class Model(AutogradModel):
    def __init__(self, config: Config, *, vocab_size, generator):
        super().__init__(config, vocab_size=vocab_size)
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.output = nn.Linear(config.width, vocab_size)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1, generator=generator)

    def forward(self, input_ids, **masks):
        return self.output(activation(self.embedding(input_ids)))

    def flops_per_token(self, seq_len):
        return 1.0
"""


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """Return the configuration of a small run, as a mapping."""
    (tmp_path / "text.txt").write_text("\n".join(f"{i} and {i} are {2 * i}." for i in range(200)), encoding="utf-8")
    dataset = {"name": "text", "path": str(tmp_path / "text.txt"), "separator": ".\n"}
    return {
        "experiment_name": "small",
        "data": {"dataset": dataset, "tokenizer": "byte", "max_length": 16, "validation_fraction": 0.1},
        "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 16},
        "training": {"max_steps": 2, "batch_size": 2, "eval_every": None},
        "runtime": {"threads": 1, "matmul": "highest"},
        "loggers": ["jsonl"],
    }


@pytest.fixture
def train(values: dict[str, Any], tmp_path: Path) -> Callable[..., Run]:
    """Return `train(**arguments)`: `tfs_core.run` with the configuration above (unless it resumes) and assets."""

    def run(**arguments: Any) -> Run:
        config = {} if arguments.get("resume") else {"config": values}
        return tfs_core.run(**{**config, "assets": tmp_path / "assets", **arguments})

    return run


@pytest.fixture
def local(values: dict[str, Any], tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a local model, which the configuration chooses."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "parts_of_it.py").write_text("from torch.nn.functional import gelu as activation\n", encoding="utf-8")
    values["model"] = {"name": f"{folder / 'model.py'}:Model", "max_seq_len": 16}
    yield folder
    sys.path.remove(str(folder))
    forget_local_code()


def forget_local_code() -> None:
    for name in [name for name in sys.modules if name == "parts_of_it" or name.startswith("tfs_local_model_")]:
        del sys.modules[name]


def state_of(run: Run) -> dict[str, Any]:
    assert run.latest is not None
    state: dict[str, Any] = json.loads((run.latest / "state.json").read_bytes())
    return state


def warnings_of(run: Run) -> list[str]:
    return [event["details"]["message"] for event in run.events() if event["kind"] == "warning"]


def tfs_command(*arguments: object) -> Result:
    return CliRunner().invoke(tfs, [str(argument) for argument in arguments])


LONGER = ["training.max_steps=4"]


@pytest.mark.parametrize("changed", ["model.py", "parts_of_it.py"])
def test_changed_local_model_is_refused_by_name_unless_allowed(
    changed: str, local: Path, train: Callable[..., Run]
) -> None:
    run = train()
    assert set(state_of(run)["local_files"]) == {"model.py", "parts_of_it.py"}
    (local / changed).write_text((local / changed).read_text() + "\n# changed\n", encoding="utf-8")
    forget_local_code()
    again = {"resume": run.name, "overrides": LONGER, "allow_local_code": True}
    with pytest.raises(ConfigError, match=f"has changed since the checkpoint: {changed}.*--allow-changed-code"):
        train(**again)
    run = train(**again, allow_changed_code=True)
    assert len(run.metrics()) == 4
    assert any(f"{changed} has changed since the checkpoint" in warning for warning in warnings_of(run))


def test_evaluation_warns_of_a_changed_local_model(
    local: Path, train: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    run = train()
    words = ["evaluate", run.name, "--assets", run.folder.parent.parent, "--allow-local-code"]
    assert tfs_command(*words).exit_code == 0
    assert caplog.messages == []
    (local / "parts_of_it.py").write_text("from torch.nn.functional import relu as activation\n", encoding="utf-8")
    forget_local_code()
    assert tfs_command(*words).exit_code == 0
    assert ["parts_of_it.py of the local model has changed" in message for message in caplog.messages] == [True]


def test_unchanged_local_model_is_resumed_without_a_warning(local: Path, train: Callable[..., Run]) -> None:
    run = train()
    (local / "notes.py").write_text("# is not imported\n", encoding="utf-8")
    forget_local_code()
    run = train(resume=run.name, overrides=LONGER, allow_local_code=True)
    assert not [warning for warning in warnings_of(run) if "since the checkpoint" in warning and ".py" in warning]


def test_installed_packages_beside_a_local_model_are_not_part_of_it() -> None:
    """A model at the root of a repository whose packages are installed from there, as those of tfs are here."""
    root = Path(tfs_core.__file__).parent.parent
    names = local_files(f"{root / 'model.py'}:Model")
    assert "model.py" in names
    packages = [name for name in names if name.startswith(("tfs_core/", "plugins/")) and "/tests/" not in name]
    assert packages == []


RATES = """
def constant(config, *, peak, **others):
    return lambda step: peak
"""
RATES_PLUGIN = """
@hookimpl
def tfs_schedulers():
    return [Component(name="level", summary="S", factory="their_rates.rates:constant")]
"""


def test_changed_code_of_a_plugin_is_told_and_recorded(
    values: dict[str, Any], train: Callable[..., Run], install_plugin: InstallPlugin
) -> None:
    install_plugin("their-rates", RATES_PLUGIN, rates=RATES)
    values["training"]["lr_decay"] = "level"
    run = train()
    recorded = state_of(run)["plugins"]["their-rates"]
    assert (recorded["version"], recorded["components"]) == ("1.2", ["scheduler level"])
    assert not [warning for warning in warnings_of(run) if "their-rates" in warning]

    install_plugin("their-rates", RATES_PLUGIN, rates=RATES + "# changed\n")
    said: list[str] = []
    run = train(resume=run.name, overrides=LONGER, report=said.append)
    message = "the code of their-rates has changed since the checkpoint"
    assert [warning for warning in warnings_of(run) if message in warning]
    assert [line for line in said if message in line]
    assert state_of(run)["plugins"]["their-rates"]["sha256"] != recorded["sha256"]


DOUBLES = """
@hookimpl
def tfs_models():
    return [Component(name="torch", summary="another", factory="tfs_a.x:no")]
@hookimpl
def tfs_tokenizers():
    return [Component(name="byte", summary="another", factory="tfs_a.x:no", loader="tfs_a.x:no")]
@hookimpl
def tfs_datasets():
    return [Component(name="text", summary="another", factory="tfs_a.x:no")]
@hookimpl
def tfs_optimizers():
    return [Component(name="adamw", summary="another", factory="tfs_a.x:no")]
@hookimpl
def tfs_schedulers():
    return [Component(name="cosine", summary="another", factory="tfs_a.x:no")]
@hookimpl
def tfs_loggers():
    return [
        Component(name=name, summary="another", factory="tfs_a.x:no")
        for name in ("jsonl", "bigram", "spikes", "samples")
    ]
"""


@pytest.fixture
def doubled(values: dict[str, Any], train: Callable[..., Run], install_plugin: InstallPlugin) -> Run:
    """Return a run that was trained before a plugin with the same names was installed."""
    values["samples"] = {"prompts": ["1"], "max_length": 3}
    run = train()
    install_plugin("tfs-a", DOUBLES)
    get_registry.cache_clear()
    return run


def as_older_tfs(checkpoint: Path) -> None:
    """Remove from a checkpoint what older versions did not record."""
    from tfs_core.checkpoint_folder import _write_manifest

    state = json.loads((checkpoint / "state.json").read_bytes())
    del state["plugins"], state["local_files"]
    (checkpoint / "state.json").write_text(json.dumps(state), encoding="utf-8")
    (checkpoint / "manifest.json").unlink()
    _write_manifest(checkpoint)


@pytest.mark.parametrize("older", [False, True])
def test_doubled_name_disables_no_older_run(older: bool, doubled: Run, train: Callable[..., Run]) -> None:
    assert doubled.latest is not None
    if older:
        as_older_tfs(doubled.latest)
    assets = doubled.folder.parent.parent
    for arguments in (["evaluate", doubled.name], ["generate", doubled.name, "--prompt", "1", "--max-length", "2"]):
        done = tfs_command(*arguments, "--assets", assets)
        assert done.exit_code == 0, done.output
    run = train(resume=doubled.name, overrides=LONGER)
    assert len(run.metrics()) == 4
    assert run.samples()
    assert run.info["plugins"].keys() >= {"tfs-torch", "tfs-core", "tfs-generate", "tfs-lab"}
    assert "tfs-a" not in run.info["plugins"]
    again = train(resume=doubled.name, overrides=["training.max_steps=5"])  # its own configuration, by now
    assert len(again.metrics()) == 5


def test_doubled_name_in_a_new_configuration_is_an_error_whose_advice_can_be_followed(
    doubled: Run, values: dict[str, Any], train: Callable[..., Run]
) -> None:
    with pytest.raises(ConfigError) as caught:
        train()
    message = str(caught.value)
    for choices in ("'tfs-a/torch' or 'tfs-torch/torch'", "'tfs-a/byte' or 'tfs-tokenizers/byte'"):
        assert f"write {choices}" in message
    for name in ("adamw", "cosine", "jsonl"):
        assert name not in message, "the core's own defaults stay the core's"
    values["data"]["tokenizer"] = "tfs-tokenizers/byte"
    values["data"]["dataset"]["name"] = "tfs-datasets/text"
    values["model"]["name"] = "tfs-torch/torch"
    assert len(train().metrics()) == 2
    # The same file continues the older run, whose names had no owners in front of them.
    run = train(config=values, resume=doubled.name, overrides=LONGER)
    assert len(run.metrics()) == 4


BAD_OPTIONS = """
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

@dataclass(frozen=True, kw_only=True)
class Options:
    {option}

def constant(config, *, peak, **others):
    return lambda step: peak
"""
BAD_PLUGIN = """
@hookimpl
def tfs_schedulers():
    return [Component(name="level", summary="S", factory="bad_options.x:constant", config="bad_options.x:Options")]
"""


@pytest.mark.parametrize(
    "option",
    [
        "x: int = None",
        "x: float = float('inf')",
        "x: Literal['a', 'b'] = 'c'",
        "x: float = '3'",
        "x: object = print",
        "x: Callable = print",
        "x: tuple[int, ...] = ('a',)",
        "x: str = 5",
    ],
)
def test_default_that_cannot_be_read_back_is_refused_before_the_first_step(
    option: str, values: dict[str, Any], train: Callable[..., Run], install_plugin: InstallPlugin, tmp_path: Path
) -> None:
    install_plugin("bad-options", BAD_PLUGIN, x=BAD_OPTIONS.format(option=option))
    values["training"]["lr_decay"] = "level"
    with pytest.raises((PluginError, ConfigError), match=r"training\.lr_decay\.x|cannot be written as YAML"):
        train()
    assert not (tmp_path / "assets" / "runs").exists()


def test_resume_uses_the_tokenizer_of_its_checkpoint_and_says_so(
    values: dict[str, Any], train: Callable[..., Run], tmp_path: Path
) -> None:
    text = values["data"]["dataset"]["path"]
    folder = tmp_path / "assets" / "tokenizers" / "mine"
    trained = tfs_command("tokenizer", "train", "file", text, "300", "--output", folder)
    if trained.exit_code == 2:  # the name of the option is the plugin's
        trained = tfs_command("tokenizer", "train", "file", text, "300", "--assets", tmp_path / "assets")
        folder = next((tmp_path / "assets").rglob("tokenizer.json")).parent
    assert trained.exit_code == 0, trained.output
    values["data"]["tokenizer"] = str(folder)
    run = train()
    shutil.rmtree(folder)
    folder.mkdir()
    shutil.copytree(Path(str(run.latest)) / "tokenizer", folder, dirs_exist_ok=True)
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["model"]["merges"] = content["model"]["merges"][:5]  # another tokenizer in the same place
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    said: list[str] = []
    run = train(resume=run.name, overrides=LONGER, report=said.append)
    assert len(run.metrics()) == 4
    assert "the tokenizer is the copy in the checkpoint" in said


def test_configuration_survives_its_round_trip(values: dict[str, Any]) -> None:
    from tfs_core.run import check_readable

    check_readable(config_from_mapping(values))
