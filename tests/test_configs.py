"""Every file in configs/ has a header, validates, and passes a dry run; those without network access take a step."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tfs_core.cli.main import tfs
from tfs_core.config import load_config

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LOCAL = {"python-stdlib", "text", "jsonl", "parquet"}
# Small settings, with a text and a tokenizer that need no network.
INSTEAD_OF_THE_HUB = ["data.dataset=python-stdlib", "data.tokenizer=byte"]
LITTLE = ["data.subset_size=20", "data.val_subset_size=2", "runtime.threads=1", "runtime.matmul=highest"]
LITTLE += ["training.batch_size=2"]
ONE_STEP = ["training.max_steps=1", "training.num_epochs=null", "training.max_tokens=null", "training.warmup_ratio=0"]


def needs_no_network(path: Path) -> bool:
    return load_config(path).data.dataset.name in LOCAL


def settings(values: list[str]) -> list[str]:
    return [part for value in values for part in ("--set", value)]


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("assets")


def test_the_named_configurations_are_there() -> None:
    names = {path.stem for path in CONFIGS}
    assert {"quickstart", "test_torch", "test_custom", "torch_tinystories", "custom_tinystories"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_has_a_header_that_says_what_to_expect(path: Path) -> None:
    header = path.read_text(encoding="utf-8").split("experiment_name")[0]
    assert f"tfs run --config configs/{path.name}" in header
    assert "# Shows" in header
    assert "# Takes" in header


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_validates_and_runs_dry(path: Path, assets: Path) -> None:
    values = LITTLE + ([] if needs_no_network(path) else INSTEAD_OF_THE_HUB)
    runner = CliRunner()
    validated = runner.invoke(tfs, ["config", "validate", str(path)])
    assert validated.exit_code == 0, validated.output
    dry = runner.invoke(tfs, ["run", "--config", str(path), "--dry-run", "--assets", str(assets), *settings(values)])
    assert dry.exit_code == 0, dry.output
    assert not list((assets / "runs").glob("*")), "a dry run writes no run folder"


@pytest.mark.parametrize("path", [path for path in CONFIGS if needs_no_network(path)], ids=lambda path: path.stem)
def test_config_without_network_takes_a_step(path: Path, assets: Path, tmp_path: Path) -> None:
    values = settings([*LITTLE, *ONE_STEP, "training.warmup_steps=null", "training.warmup_ratio=null"])
    command = ["run", "--config", str(path), "--assets", str(tmp_path), *values]
    result = CliRunner().invoke(tfs, command)
    assert result.exit_code == 0, result.output
    metrics = (tmp_path / "runs" / load_config(path).experiment_name / "metrics.jsonl").read_text(encoding="utf-8")
    assert metrics.count("\n") == 1


def test_the_yaml_of_the_documentation_validates_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    block = page.split("```yaml\n", 1)[1].split("```", 1)[0]
    file = tmp_path / "documented.yaml"
    file.write_text(block, encoding="utf-8")
    config = load_config(file)
    assert config.training.learning_rate == 3e-4
