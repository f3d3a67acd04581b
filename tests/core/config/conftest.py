"""A plugin with configurable components, and fixtures that load a configuration or return its errors."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tfs_core.config import RunConfig, load_config
from tfs_core.errors import ConfigError
from tfs_core.registry import get_registry

OPTIONS = '''
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tfs_core.contracts import ModelConfig


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """A transformer."""

    d_model: int = 256
    """The width."""

    n_heads: int = 4
    """Heads."""

    n_blocks: int = 6
    """Blocks."""

    d_ffn: int | None = None
    """The hidden width;
    null for four times the width."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads must divide d_model; {self.n_heads} does not divide {self.d_model}")


@dataclass(frozen=True, kw_only=True)
class Rotation:
    base: float = 1e4
    """The slowest wave."""


@dataclass(frozen=True, kw_only=True)
class OddConfig(ModelConfig):
    """Types of every kind."""

    rotation: Rotation = field(default_factory=lambda: Rotation(base=500.0))
    """Settings in settings."""

    extra: Rotation | None = None
    layers: tuple[Rotation, ...] = ()
    scales: dict[str, float] = field(default_factory=dict)
    levels: Literal[1, 2] = 1
    fused: bool = False


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    path: Path | tuple[Path, ...]
    """Where the text is."""

    folder: Path | None = None
    text_key: str = "text"


@dataclass(frozen=True, kw_only=True)
class BpeConfig:
    vocab_size: int = 4096
    """How many ids."""


@dataclass(frozen=True, kw_only=True)
class BrittleConfig(ModelConfig):
    parts: int = 1

    def __post_init__(self) -> None:
        1 // self.parts
'''

PLUGIN = """
def of(name, config=None, loader=None, path_option=None, path_suffixes=()):
    config = config and f"stand_ins.options:{config}"
    return Component(name=name, summary=f"the {name}", factory="stand_ins.absent:build", config=config, loader=loader,
                     path_option=path_option, path_suffixes=path_suffixes)

@hookimpl
def tfs_models():
    return [of("torch", "TransformerConfig"), of("odd", "OddConfig"), of("brittle", "BrittleConfig")]

@hookimpl
def tfs_datasets():
    return [of("tinystories"), 
            of("jsonl", "FilesConfig", None, "path", (".json", ".jsonl")), of("text", "FilesConfig", None, "path")]

@hookimpl
def tfs_tokenizers():
    return [of("gpt2", None, "a:b"), of("bpe", "BpeConfig", "a:b"), of("broken", "NoSuchConfig", "a:b"),
            of("file", "FilesConfig", "a:b", "path")]
"""

GOOD = """\
experiment_name: tinystories_torch
data:
  dataset: tinystories          # or {name: jsonl, path: corpus.jsonl}
  tokenizer: gpt2               # or a path to a trained tokenizer, or {name: bpe, …}
  max_length: 256
  subset_size: 100000           # optional
model:
  name: torch                   # optional when --model says it
  d_model: 256
  n_heads: 4
  n_blocks: 6
  d_ffn: 1024
  max_seq_len: 256
  dtype: bfloat16
training:
  batch_size: 32
  num_epochs: 10                # or max_steps, max_tokens
  learning_rate: 3e-4
  min_learning_rate: 3e-5
  lr_decay: cosine
  warmup_ratio: 0.1
  weight_decay: 0.01
  max_grad_norm: 1.0
  eval_every: 500
"""

SMALL = "experiment_name: a\ndata: {dataset: tinystories, tokenizer: gpt2}\nmodel: torch\ntraining: {max_steps: 9}\n"
"""Four valid lines: the lines that a test adds begin at line 5."""

Load = Callable[..., RunConfig]
Errors = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def stand_ins(install_plugin: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Install only this plugin, and change to an empty folder."""
    install_plugin("stand-ins", PLUGIN, options=OPTIONS)
    monkeypatch.setenv("TFS_PLUGINS", "stand-ins")
    get_registry.cache_clear()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def good() -> str:
    """Return a valid configuration."""
    return GOOD


@pytest.fixture
def small() -> str:
    return SMALL


@pytest.fixture
def load() -> Load:
    """Return `load(text, *overrides, model=None)`, the configuration of a file `run.yaml` with that text."""

    def load_text(text: str, *overrides: str, model: str | None = None) -> RunConfig:
        Path("run.yaml").write_text(text, encoding="utf-8")
        return load_config(Path("run.yaml"), overrides=overrides, model=model)

    return load_text


@pytest.fixture
def errors(load: Load) -> Errors:
    """Return `errors(text, *overrides, model=None)`, the lines of the ConfigError that loading raises."""

    def errors_of(text: str, *overrides: str, model: str | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides, model=model)
        assert caught.value.exit_code == 2
        return str(caught.value).splitlines()

    return errors_of
