"""The shape comments in operations and model are true, and a wrong one is found."""

from pathlib import Path

import pytest
import tfs_custom
import torch
from tfs_custom import ops
from tfs_custom.config import CustomConfig
from tfs_custom.key_value_cache import CachedTransformer
from tfs_custom.operation_samples import SIZES, sample_operations
from tfs_lab.testing.shape_comments import check_shape_comments

PACKAGE = Path(tfs_custom.__file__).parent
MODEL_SIZES = {"batch_size": 2, "seq_len": 5, "n_heads": 3, "d_head": 7, "d_model": 21, "d_ffn": 11, "vocab_size": 13}
MODEL_SIZES |= {"max_seq_len": 17}
PER_CALL = ("in_features", "out_features", "n_rows", "n_inner", "n_columns", "n_keys")


def run_operations() -> None:
    for operation in sample_operations({}):
        output, cache = operation.forward(*operation.inputs.values())
        operation.backward(torch.ones_like(output), cache)
    ids = torch.zeros(SIZES["batch_size"], SIZES["seq_len"], dtype=torch.int64)
    ops.positions_of(ids)
    ops.visible_positions(SIZES["seq_len"], ids.device)


def run_model() -> None:
    config = CustomConfig(d_model=21, n_heads=3, n_blocks=2, d_ffn=11, max_seq_len=17, dropout=0.1)
    model = CachedTransformer(config, vocab_size=13, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(13, (2, 5))
    model.loss(ids, ids)
    model.backward(1.0)
    model.eval()
    model.forward_with_cache(ids, torch.arange(5).expand(2, 5), model.make_cache(2))


def test_shape_comments_of_the_operations_are_true() -> None:
    paths = sorted((PACKAGE / "ops").glob("*.py"))
    report = check_shape_comments(run_operations, paths, SIZES, per_call=PER_CALL)
    report.require()
    assert len(report.checked) > 90


def test_shape_comments_of_the_model_are_true() -> None:
    paths = [PACKAGE / name for name in ("model.py", "layers.py", "key_value_cache.py", "module.py")]
    report = check_shape_comments(run_model, paths, MODEL_SIZES, per_call=PER_CALL)
    report.require()
    assert len(report.checked) > 50


def test_a_wrong_shape_comment_is_found(tmp_path: Path) -> None:
    source = (PACKAGE / "ops" / "linear.py").read_text(encoding="utf-8")
    wrong = source.replace("# [out_features, in_features]\n    grad_x", "# [in_features, out_features]\n    grad_x")
    assert wrong != source
    path = tmp_path / "linear_with_a_wrong_comment.py"
    path.write_text(wrong, encoding="utf-8", newline="\n")
    namespace: dict[str, object] = {"__name__": "linear_with_a_wrong_comment"}
    exec(compile(wrong, str(path), "exec"), namespace)

    def run() -> None:
        forward, backward = namespace["linear_forward"], namespace["linear_backward"]
        assert callable(forward)
        assert callable(backward)
        output, cache = forward(torch.ones(2, 5, 7), torch.ones(3, 7), torch.ones(3))
        backward(torch.ones_like(output), cache)

    report = check_shape_comments(run, [path], {"batch_size": 2, "seq_len": 5, "in_features": 7, "out_features": 3})
    with pytest.raises(AssertionError, match="'grad_weight' has shape"):
        report.require()
