"""`tfs_custom.replaced`: operations of a learner's own in the place of those in `ops/`."""

import functools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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


def test_modules_that_are_imported_inside_the_block_get_the_originals_back() -> None:
    code = """
import tfs_custom
from tfs_custom.ops.gelu import gelu_backward

def mine(grad_output, cache):
    return gelu_backward(grad_output, cache)

with tfs_custom.replaced(gelu_backward=mine):
    from tfs_custom.key_value_cache import CachedTransformer
import tfs_custom.faults
import tfs_custom.layers
assert tfs_custom.layers.gelu_backward is gelu_backward
assert tfs_custom.faults.gelu_backward is gelu_backward
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_function_without_a_signature_may_take_the_place() -> None:
    plain = build().loss(IDS, IDS)
    with tfs_custom.replaced(matrix_product=torch.matmul):
        assert torch.equal(build().loss(IDS, IDS), plain)


@pytest.mark.parametrize("wrong", [None, "tanh", functools.partial(softmax_forward, scores=1)])
def test_anything_that_cannot_be_called_is_refused_by_name(wrong: Any) -> None:
    with (
        pytest.raises(UsageError, match="cannot take the place of softmax_forward"),
        tfs_custom.replaced(softmax_forward=wrong),
    ):
        pass


def test_two_threads_with_planted_faults_leave_the_originals() -> None:
    def compute(fault: str) -> None:
        model = build()
        model.plant_fault(fault)
        for _ in range(20):
            model.loss(IDS, IDS)
            model.backward(1.0)

    originals = {name: getattr(ops, name) for name in ops.__all__}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compute, ["score-scale-forgotten", "softmax-row-mean-forgotten"]))
    assert {name: getattr(ops, name) for name in ops.__all__} == originals


def test_a_loss_that_is_refused_drops_the_caches_of_the_one_before() -> None:
    model = build()
    model.loss(IDS, IDS)
    for ids, targets in ((IDS + 100, IDS), (IDS, IDS + 100)):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            model.loss(ids, targets)
        with pytest.raises(RuntimeError, match="backward needs a loss"):
            model.backward(1.0)


def test_function_that_needs_one_more_argument_is_refused() -> None:
    def wrong(grad_weights: Tensor, cache: object, scale: float) -> Tensor:
        return grad_weights

    with (
        pytest.raises(UsageError, match="wrong cannot take the place of softmax_backward"),
        tfs_custom.replaced(softmax_backward=wrong),
    ):
        pass
