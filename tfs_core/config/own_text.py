"""The configuration of `tfs run TEXT`: `own_text.yaml`, with a vocabulary and a length that fit the text."""

import os
import re
from pathlib import Path
from typing import Any

from tfs_core.config.document import read_yaml
from tfs_core.registry import get_registry

VOCABULARIES = {300_000: 512, 3_000_000: 1024, 30_000_000: 2048}
"""Bytes of text -> the size of the vocabulary up to these bytes; with more text, `LARGEST_VOCABULARY`."""

LARGEST_VOCABULARY = 4096
BYTES_PER_TOKEN = 2.5
"""An estimate: with these vocabularies a token stands for two to three bytes."""

FEWEST_STEPS, MOST_STEPS, PASSES = 300, 2000, 20
"""Bounds of the training steps; between them, the steps of `PASSES` passes over the text."""


def config_for_text(path: Path) -> dict[str, Any]:
    """Return the configuration of a training on the text in a file or folder."""
    config: dict[str, Any] = read_yaml(Path(__file__).with_suffix(".yaml")).values
    n_bytes = sum(map(os.path.getsize, _files(path)))
    tokens_per_step = config["training"]["batch_size"] * config["data"]["max_length"]
    steps = round(PASSES * n_bytes / BYTES_PER_TOKEN / tokens_per_step)
    models = [entry.component.name for entry in get_registry().entries("model")]
    config["experiment_name"] = re.sub(r"\W+", "-", path.resolve().name.split(".")[0]).strip("-") or "text"
    config["data"]["dataset"] = str(path.absolute())
    fitting = (size for limit, size in VOCABULARIES.items() if n_bytes <= limit)
    config["data"]["tokenizer"]["vocab_size"] = next(fitting, LARGEST_VOCABULARY)
    config["model"]["name"] = next((name for name in ("baseline", "torch", *models) if name in models), None)
    config["model"]["dropout"] = 0.1 if steps < MOST_STEPS else 0.0  # with little text, the model reads it many times
    config["training"]["max_steps"] = min(max(steps, FEWEST_STEPS), MOST_STEPS)
    return config


def _files(path: Path) -> list[Path]:
    """Return the file, or all files in the folder that are not hidden."""
    visible = (file for file in path.rglob("*") if "/." not in f"/{file.relative_to(path).as_posix()}")
    return [file for file in visible if file.is_file()] if path.is_dir() else [path]
