"""A run with data set and vocabulary from the Hub, and a resume without a network."""

import json
from pathlib import Path
from typing import Any

import pytest

# A complete configuration, as in the README and docs.
CONFIGURATION = """\
experiment_name: tinystories_torch
data:
  dataset: tinystories
  tokenizer: gpt2
  max_length: 256
  subset_size: 100000
model:
  name: torch
  d_model: 256
  n_heads: 4
  n_blocks: 6
  d_ffn: 1024
  max_seq_len: 256
  dtype: bfloat16
training:
  batch_size: 32
  num_epochs: 10
  learning_rate: 3e-4
  min_learning_rate: 3e-5
  lr_decay: cosine
  warmup_ratio: 0.1
  weight_decay: 0.01
  max_grad_norm: 1.0
  eval_every: 500
"""
SMALL = {
    "data.tokenizer": "byte",
    "data.max_length": 32,
    "model.d_model": 8,
    "model.n_heads": 2,
    "model.n_blocks": 1,
    "model.d_ffn": 8,
    "training.batch_size": 2,
    "training.max_steps": 2,
}
"""Changes that shorten the run to about a second."""


def vocabulary_of_gpt2s_size() -> str:
    """Return a tokenizer.json with 50,257 ids of which only those of "Hello, world!" are GPT-2's."""
    tokenizers = pytest.importorskip("tokenizers")
    words = ["Hello", "Ġworld"]
    ids = {"!": 0, ",": 11, "Hello": 15496, "Ġworld": 995}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
            ids.setdefault(word[:end], 20_000 + len(ids))
    for letter in tokenizers.pre_tokenizers.ByteLevel.alphabet():
        ids.setdefault(letter, 30_000 + len(ids))
    taken = set(ids.values())
    ids |= {f"zz{token_id}": token_id for token_id in range(50_256) if token_id not in taken}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken("<|endoftext|>", special=True)])
    return str(tokenizer.to_str())


@pytest.fixture
def stories(hub: Any) -> Any:
    """Return a Hub with a few stories."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = hub.folder / "datasets" / "roneneldan" / "TinyStories" / "data"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        texts = [f"Once upon a time {split} {i}." for i in range(20)]
        parquet.write_table(pyarrow.table({"text": texts}), folder / f"{split}-00000-of-00001.parquet")
    return hub


def settings(**values: object) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def test_configuration_of_the_readme_is_tried_unchanged(stories: Any, tfs: Any, tmp_path: Path) -> None:
    vocabulary = stories.folder / "models" / "openai-community" / "gpt2" / "tokenizer.json"
    vocabulary.parent.mkdir(parents=True)
    vocabulary.write_text(vocabulary_of_gpt2s_size(), encoding="utf-8", newline="\n")
    (tmp_path / "tinystories.yaml").write_text(CONFIGURATION, encoding="utf-8")
    said = tfs("run", "--config", "tinystories.yaml", "--dry-run", endpoint=stories.url)
    assert said.exit_code == 0, said.errors
    assert "a vocabulary of 50,257" in said.output
    assert "2 of 2 files to download" in said.errors


def test_configuration_of_the_readme_runs_unchanged_but_for_its_length(stories: Any, tfs: Any, tmp_path: Path) -> None:
    vocabulary = stories.folder / "models" / "openai-community" / "gpt2" / "tokenizer.json"
    vocabulary.parent.mkdir(parents=True)
    vocabulary.write_text(vocabulary_of_gpt2s_size(), encoding="utf-8", newline="\n")
    (tmp_path / "tinystories.yaml").write_text(CONFIGURATION, encoding="utf-8")
    said = tfs("run", "--config", "tinystories.yaml", "--set", "training.max_steps=1", endpoint=stories.url)
    assert said.exit_code == 0, said.errors
    run = json.loads((tmp_path / "assets" / "runs" / "tinystories_torch" / "run.json").read_text(encoding="utf-8"))
    assert run["status"] == "finished"
    assert run["summary"]["last_step"] == 1


def test_run_resumes_when_the_hub_is_gone(stories: Any, tfs: Any, tmp_path: Path, nowhere: str) -> None:
    (tmp_path / "tinystories.yaml").write_text(CONFIGURATION, encoding="utf-8")
    said = tfs("run", "--config", "tinystories.yaml", *settings(**SMALL), endpoint=stories.url)
    assert said.exit_code == 0, said.errors
    resumed = tfs("run", "--resume", "tinystories_torch", "--set", "training.max_steps=4", endpoint=nowhere)
    assert resumed.exit_code == 0, resumed.errors
    looked = tfs("datasets", "look", "tinystories_torch", endpoint=nowhere)
    assert "batching    packed, max_length 32" in looked.output, looked.errors
    metrics = tmp_path / "assets" / "runs" / "tinystories_torch" / "metrics.jsonl"
    assert [json.loads(line)["step"] for line in metrics.read_text(encoding="utf-8").splitlines()] == [1, 2, 3, 4]


def test_run_offline_says_what_is_missing_before_anything_else(tfs: Any, tmp_path: Path, nowhere: str) -> None:
    pytest.importorskip("huggingface_hub")
    (tmp_path / "tinystories.yaml").write_text(CONFIGURATION, encoding="utf-8")
    said = tfs("run", "--config", "tinystories.yaml", endpoint=nowhere)
    assert said.exit_code == 1
    assert "roneneldan/TinyStories: it is not in" in said.errors.splitlines()[-1]
    assert "Three ways out" in said.errors
