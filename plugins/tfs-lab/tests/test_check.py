"""`tfs check`: output, exit codes, and errors for a wrong command line."""

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from click.testing import CliRunner, Result
from tfs_lab.testing import PluginConformance

from tfs_core.cli.main import tfs

MODEL = dedent(
    '''
    from dataclasses import dataclass

    import torch
    from torch import Tensor, nn

    from tfs_core.contracts import ModelConfig
    from tfs_core.models import AutogradModel


    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        d_model: int = 64
        """The width."""

        n_heads: int = 4
        """Of no use here; d_model must be a multiple of it."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.d_model % self.n_heads:
                raise ValueError(f"n_heads must divide d_model; {self.n_heads} does not divide {self.d_model}")


    class Model(AutogradModel):
        factor = 1.0

        def __init__(self, config: Config, *, vocab_size: int, generator: torch.Generator) -> None:
            super().__init__(config, vocab_size=vocab_size)
            self.table = nn.Embedding(vocab_size, config.d_model)
            self.output = nn.Linear(config.d_model, vocab_size)
            for parameter in self.parameters():
                nn.init.normal_(parameter, 0.0, 0.1, generator=generator)

        def forward(self, input_ids: Tensor) -> Tensor:
            if input_ids.shape[1] > self.config.max_seq_len:
                raise ValueError("too long")
            return self.output(self.table(input_ids).tanh())

        def backward(self, scale: float) -> None:
            before = self.output.bias.grad
            self.output.bias.grad = None
            super().backward(scale)
            self.output.bias.grad = self.output.bias.grad * self.factor + (0.0 if before is None else before)


    class Wrong(Model):
        factor = 1.01


    class NotFinite(Model):
        factor = float("nan")


    class Mirroring(Model):
        mirrors = "nobody-has-this"


    class Faulty(Model):
        def faults(self) -> dict[str, str]:
            return {"bias": "A hundredth too much.", "nothing": "Nothing at all.", "strange": "[bold]\\x1b[31m red"}

        def plant_fault(self, name: str) -> None:
            self.factor = 1.01 if name == "bias" else 1.0
    '''
)


Check = Callable[..., Result]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Return a function that runs `tfs check ./my_model.py:NAME` with more arguments."""
    (tmp_path / "my_model.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> Result:
        model = name if name == name.lower() else f"./my_model.py:{name}"
        return CliRunner().invoke(tfs, ["check", model, *arguments])

    return run


def test_right_model_passes_with_a_table_of_its_parameters(check: Check) -> None:
    result = check("Model")
    assert result.exit_code == 0
    assert "max_seq_len=11, dtype=float64, dropout=0.0, d_model=12, n_heads=3" in result.output
    for parameter in ("table.weight", "output.weight", "output.bias"):
        assert parameter in result.output
    assert "checks pass" in result.output
    assert "FAIL" not in result.output


def test_wrong_model_fails_and_says_where_to_look(check: Check) -> None:
    result = check("Wrong")
    assert result.exit_code == 1
    assert "FAIL  gradients against autograd" in result.output
    assert "Expected: The gradient of every parameter equals autograd's" in result.output
    assert "In backward order the first wrong parameter is output.bias" in result.output


def test_json_says_the_same_and_nothing_else(check: Check) -> None:
    result = check("Wrong", "--json")
    assert result.exit_code == 1
    values = json.loads(result.output)
    assert values["passed"] is False
    assert values["options"]["d_model"] == 12
    assert values["first_wrong"] == {"parameter": "output.bias"}
    one = next(check for check in values["checks"] if check["name"] == "gradients against differences")
    assert one["status"] == "fail"
    assert {line["name"]: line["verdict"] for line in one["comparisons"]}["table.weight"] == "PASS"


def test_json_of_a_right_model_passes(check: Check) -> None:
    result = check("Model", "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["passed"] is True


def test_json_stays_strict_when_numbers_are_not_finite(check: Check) -> None:
    values = json.loads(check("NotFinite", "--json").output, parse_constant=pytest.fail)
    assert values["passed"] is False


def test_planted_fault_that_is_caught_exits_with_1(check: Check) -> None:
    result = check("Faulty", "--break", "bias")
    assert result.exit_code == 1
    assert "Planted: bias: A hundredth too much." in result.output
    assert "caught 'bias'" in result.output


def test_planted_fault_that_slips_through_exits_with_0_and_says_so(check: Check) -> None:
    result = check("Faulty", "--break", "nothing")
    assert result.exit_code == 0
    assert "'nothing' was NOT caught" in result.output


def test_unknown_fault_names_the_nearest(check: Check) -> None:
    result = check("Faulty", "--break", "bais")
    assert result.exit_code == 2
    assert "Did you mean 'bias'?" in result.output


def test_model_without_faults_says_so(check: Check) -> None:
    assert "declares no faults" in check("Model", "--break", "bias").output
    listed = check("Model", "--list-faults")
    assert listed.exit_code == 0
    assert "declares no faults" in listed.output


def test_faults_are_listed_harmlessly(check: Check) -> None:
    result = check("Faulty", "--list-faults")
    assert result.exit_code == 0
    assert "bias     A hundredth too much." in result.output
    assert "[bold]\\x1b[31m red" in result.output
    assert "--break bias" in result.output
    assert json.loads(check("Faulty", "--list-faults", "--json").output)["nothing"] == "Nothing at all."


def test_set_changes_an_option(check: Check) -> None:
    result = check("Model", "--set", "d_model=15", "--set", "model.max_seq_len=13")
    assert result.exit_code == 0
    assert "max_seq_len=13, dtype=float64, dropout=0.0, d_model=15, n_heads=3" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "d_modl=15"], "Did you mean 'd_model'?"),
        (["--set", "d_model=wide"], "d_model"),
        (["--set", "d_model=16"], "Choose sizes that fit with --set"),
        (["--set", "d_model"], "expected key=value"),
        (["--set", "dtype=bfloat16"], "dtype is chosen by the checks"),
        (["--seed", "one"], "--seed"),
    ],
)
def test_wrong_option_is_told_before_anything_is_checked(check: Check, arguments: list[str], says: str) -> None:
    result = check("Model", *arguments)
    assert result.exit_code == 2
    assert says in result.output
    assert "PASS" not in result.output


def test_unknown_model_names_the_installed(check: Check) -> None:
    result = check("trch")
    assert result.exit_code == 1
    assert "there is no model 'trch'" in result.output


def test_against_another_model_compares_both(check: Check) -> None:
    right = check("Model", "--against", "./my_model.py:Mirroring")
    assert right.exit_code == 0
    assert "parity: optimizer steps" in right.output
    wrong = check("Model", "--against", "./my_model.py:Wrong")
    assert wrong.exit_code == 1
    assert "FAIL  parity: gradients" in wrong.output


def test_mirror_that_is_not_installed_is_told_and_left_out(check: Check) -> None:
    result = check("Mirroring")
    assert result.exit_code == 0
    assert "Not compared with its mirror: there is no model 'nobody-has-this'" in result.output
    assert "parity:" not in result.output


def test_seed_decides_the_numbers(check: Check) -> None:
    def norms(*arguments: str) -> list[float]:
        checks = json.loads(check("Model", "--json", *arguments).output)["checks"]
        return [line["norm"] for one in checks for line in one["comparisons"]]

    assert norms("--seed", "1") == norms("--seed", "1")
    assert norms("--seed", "1") != norms("--seed", "2")


class TestPlugin(PluginConformance):
    distribution = "tfs-lab"
