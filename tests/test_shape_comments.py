"""Every shape comment of the models is correct: the models are run with a different size for every dimension."""

import re
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from tfs_custom import ops
from tfs_custom.operation_samples import SIZES as OPERATION_SIZES
from tfs_lab.testing import check_shape_comments
from tfs_lab.testing.small_model import small_model

SIZES = {
    "batch_size": 5,
    "seq_len": 7,
    "max_seq_len": 17,
    "n_heads": 3,
    "d_head": 4,
    "d_model": 12,
    "d_ffn": 19,
    "vocab_size": 23,
}

PER_CALL = {"n_keys", "n_rows", "in_features", "out_features"}
"""Words whose size differs between calls: keys in the cache, and layers that are used with several sizes."""


def files_of(package: str) -> list[Path]:
    """Return the source files of a package."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return sorted(Path(spec.origin).parent.rglob("*.py"))


def train(name: str, **options: Any) -> None:
    """Take a training step with dropout, and evaluate."""
    subject = small_model(name, {"max_seq_len": SIZES["max_seq_len"], **options})
    model = subject.build(dropout=0.25)
    batch = subject.batch()
    model.loss(*batch)
    model.backward(1.0)
    model.eval()
    model.loss(*batch)
    model.make_cache(SIZES["batch_size"])


def generate(name: str) -> None:
    """Generate with a cache from the middle of the context: fewer new tokens than keys, and fewer keys than slots."""
    subject = small_model(name, {"max_seq_len": SIZES["max_seq_len"]})
    model = subject.build()
    model.eval()
    input_ids, _ = subject.batch()
    positions = torch.arange(6, 6 + SIZES["seq_len"]).expand(input_ids.shape)
    model.forward_with_cache(input_ids, positions, model.make_cache(SIZES["batch_size"]))


def run_torch() -> None:
    train("torch", attention="explicit")
    train("torch", attention="fused", gelu="exact")
    generate("torch")


def run_custom() -> None:
    train("custom")
    train("custom", gelu="exact")


def run_custom_operations() -> None:
    """Run every operation separately, on its inputs for checks."""
    model = small_model("custom").build()
    ids = torch.zeros(OPERATION_SIZES["batch_size"], OPERATION_SIZES["seq_len"], dtype=torch.int64)
    ops.positions_of(ids)
    ops.visible_positions(OPERATION_SIZES["seq_len"], ids.device)
    for operation in model.operations():
        output, cache = operation.forward(*operation.inputs.values())
        operation.backward(torch.ones_like(output), cache)


TORCH = files_of("tfs_torch")
CUSTOM = files_of("tfs_custom")
CACHE = [path for path in CUSTOM if path.name == "key_value_cache.py"]
SAMPLES = [path for path in CUSTOM if path.name == "operation_samples.py"]
OPERATIONS = [path for path in CUSTOM if path.parent.name == "ops"]
MODEL = [path for path in CUSTOM if path not in CACHE + SAMPLES]


@pytest.mark.parametrize(
    ("run", "files", "sizes"),
    [
        pytest.param(run_torch, TORCH, SIZES, id="torch"),
        pytest.param(run_custom, MODEL, SIZES, id="custom"),
        pytest.param(lambda: generate("custom"), CACHE, SIZES, id="custom's cache"),
        pytest.param(run_custom_operations, OPERATIONS + SAMPLES, OPERATION_SIZES, id="custom's operations"),
    ],
)
def test_shape_comments_are_true(run: Callable[[], None], files: list[Path], sizes: Mapping[str, int]) -> None:
    report = check_shape_comments(run, files, sizes, per_call=PER_CALL)
    report.require()
    assert report.checked


@pytest.mark.parametrize(("run", "files"), [(run_torch, TORCH), (run_custom, MODEL)], ids=["torch", "custom"])
def test_wrong_shape_comments_are_found(run: Callable[[], None], files: list[Path]) -> None:
    """With the sizes of two words swapped, every comment that contains one of the words is wrong."""
    exchanged = {**SIZES, "batch_size": SIZES["seq_len"], "seq_len": SIZES["batch_size"]}
    report = check_shape_comments(run, files, exchanged, per_call=PER_CALL)
    assert len(report.complaints) > 0.5 * len(report.checked)


COMMENT = re.compile(r"(?<=# )\[.*\]")
LAYER_NORM = next(path for path in OPERATIONS if path.name == "layer_norm.py")
COMMENTED_LINES = [
    number
    for number, line in enumerate(LAYER_NORM.read_text(encoding="utf-8").splitlines(), start=1)
    if COMMENT.search(line)
]


@pytest.mark.parametrize("number", COMMENTED_LINES)
def test_one_planted_wrong_comment_is_found(number: int, tmp_path: Path) -> None:
    lines = LAYER_NORM.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = COMMENT.sub("[vocab_size]", lines[number - 1])
    copied = tmp_path / "layer_norm_copy.py"
    copied.write_text("\n".join(lines), encoding="utf-8")
    spec = spec_from_file_location("layer_norm_copy", copied)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["layer_norm_copy"] = module
    spec.loader.exec_module(module)

    def run() -> None:
        x, gain, bias = torch.randn(5, 7, 12), torch.randn(12), torch.randn(12)
        output, cache = module.layer_norm_forward(x, gain, bias)
        module.layer_norm_backward(output, cache)

    report = check_shape_comments(run, [copied], SIZES)
    assert len(report.complaints) == 1
    assert report.complaints[0].startswith(f"{copied}:{number}: ")
