"""Golden numbers and old runs: the results of commit 339a47c are reproduced, and its runs are still readable.

The data in `tests/golden/` was generated once, with that commit, by `tests/golden/make.py`, and must not be generated
again: old runs must remain readable, with the same numbers, after every change of the code. The tests use only
`tfs_core.run`, the command `tfs` and the documented files of a run.

float64 numbers are compared with a tolerance of 1e-9. The tolerance of float32 numbers is larger, because the kernels
of another processor round differently, and training amplifies the differences. The texts come from models that predict
the next token with high probability.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import tfs_core
from tfs_core.cli.main import tfs

GOLDEN = Path(__file__).parent / "golden"
NUMBERS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "numbers.json").read_bytes())["runs"]
ANSWERS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "answers.json").read_bytes())["runs"]
STREAMED = "torch-streamed"
"""Needs a Hub on 127.0.0.1 and a new process: `HF_ENDPOINT` is read when `huggingface_hub` is imported."""

NUMBERS_TOLERANCE = 1e-9
EVALUATION_TOLERANCE = 1e-6
TRAINING_TOLERANCES = {"loss": 1e-5, "grad_norm": 1e-4, "weights": 1e-4}
MUON_TOLERANCES = {"loss": 1e-3, "grad_norm": 1e-2, "weights": 1e-2}
"""Muon computes in bfloat16 only on processors with bfloat16 instructions."""

Tfs = Callable[..., str]


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """Return a copy of the assets folder of the old runs."""
    return Path(shutil.copytree(GOLDEN / "assets", tmp_path / "assets"))


@pytest.fixture
def run_tfs(assets: Path) -> Tfs:
    """Return a function that runs `tfs` on those assets and returns its output."""

    def run(*words: str) -> str:
        result = CliRunner().invoke(tfs, [*words, "--assets", str(assets)])
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


@pytest.fixture
def run_tfs_with_hub(tmp_path: Path) -> Iterator[Tfs]:
    """Return a function that runs `tfs` in a new process, with access to the fake Hub with the golden stories."""
    pytest.importorskip("datasets")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "http", "HTTP"))
    }
    with fake_hub().FakeHub(GOLDEN / "hub", large_from=600) as hub:
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        program = "from tfs_core.cli.main import tfs; tfs()"

        def run(*words: str) -> str:
            command = [sys.executable, "-c", program, *words, "--assets", str(tmp_path / "assets")]
            ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
            assert ended.returncode == 0, ended.stderr
            return ended.stdout

        yield run


def fake_hub() -> ModuleType:
    """Return the module `fake_hub.py` in this folder."""
    if "fake_hub" not in sys.modules:
        spec = spec_from_file_location("fake_hub", Path(__file__).with_name("fake_hub.py"))
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules["fake_hub"] = module  # needed by dataclasses
        spec.loader.exec_module(module)
    return sys.modules["fake_hub"]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a .jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_info(run: Path) -> dict[str, Any]:
    """Return the content of `run.json`."""
    info: dict[str, Any] = json.loads((run / "run.json").read_bytes())
    return info


def assert_lines(
    found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]], tolerances: Mapping[str, float]
) -> None:
    """Assert that lines have the expected values. `tolerances` has the relative tolerance of a key."""
    assert len(found) == len(expected)
    for line, of_old in zip(found, expected, strict=True):
        for key, value in of_old.items():
            wanted = pytest.approx(value, rel=tolerances[key], abs=0) if key in tolerances else value
            assert line[key] == wanted, f"{key} of {line} was {value}"


# Golden numbers


def assert_numbers(name: str, run: Path) -> None:
    """Assert that a run has the golden losses and gradient norms."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("initial weights are drawn by other instructions on this processor, and differ from the first step")
    both = dict.fromkeys(("loss", "grad_norm"), NUMBERS_TOLERANCE)
    assert NUMBERS[name]["steps"]
    assert_lines(read_lines(run / "metrics.jsonl"), NUMBERS[name]["steps"], both)
    assert_lines(read_lines(run / "validation.jsonl"), [{"loss": NUMBERS[name]["validation_loss"]}], both)


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != STREAMED])
def test_training_has_the_golden_losses_and_gradient_norms(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfs_core.data.batches.Batches._find_offset", lambda *_: 0)  # packed windows did not move then
    overrides = [f"data.dataset.path={json.dumps(str(GOLDEN / 'letters.txt'))}"]
    run = tfs_core.run(NUMBERS[name]["config"], overrides=overrides, assets=tmp_path)
    assert_numbers(name, run.folder)


def test_training_on_a_stream_has_the_golden_losses_and_gradient_norms(run_tfs_with_hub: Tfs, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps(NUMBERS[STREAMED]["config"]), encoding="utf-8")
    run_tfs_with_hub("run", "--config", "config.yaml")
    assert_numbers(STREAMED, tmp_path / "assets" / "runs" / STREAMED)


# Old runs


@pytest.mark.parametrize("name", ANSWERS)
def test_old_run_evaluates_as_before(name: str, run_tfs: Tfs) -> None:
    measured = dict.fromkeys(("loss", "perplexity", "bits_per_byte"), EVALUATION_TOLERANCE)
    assert_lines(json.loads(run_tfs("evaluate", name, "--json")), [ANSWERS[name]["evaluate"]], measured)


@pytest.mark.parametrize("name", ANSWERS)
def test_old_run_generates_the_same_text(name: str, run_tfs: Tfs) -> None:
    assert ANSWERS[name]["generate"]
    for generated in ANSWERS[name]["generate"]:
        assert run_tfs("generate", name, *generated["arguments"]) == generated["text"]


def assert_resumed(name: str, run: Path) -> None:
    """Assert that an old run, resumed to its end, equals the result of the old code."""
    before, expected = GOLDEN / "assets" / "runs" / name, ANSWERS[name]["resume"]
    tolerances = MUON_TOLERANCES if name == "baseline-stopped" else TRAINING_TOLERANCES
    info = read_info(run)
    assert info["status"] == "finished"
    for key in ("run_id", "threads", "matmul"):
        assert info[key] == read_info(before)[key]
    old_lines = (before / "metrics.jsonl").read_text(encoding="utf-8")
    assert (run / "metrics.jsonl").read_text(encoding="utf-8").startswith(old_lines)
    assert expected["metrics"]
    assert_lines(read_lines(run / "metrics.jsonl"), expected["metrics"], tolerances)
    assert_lines(read_lines(run / "validation.jsonl"), expected["validation"], tolerances)
    assert_lines(read_lines(run / "samples.jsonl"), expected["samples"], {})
    latest = (run / "checkpoints" / "latest").read_text(encoding="utf-8").strip()
    weights = load_file(run / "checkpoints" / latest / "model.safetensors")
    norms = {key: float(tensor.double().norm()) for key, tensor in weights.items()}
    assert norms.keys() == expected["weights_norms"].keys()
    for key in norms:
        if not key.endswith("key.bias"):  # its gradient consists of rounding errors only, which AdamW amplifies
            assert norms[key] == pytest.approx(expected["weights_norms"][key], rel=tolerances["weights"]), key


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != STREAMED])
def test_old_run_resumes_to_the_same_end(name: str, run_tfs: Tfs, assets: Path) -> None:
    if name == "baseline-dropout" and platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("dropout draws other random numbers on this processor")
    assert ANSWERS[name]["status"] == read_info(assets / "runs" / name)["status"]
    path = f"data.dataset.path={json.dumps(str(GOLDEN / 'letters.txt'))}"
    changes = [word for setting in [path, *ANSWERS[name]["resume"]["overrides"]] for word in ("--set", setting)]
    run_tfs("run", "--resume", name, *changes)
    assert_resumed(name, assets / "runs" / name)
    if name == "torch-compiled":
        warnings = [
            event for event in read_lines(assets / "runs" / name / "events.jsonl") if event["kind"] == "warning"
        ]
        assert read_info(assets / "runs" / name)["compiled"] or "not compiled" in json.dumps(warnings)


def test_old_run_on_a_stream_resumes_to_the_same_end(run_tfs_with_hub: Tfs, assets: Path) -> None:
    changes = [word for setting in ANSWERS[STREAMED]["resume"]["overrides"] for word in ("--set", setting)]
    run_tfs_with_hub("run", "--resume", STREAMED, *changes)
    assert_resumed(STREAMED, assets / "runs" / STREAMED)
