"""The kind `token-step`: its lookup by `--compile`, its calls, and its fallback after a failure."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from tfs_generate.generation import Sampling, generate
from tfs_generate.token_step import TokenStep
from torch import Tensor

import tfs_core
from tfs_core.cli.main import tfs
from tfs_core.registry import get_registry

GREEDY = Sampling(temperature=0)

PLUGIN = """
from tfs_core import Component, hookimpl

TFS_PLUGIN_API = 1

@hookimpl
def tfs_components():
    return [Component(kind="token-step", name="plain", summary="The model's own", factory="{package}.plugin:build")]

class Step:
    in_force = True

    def __init__(self, model):
        self.model = model

    def __call__(self, input_ids, positions, cache):
        import torch

        with torch.no_grad():
            return self.model.forward_with_cache(input_ids, positions, cache)

def build(config, *, model, name, report):
    report(f"a step for '{{name}}'")
    return Step(model)
"""


@pytest.fixture
def model() -> Any:
    """A small `torch` model with large weights, so that its predictions differ between positions."""
    entry = get_registry().find("model", "torch")
    config_class = entry.load_config_class()
    assert config_class is not None
    config = config_class(d_model=16, n_heads=2, n_blocks=2, max_seq_len=12)
    model = entry.build(config, vocab_size=64, generator=torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise))
    return model


class CountingStep:
    """The model's own step with a count of its calls; fails at a chosen call."""

    def __init__(self, model: Any, *, fails_at: int | None = None) -> None:
        self.model, self.fails_at = model, fails_at
        self.in_force = True
        self.threads: list[int] = []

    def __call__(self, input_ids: Tensor, positions: Tensor, cache: Any) -> Tensor:
        assert input_ids.shape == positions.shape == (1, 1)
        self.threads.append(torch.get_num_threads())
        if len(self.threads) == self.fails_at:
            self.in_force = False
        with torch.no_grad():
            logits: Tensor = self.model.forward_with_cache(input_ids, positions, cache)
        return logits


def ids_of(model: Any, token_step: TokenStep | None) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return list(
        generate(model, [1, 2, 3], max_new_tokens=14, sampling=GREEDY, generator=generator, token_step=token_step)
    )


def test_token_step_is_called_wherever_a_single_token_is_new(model: Any) -> None:
    step = CountingStep(model)
    assert isinstance(step, TokenStep)
    assert ids_of(model, step) == ids_of(model, None)
    # 14 tokens: one from the prompt, one more where the text exceeded the context and its last half was computed again.
    assert len(step.threads) == 12


def test_token_step_that_fails_while_writing_is_gone_on_with_as_without(model: Any) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        step = CountingStep(model, fails_at=3)
        expected = ids_of(model, None)
        assert model.token_embedding.weight.stride() == (16, 1)
        assert ids_of(model, step) == expected
    finally:
        torch.set_num_threads(threads)
    assert step.threads == [2, 2, 2] + 9 * [1], "a step in force has two threads"
    assert model.token_embedding.weight.stride() == (1, 64), "it lies in memory as it does without --compile"


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an assets folder with the run `tiny`."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "documents.txt").write_text("the cat sat on the mat. " * 30, encoding="utf-8")
    tfs_core.run(
        {
            "experiment_name": "tiny",
            "data": {
                "dataset": {"name": "text", "path": str(folder / "documents.txt")},
                "tokenizer": "byte",
                "max_length": 16,
                "validation_fraction": 0.4,
            },
            "model": {"name": "torch", "d_model": 8, "n_heads": 2, "n_blocks": 1, "max_seq_len": 16},
            "training": {"batch_size": 4, "max_steps": 2, "learning_rate": 1e-2, "warmup_steps": 0},
            "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
            "loggers": ["jsonl"],
        },
        assets=folder / "assets",
    )
    return folder / "assets"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return `install(distribution)`, which installs a token step; those of other plugins are disabled."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TFS_DISABLE_PLUGINS", ",".join({e.distribution for e in get_registry().entries("token-step")}))
    get_registry.cache_clear()

    def install(distribution: str) -> None:
        package = distribution.replace("-", "_")
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "plugin.py").write_text(PLUGIN.format(package=package), encoding="utf-8")
        information = tmp_path / f"{package}-1.2.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n", "utf-8")
        (information / "entry_points.txt").write_text(f"[tfs.plugins]\nmain = {package}.plugin\n", "utf-8")

    yield install
    get_registry.cache_clear()


def called(assets: Path, *arguments: str, command: str = "generate", **options: Any) -> Result:
    return CliRunner().invoke(tfs, [command, "tiny", *arguments, "--assets", str(assets)], **options)


@pytest.mark.usefixtures("install")
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_compile_without_a_token_step_says_what_to_install(assets: Path, command: str) -> None:
    result = called(assets, "--compile", command=command, input="a\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--compile needs a plugin with a token-step, such as tfs-speed: pip install tfs-speed." in result.stderr


def test_compile_uses_the_token_step_that_is_installed(assets: Path, install: Callable[[str], None]) -> None:
    install("their-step")
    plain = called(assets, "--prompt", "the", "--seed", "1")
    compiled = called(assets, "--prompt", "the", "--seed", "1", "--compile")
    assert compiled.exit_code == 0, compiled.output
    assert compiled.stdout == plain.stdout
    assert compiled.stderr == "a step for 'torch'\n"
    assert called(assets, "--compile", command="chat", input="the\n").stderr == "a step for 'torch'\n"


def test_compile_refuses_to_choose_between_two_token_steps(assets: Path, install: Callable[[str], None]) -> None:
    install("their-step")
    install("your-step")
    result = called(assets, "--compile")
    assert result.exit_code == 2
    assert "more than one token-step: their-step/plain, your-step/plain." in result.stderr


@pytest.mark.skipif(not get_registry().entries("token-step"), reason="no plugin with a token-step is installed")
def test_compile_writes_the_text_that_is_written_without(assets: Path) -> None:
    arguments = ("--prompt", "the", "--temperature", "0", "--max-length", "30")
    plain, compiled = called(assets, *arguments), called(assets, *arguments, "--compile")
    assert compiled.exit_code == 0, compiled.output
    assert compiled.stdout == plain.stdout
