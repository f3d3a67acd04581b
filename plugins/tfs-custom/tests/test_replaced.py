"""`tfs_custom.replaced`: operations of a learner's own in the place of those in `ops/`."""

import subprocess
import sys

import pytest
import tfs_custom
import torch
from tfs_custom import ops
from tfs_custom.config import CustomConfig
from tfs_custom.model import Transformer
from tfs_custom.ops.cross_entropy import cross_entropy_forward
from tfs_custom.ops.gelu import gelu_forward
from tfs_custom.ops.softmax import softmax_backward, softmax_forward
from torch import Tensor

from tfs_core.errors import UsageError

IDS = torch.randint(13, (2, 5), generator=torch.Generator().manual_seed(0))


def build() -> Transformer:
    config = CustomConfig(d_model=12, n_heads=3, n_blocks=2, max_seq_len=7)
    return Transformer(config, vocab_size=13, generator=torch.Generator().manual_seed(0))


def test_replacement_is_called_in_the_model_and_inside_other_operations() -> None:
    seen = []

    def noted(scores: Tensor) -> object:
        seen.append(list(scores.shape))
        return softmax_forward(scores)

    with tfs_custom.replaced(softmax_forward=noted):
        logits = build().forward(IDS)
    assert seen == [[2, 3, 5, 5], [2, 3, 5, 5]], "attention calls it, once in each block"
    assert torch.equal(logits, build().forward(IDS))


def test_originals_are_back_after_the_block_and_after_an_error() -> None:
    originals = {name: getattr(ops, name) for name in ops.__all__}
    before = build().loss(IDS, IDS)

    def failing(x: Tensor, form: str) -> object:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tfs_custom.replaced(gelu_forward=failing):
        build().forward(IDS)
    assert {name: getattr(ops, name) for name in ops.__all__} == originals
    assert torch.equal(build().loss(IDS, IDS), before)


def test_blocks_may_be_nested() -> None:
    def doubled(logits: Tensor, target_ids: Tensor) -> object:
        loss, cache = cross_entropy_forward(logits, target_ids)
        return 2.0 * loss, cache

    def linear(x: Tensor, form: str) -> object:
        return x, gelu_forward(x, "tanh")[1]

    plain = build().loss(IDS, IDS)
    with tfs_custom.replaced(cross_entropy_forward=doubled):
        with tfs_custom.replaced(gelu_forward=linear, cross_entropy_forward=cross_entropy_forward):
            assert not torch.equal(build().loss(IDS, IDS), plain)
        assert torch.equal(build().loss(IDS, IDS), 2.0 * plain)
    assert torch.equal(build().loss(IDS, IDS), plain)


def test_name_that_is_no_operation_suggests_the_nearest() -> None:
    expected = r"no operation 'gelu_backwards'\. Did you mean 'gelu_backward'\?"
    with pytest.raises(UsageError, match=expected), tfs_custom.replaced(gelu_backwards=gelu_forward):
        pass


def test_function_with_other_arguments_is_refused_before_it_is_used() -> None:
    def wrong(grad_weights: Tensor) -> Tensor:
        return grad_weights

    with (
        pytest.raises(UsageError, match=r"wrong cannot take the place of softmax_backward, .* \(grad_weights, cache\)"),
        tfs_custom.replaced(softmax_backward=wrong),
    ):
        pass
    assert ops.softmax_backward is softmax_backward


def test_importing_the_package_imports_no_torch() -> None:

    code = "import sys, tfs_custom, tfs_custom.plugin as p; p.tfs_models(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
