"""`tfs run`: its output, its errors, and the commands that it suggests."""

import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

import tfs_core
from tfs_core.cli.main import tfs
from tfs_core.errors import CheckpointError, ConfigError, UsageError
from tfs_core.runs import find_run
from tfs_core.trained import load_model

Tfs = Callable[..., Result]


@pytest.fixture
def run_tfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tfs:
    """Return a function that runs `tfs` with arguments, in a folder that contains only `tiny.yaml`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFS_ASSETS", raising=False)
    words = random.Random(0).choices(["one ", "two ", "three ", "four.\n"], k=300)
    (tmp_path / "words.txt").write_text("".join(words), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")

    def run(*words: str) -> Result:
        return CliRunner().invoke(tfs, list(words))

    return run


TINY: dict[str, Any] = {
    "experiment_name": "tiny",
    "data": {"dataset": {"name": "text", "path": "words.txt"}, "tokenizer": "byte", "max_length": 16},
    "model": {"name": "torch", "d_model": 16, "n_heads": 2, "n_blocks": 1, "max_seq_len": 16},
    "training": {"batch_size": 4, "max_steps": 3},
    "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
}


def test_run_ends_with_commands_that_work(run_tfs: Tfs, tmp_path: Path) -> None:
    result = run_tfs("run", "--config", "tiny.yaml", "--assets", "some where")
    assert result.exit_code == 0, result.output
    assert "The run is in" in result.output
    commands = [line[line.index("tfs ") :] for line in result.output.splitlines() if "  tfs " in line]
    assert len(commands) == 4
    (tmp_path / "MY.txt").write_text("my own text. " * 100, encoding="utf-8")
    for command in commands:
        answer = run_tfs(*shlex.split(command)[1:])
        assert answer.exit_code == 0, f"{command}\n{answer.output}"
    assert find_run("mine", tmp_path / "some where").status == "finished"


def test_run_that_stopped_early_ends_with_a_command_that_trains_on(run_tfs: Tfs, tmp_path: Path) -> None:
    settings = ("learning_rate=1e-30", "max_steps=6", "eval_every=1", "early_stopping=2")
    changes = [word for setting in settings for word in ("--set", f"training.{setting}")]
    result = run_tfs("run", "--config", "tiny.yaml", *changes)
    assert find_run("tiny", tmp_path / "assets").info["summary"]["last_step"] == 3
    (command,) = (line[line.index("tfs ") :] for line in result.output.splitlines() if "train it longer" in line)
    answer = run_tfs(*shlex.split(command)[1:])
    assert answer.exit_code == 0, answer.output
    assert find_run("tiny", tmp_path / "assets").info["summary"]["last_step"] == 6


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_finished_run_is_finished_although_stdout_is_full(run_tfs: Tfs, tmp_path: Path) -> None:
    code = "import sys; from tfs_core.cli.main import main; sys.exit(main())"
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", code, "run", "--config", "tiny.yaml"]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 0
    assert "The run is finished, in" in process.stderr
    assert "Traceback" not in process.stderr
    assert find_run("tiny", tmp_path / "assets").status == "finished"


def test_run_of_the_same_configuration_gets_a_number(run_tfs: Tfs, tmp_path: Path) -> None:
    for _ in range(2):
        assert run_tfs("run", "--config", "tiny.yaml").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "assets" / "runs").iterdir()) == ["tiny", "tiny-2"]


def test_run_json_has_the_counts_and_the_bigram_baseline(run_tfs: Tfs, tmp_path: Path) -> None:
    result = run_tfs("run", "--config", "tiny.yaml", "--name", "named")
    assert result.exit_code == 0
    info = find_run("named", tmp_path / "assets").info
    assert info["parameters"]["total"] > info["parameters"]["without_embeddings"] > 0
    assert info["summary"]["last_step"] == info["total_steps"] == 3
    assert 0 < info["bigram_bits_per_byte"] < 8
    assert f"to beat: a bigram model's {info['bigram_bits_per_byte']:.4f} bits/byte" in result.output
    assert set(info["plugins"]) >= {"tfs-core", "tfs-torch"}


def test_dry_run_says_what_a_run_would_come_to_and_leaves_no_run(run_tfs: Tfs, tmp_path: Path) -> None:
    result = run_tfs("run", "--config", "tiny.yaml", "--dry-run")
    assert result.exit_code == 0, result.output
    for word in ("parameters", "tokens", "steps       3", "FLOPs", "memory", "first loss"):
        assert word in result.output
    assert not (tmp_path / "assets" / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a configuration"),
        (["--resume"], "--resume needs a run"),
        (["--resume", "nothing"], "There is no run 'nothing'"),
        (["--resume", "auot"], "Error: Did you mean 'auto'? There is no run 'auot'"),
        (["--dry-run"], "needs a configuration"),
        (["--dry-run", "--config", "tiny.yaml", "--name", "x"], "leave --resume and --name out"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--config", "tiny.yaml", "--model", "tork"], "torch"),
        (["--config", "tiny.yaml", "--set", "training.batch_sise=3"], "batch_size"),
        (["--config", "tiny.yaml", "--set", "data.dataset.path=none.txt"], "none.txt"),
    ],
)
def test_wrong_command_is_reported_without_traceback(words: list[str], said: str, run_tfs: Tfs) -> None:
    result = run_tfs("run", *words)
    assert result.exit_code in (1, 2)
    assert said in result.output
    assert "Traceback" not in result.output


def test_name_that_exists_is_rejected(run_tfs: Tfs) -> None:
    assert run_tfs("run", "--config", "tiny.yaml", "--name", "one").exit_code == 0
    result = run_tfs("run", "--config", "tiny.yaml", "--name", "one")
    assert result.exit_code == 2
    assert "exists already" in result.output


def test_bare_resume_on_the_command_line_takes_the_last_run(run_tfs: Tfs, tmp_path: Path) -> None:
    assert run_tfs("run", "--config", "tiny.yaml").exit_code == 0
    result = run_tfs("run", "--resume", "--config", "tiny.yaml", "--set", "training.max_steps=5")
    assert result.exit_code == 0, result.output
    assert len(find_run("tiny", tmp_path / "assets").metrics()) == 5


def test_run_says_when_its_folder_cannot_be_made(run_tfs: Tfs, tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "runs").touch()
    result = run_tfs("run", "--config", "tiny.yaml")
    assert result.exit_code == 1
    assert "the run's folder cannot be written" in result.output


def test_full_disk_is_reported_even_if_run_json_cannot_be_written(
    run_tfs: Tfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*arguments: Any, **named: Any) -> None:
        monkeypatch.setattr("tfs_core.run_folder.write_durably", no_room)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfs_core.tensor_files.save_file", no_room)
    result = run_tfs("run", "--config", "tiny.yaml")
    assert result.exit_code == 1
    assert "step-00000003 cannot be saved" in result.output
    assert "Traceback" not in result.output


# A model in a local file.

OWN_MODEL = """
from dataclasses import dataclass
import torch
from torch import Tensor, nn
from tfs_core.contracts import ModelConfig
from tfs_core.models import AutogradModel

@dataclass(frozen=True, kw_only=True)
class TableConfig(ModelConfig):
    scale: float = 0.5

class Table(AutogradModel):
    def __init__(self, config: TableConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.normal_(self.table.weight, std=config.scale, generator=generator)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)
"""


@pytest.fixture
def own_model(run_tfs: Tfs, tmp_path: Path) -> Tfs:
    (tmp_path / "own.py").write_text(OWN_MODEL, encoding="utf-8")
    model = {"name": "./own.py:Table", "max_seq_len": 16}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**TINY, "experiment_name": "own", "model": model}))
    assert run_tfs("run", "--config", "own.yaml").exit_code == 0
    return run_tfs


def test_model_in_a_file_is_trained_and_its_options_are_written_down(own_model: Tfs, tmp_path: Path) -> None:
    config = yaml.safe_load((tmp_path / "assets" / "runs" / "own" / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["scale"] == 0.5


def test_model_in_a_file_is_not_imported_because_a_run_folder_names_it(own_model: Tfs, tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    with pytest.raises(ConfigError, match="--allow-local-code"):
        tfs_core.run(resume="own", assets=assets, overrides=["training.max_steps=4"])
    with pytest.raises(ConfigError, match="--allow-local-code"):
        load_model("own", assets=assets)
    assert load_model("own", assets=assets, allow_local_code=True).step == 3
    run = tfs_core.run(resume="own", assets=assets, overrides=["training.max_steps=4"], allow_local_code=True)
    assert len(run.metrics()) == 4


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "own", "--prompt", "x"],
        ["generate", "own", "--prompt", "x", "--model", "custom"],
        ["evaluate", "own"],
        ["evaluate", "own", "--model", "custom"],
        ["evaluate", "assets/runs/own/checkpoints/step-00000003", "--model", "torch"],
        ["chat", "own"],
        ["chat", "own", "--model", "custom"],
        ["run", "--resume", "own"],
        ["run", "--resume", "own", "--model", "custom"],
        ["run", "--resume", "own", "--set", "model=custom"],
        ["run", "--resume", "own", "--set", "model={name: custom}"],
        ["run", "--config", "own.yaml", "--model", "custom", "--resume", "own"],
        ["run", "--config", "other.yaml", "--resume", "own"],
        ["run", "--config", "other.yaml", "--resume", "own", "--set", "training.max_steps=9"],
    ],
    ids=" ".join,
)
def test_no_command_imports_a_file_because_a_run_names_it(
    command: list[str], own_model: Tfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**TINY, "experiment_name": "own", "model": {"name": "custom"}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other), encoding="utf-8")
    imported = tmp_path / "imported"
    hostile = f"import pathlib\npathlib.Path({str(imported)!r}).touch()\n{OWN_MODEL}"
    (tmp_path / "own.py").write_text(hostile, encoding="utf-8")
    for name in [name for name in sys.modules if name.startswith("tfs_local_model_")]:
        monkeypatch.delitem(sys.modules, name)
    result = own_model(*command)
    assert not imported.exists()
    assert result.exit_code == 2
    assert "--allow-local-code" in result.output


def test_configuration_that_names_the_file_resumes_it(own_model: Tfs) -> None:
    result = own_model("run", "--config", "own.yaml", "--resume", "--set", "training.max_steps=5")
    assert result.exit_code == 0, result.output


# Loading checkpoints.


def test_loaded_model_is_the_one_that_was_trained(run_tfs: Tfs, tmp_path: Path) -> None:
    run_tfs("run", "--config", "tiny.yaml")
    loaded = load_model("tiny", assets=tmp_path / "assets")
    assert (loaded.step, loaded.device, loaded.model.training) == (3, "cpu", False)
    assert loaded.tokenizer.decode([104, 105]) == "hi"
    assert torch.get_num_threads() == 1


def test_loaded_model_computes_the_same_when_its_mirror_takes_the_weights(run_tfs: Tfs, tmp_path: Path) -> None:
    run_tfs("run", "--config", "tiny.yaml")
    input_ids = torch.tensor([[1, 2, 3, 4]])
    own = load_model("tiny", assets=tmp_path / "assets")
    mirror = load_model("tiny", assets=tmp_path / "assets", model="custom")
    with torch.no_grad():
        torch.testing.assert_close(mirror.model.forward(input_ids), own.model.forward(input_ids), rtol=1e-4, atol=1e-5)


def test_checkpoint_with_another_tokenizer_than_the_model_s_is_rejected(run_tfs: Tfs, tmp_path: Path) -> None:
    run_tfs("run", "--config", "tiny.yaml")
    checkpoint = tmp_path / "assets" / "runs" / "tiny" / "checkpoints" / "step-00000003"
    state = json.loads((checkpoint / "state.json").read_bytes())
    state["fingerprints"]["tokenizer"] = "another"
    (checkpoint / "state.json").write_text(json.dumps(state), encoding="utf-8")
    manifest = json.loads((checkpoint / "manifest.json").read_bytes())
    content = (checkpoint / "state.json").read_bytes()
    manifest["files"]["state.json"] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(CheckpointError, match="its tokenizer is not the one that the model was trained with"):
        load_model("tiny", assets=tmp_path / "assets")


def test_checkpoint_outside_a_run_folder_begins_a_new_run_only(run_tfs: Tfs, tmp_path: Path) -> None:
    run_tfs("run", "--config", "tiny.yaml")
    alone = (tmp_path / "assets" / "runs" / "tiny" / "checkpoints" / "step-00000003").rename(tmp_path / "step-00000003")
    with pytest.raises(UsageError, match="--name"):
        tfs_core.run(resume=alone, assets="assets", overrides=["training.max_steps=5"])
    run = tfs_core.run(resume=alone, name="again", assets="assets", overrides=["training.max_steps=5"])
    assert [line["step"] for line in run.metrics()] == [4, 5]
