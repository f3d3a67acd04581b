"""`tfs verify-resume`: exact resume is confirmed, and state that is not saved is found and named."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from tfs_lab.run_differences import line_difference, tensor_difference, value_difference, without_times
from tfs_lab.verify_resume import MIN_STEPS, SAVE_OPERATIONS, plan_interruptions, shortened

from tfs_core.cli.main import tfs
from tfs_core.config import config_from_mapping
from tfs_core.errors import ConfigError, TrainingError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")

MODEL = dedent(
    """
    import os

    import torch
    from torch import Tensor, nn

    from tfs_core.contracts import ModelConfig
    from tfs_core.models import AutogradModel


    class Model(AutogradModel):
        def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
            super().__init__(config, vocab_size=vocab_size)
            self.table = nn.Embedding(vocab_size, vocab_size)
            nn.init.normal_(self.table.weight, generator=generator)
            self.noise = torch.Generator().manual_seed(1)

        def forward(self, input_ids: Tensor) -> Tensor:
            logits = self.table(input_ids)
            return logits + torch.randn(logits.shape, generator=self.noise) if self.training else logits


    class FromTheSystem(Model):
        def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
            super().__init__(config, vocab_size=vocab_size, generator=generator)
            self.noise.manual_seed(int.from_bytes(os.urandom(4), "little"))


    class NotLoading(Model):
        def load_state_dict(self, *arguments: object, **named: object) -> None:
            raise RuntimeError("something is missing")


    class Failing(Model):
        def forward(self, input_ids: Tensor) -> Tensor:
            return super().forward(input_ids) * float("nan")
    """
)

Verify = Callable[..., Result]


def values(**training: Any) -> dict[str, Any]:
    return {
        "experiment_name": "tiny",
        "data": {
            "dataset": {"name": "text", "path": "words.txt"},
            "tokenizer": "byte",
            "max_length": 16,
            "validation_fraction": 0.2,
        },
        "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 16, "dropout": 0.1},
        "training": {"batch_size": 4, "num_epochs": 3, "learning_rate": 1e-2, "warmup_steps": 1000, **training},
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        "loggers": ["jsonl"],
    }


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verify:
    """Return a function that runs `tfs verify-resume` with 6 steps, with temporary folders in `tmp_path/temporary`."""
    (tmp_path / "words.txt").write_text("one two three four. five six seven eight nine.\n" * 40, encoding="utf-8")
    (tmp_path / "config.yaml").write_text(json.dumps(values()), encoding="utf-8")
    (tmp_path / "my_model.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, model: str = "") -> Result:
        local = ["--set", f"model={{name: ./my_model.py:{model}, max_seq_len: 16}}"] if model else []
        return CliRunner().invoke(
            tfs, ["verify-resume", "config.yaml", "--steps", "6", "--trials", "1", *local, *arguments]
        )

    return run


def test_configuration_that_resumes_exactly_is_confirmed(verify: Verify, tmp_path: Path) -> None:
    result = verify("--assets", "mine", "--json", "--seed", "5")  # this seed gives one interruption of each kind
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["equal"] is True
    assert report["steps"] == 6
    assert [trial["differences"] for trial in report["trials"]] == [[]]
    interruptions = [words.partition(" after")[0] for words in report["trials"][0]["interruptions"]]
    assert interruptions == ["SIGTERM", "SIGKILL", "SIGKILL while saving"]
    assert "bit for bit" in report["verdict"]
    assert list((tmp_path / "temporary").glob("tfs-*")) == [], "the runs are removed"
    assert not (tmp_path / "mine" / "runs").exists()
    assert list((tmp_path / "mine" / "tokens").glob("*/tokens.json")), "tokens are those of the user"


def test_state_that_is_not_saved_is_found_and_named(verify: Verify, tmp_path: Path) -> None:
    result = verify("--seed", "1", model="Model")
    assert result.exit_code == 1, result.output
    assert "      training.max_steps: 6 (was null)\n" in result.output
    assert "FAIL  trial-1: SIGTERM after step" in result.output
    assert "! metrics.jsonl: the first line that differs is line" in result.output
    assert "loss is" in result.output
    assert "! model.safetensors: 1 of 1 tensors differ, the first of them is table.weight" in result.output
    assert "1 of 1 interrupted runs differ from the uninterrupted one: trial-1." in result.output
    assert "a second uninterrupted run" not in result.output
    [folder] = (tmp_path / "temporary").glob("tfs-*")
    assert str(folder) in result.output
    assert (folder / "assets" / "runs" / "trial-1" / "metrics.jsonl").exists()


@pytest.mark.long
def test_session_that_cannot_be_resumed_is_named_with_its_error(verify: Verify) -> None:
    result = verify("--seed", "1", model="NotLoading")
    assert result.exit_code == 1
    assert "! a session of the run failed with exit code 1: " in result.output
    assert "its weights do not fit the model: something is missing" in result.output
    assert "Traceback" not in result.output


@pytest.mark.long
def test_training_that_is_not_deterministic_is_distinguished(verify: Verify) -> None:
    result = verify("--seed", "1", model="FromTheSystem")
    assert result.exit_code == 1
    assert "a second uninterrupted run differs from the first, too, so resuming need not be the cause" in result.output


def test_run_that_fails_gives_its_own_error(verify: Verify, tmp_path: Path) -> None:
    result = verify(model="Failing")
    assert result.exit_code == 1
    assert "Error: a session of the run failed with exit code 1: step 1 is not taken: its loss is nan" in result.output
    assert "Traceback" not in result.output
    assert list((tmp_path / "temporary").glob("tfs-*")) == []


def test_invalid_configuration_is_an_error_before_anything_is_run(verify: Verify, tmp_path: Path) -> None:
    result = verify("--set", "training.batch_sise=2")
    assert result.exit_code == 2
    assert "Did you mean 'batch_size'?" in result.output
    assert not (tmp_path / "assets").exists()


def test_assets_that_cannot_be_used_are_an_error(verify: Verify, tmp_path: Path) -> None:
    result = verify("--assets", "words.txt")
    assert result.exit_code == 1
    assert "Error: the assets folder words.txt cannot be used: " in result.output
    assert list((tmp_path / "temporary").glob("tfs-*")) == []


# The short configuration


def test_short_run_keeps_everything_but_length_and_intervals() -> None:
    config = config_from_mapping(values(eval_every=500, early_stopping=3))
    short = shortened(config, 20)
    training = short.training
    assert (training.max_steps, training.num_epochs, training.max_tokens) == (20, None, None)
    assert (training.checkpoint_every, training.eval_every, training.log_every) == (5, 6, 1)
    assert training.max_eval_batches == 8
    assert training.warmup_steps == 10, "the warm-up would be longer than the run"
    assert training.early_stopping == 3
    assert (short.data, short.model, short.runtime, short.loggers) == (
        config.data,
        config.model,
        config.runtime,
        config.loggers,
    )


def test_warmup_and_intervals_that_fit_are_unchanged() -> None:
    settings = {
        "warmup_steps": 20,
        "checkpoint_every": 2,
        "eval_every": 3,
        "max_eval_batches": 2,
        "keep_checkpoints": 1,
    }
    training = shortened(config_from_mapping(values(**settings)), 20).training
    assert {name: getattr(training, name) for name in settings} == settings
    assert shortened(config_from_mapping(values(eval_every=None)), 20).training.eval_every is None


def test_run_that_is_shorter_than_steps_keeps_its_length() -> None:
    config = config_from_mapping(values(num_epochs=None, max_steps=7, warmup_steps=0))
    assert shortened(config, 20).training.max_steps == 7


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (values(num_epochs=None, max_steps=MIN_STEPS - 1, warmup_steps=0), "needs at least 4 steps"),
        ({**values(), "loggers": ["console"]}, "Add it to the loggers"),
    ],
)
def test_configuration_that_cannot_be_verified_is_an_error(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        shortened(config_from_mapping(config), 20)


# The interruptions


def test_interruptions_lie_between_the_first_checkpoint_and_the_last_step() -> None:
    config = shortened(config_from_mapping(values()), 20)
    plans = list(plan_interruptions(config, last_step=20, trials=200, seed=0))
    steps = [[interruption.step for interruption in plan] for plan in plans]
    assert {step for plan in steps for step in plan} == set(range(6, 20))
    assert all(plan == sorted(set(plan)) for plan in steps)
    assert {len(plan) for plan in plans} == {1, 2, 3}
    kinds = [(one.signal, one.operation > 0) for plan in plans for one in plan]
    assert kinds[:4] == [("SIGTERM", False), ("SIGKILL", False), ("SIGKILL", True), ("SIGTERM", False)]
    assert {one.operation for plan in plans for one in plan} == set(range(SAVE_OPERATIONS + 1))


def test_seed_decides_the_interruptions() -> None:
    config = shortened(config_from_mapping(values()), 20)
    plans = [list(plan_interruptions(config, last_step=20, trials=3, seed=seed)) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


def test_run_that_stops_at_the_first_checkpoint_is_too_short() -> None:
    config = shortened(config_from_mapping(values()), 20)
    with pytest.raises(TrainingError, match="ended at step 6, too early to interrupt it"):
        next(plan_interruptions(config, last_step=6, trials=1, seed=0))


# The comparison


def test_times_and_speeds_are_not_compared() -> None:
    line = {
        "step": 3,
        "at": "now",
        "elapsed_seconds": 1.0,
        "tokens_per_second": 5.0,
        "saved_at": 1,
        "rows_per_second": 2,
        "n": 2,
    }
    assert without_times(line) == {"step": 3, "n": 2}


def test_first_line_that_differs_is_named_with_its_fields() -> None:
    lines = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.25}]
    assert line_difference(lines, [dict(line) for line in lines]) is None
    changed = [lines[0], {"step": 2, "loss": 0.75}, {"step": 3, "loss": 0.125}]
    assert line_difference(changed, lines) == (
        "the first line that differs is line 2, of step 2: loss is 0.75, not 0.5"
    )
    assert line_difference([{"step": 1, "loss": -0.0}], [{"step": 1, "loss": 0.0}]) is not None
    assert line_difference(lines[:2], lines) == "it has 2 lines, not 3"
    assert line_difference(lines, lines[:2]) == "it has 3 lines, not 2"


def test_first_tensor_that_differs_in_a_bit_is_named() -> None:
    tensors = {"b": torch.tensor([float("nan")]), "a": torch.zeros(2), "step": torch.tensor(3.0), "none": torch.ones(0)}
    assert tensor_difference({name: tensor.clone() for name, tensor in tensors.items()}, tensors) is None
    for name, other in [
        ("a", torch.tensor([0.0, -0.0])),
        ("a", torch.zeros(2, dtype=torch.int32)),
        ("a", torch.zeros(1, 2)),
        ("step", torch.tensor(4.0)),
    ]:
        expected = f"1 of 4 tensors differ, the first of them is {name}"
        assert tensor_difference({**tensors, name: other}, tensors) == expected
    assert tensor_difference({"b": tensors["b"]}, tensors) == "3 of 4 tensors differ, the first of them is a"
    assert tensor_difference(tensors, {"b": tensors["b"]}) == "3 of 4 tensors differ, the first of them is a"


def test_entries_of_the_state_that_differ_are_named() -> None:
    state = {"run": "one", "step": 3, "progress": {"elapsed_seconds": 1.0, "tokens": 5}, "random_state": {"cpu": "x"}}
    same = {
        **state,
        "run": "two",
        "plugins": {"tfs-x": {"sha256": "ab"}},
        "progress": {"elapsed_seconds": 2.0, "tokens": 5},
    }
    assert value_difference(same, state) is None
    other = {**state, "step": 4, "random_state": {"cpu": "y"}}
    assert value_difference(other, state) == "these entries differ: step, random_state.cpu"
