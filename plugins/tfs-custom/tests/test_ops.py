"""Every operation by itself: its gradients, what it leaves alone, and that its forward is the one it says."""

import pytest
import torch
import torch.nn.functional as F
from tfs_custom import ops
from tfs_custom.operation_samples import SIZES, sample_operations
from tfs_custom.ops.gelu import GeluForm
from tfs_custom.ops.layer_norm import EPSILON
from tfs_custom.ops.matrix_product import matrix_product
from tfs_lab.testing.operations import compare_operation, modified_tensors
from torch import Tensor

from tfs_core.contracts import IGNORED_TARGET, Operation

OPERATIONS = sample_operations({})
IDS = [f"{operation.name}-{operation.inputs.get('form', '')}".strip("-") for operation in OPERATIONS]


CAUSAL = ops.visible_positions(5, torch.device("cpu"))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_backward_matches_autograd_and_central_differences(operation: Operation) -> None:
    comparisons = compare_operation(operation)
    assert {comparison.reference for comparison in comparisons} == {"autograd", "differences"}
    for comparison in comparisons:
        assert comparison.passed, comparison


@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_operation_changes_neither_inputs_nor_cache_nor_gradient(operation: Operation) -> None:
    assert modified_tensors(operation) == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_backward_gives_the_same_twice_from_one_cache(operation: Operation) -> None:
    torch.manual_seed(0)
    output, cache = operation.forward(*operation.inputs.values())
    grad_output = torch.ones_like(output)
    first, second = operation.backward(grad_output, cache), operation.backward(grad_output, cache)
    first, second = ((grads,) if isinstance(grads, Tensor) else tuple(grads) for grads in (first, second))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_every_operation_has_a_sample() -> None:
    sampled = {operation.name for operation in OPERATIONS}
    assert sampled == {name.removesuffix("_forward") for name in ops.__all__ if name.endswith("_forward")}


# Each forward is what its name says: PyTorch's own function of the same name, where it has one


def test_layer_norm_forward_is_layer_norm() -> None:
    x, gain, bias = draw(2, 5, 21), draw(21, seed=1), draw(21, seed=2)
    output, _ = ops.layer_norm_forward(x, gain, bias)
    torch.testing.assert_close(output, F.layer_norm(x, (21,), gain, bias, EPSILON), rtol=1e-13, atol=1e-14)


def test_layer_norm_of_a_constant_row_is_its_bias() -> None:
    bias = draw(21)
    output, cache = ops.layer_norm_forward(torch.full((2, 5, 21), 3.0, dtype=torch.float64), draw(21, seed=1), bias)
    assert torch.equal(output, bias.expand(2, 5, 21))
    assert all(grad.isfinite().all() for grad in ops.layer_norm_backward(draw(2, 5, 21), cache))


@pytest.mark.parametrize("form", ["tanh", "exact"])
def test_gelu_forward_is_gelu_from_very_negative_to_very_large(form: GeluForm) -> None:
    x = torch.linspace(-40.0, 40.0, 2 * 5 * 11, dtype=torch.float64).view(2, 5, 11)
    output, cache = ops.gelu_forward(x, form)
    expected = F.gelu(x, approximate="tanh" if form == "tanh" else "none")
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-14)
    assert ops.gelu_backward(torch.ones_like(x), cache).isfinite().all()


def test_the_two_gelus_differ_by_what_the_docstring_says() -> None:
    x = torch.linspace(-6.0, 6.0, 10_001, dtype=torch.float64).view(1, 1, -1)
    apart = (ops.gelu_forward(x, "tanh")[0] - ops.gelu_forward(x, "exact")[0]).abs().max()
    assert 4e-4 < apart < 5e-4


def test_attention_forward_is_causal_attention() -> None:
    queries, keys, values = (draw(2, 5, 21, seed=seed) for seed in range(3))
    output, _ = ops.attention_forward(queries, keys, values, CAUSAL, 3, 0.0)
    heads = [x.unflatten(-1, (3, 7)).transpose(1, 2) for x in (queries, keys, values)]
    expected = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
    torch.testing.assert_close(output, expected, rtol=1e-13, atol=1e-14)


def test_attention_of_the_first_position_is_its_own_value() -> None:
    queries, keys, values = (draw(2, 5, 21, seed=seed) for seed in range(3))
    output, _ = ops.attention_forward(queries, keys, values, CAUSAL, 3, 0.0)
    assert torch.equal(output[:, 0], values[:, 0])


def test_attention_is_not_moved_by_huge_scores() -> None:
    queries, keys, values = (1e4 * draw(2, 5, 21, seed=seed) for seed in range(3))
    output, cache = ops.attention_forward(queries, keys, values, CAUSAL, 3, 0.0)
    assert output.isfinite().all()
    assert all(grad.isfinite().all() for grad in ops.attention_backward(torch.ones_like(output), cache))


def test_cross_entropy_forward_is_the_sum_over_valid_targets() -> None:
    logits, targets = draw(2, 5, 13), torch.arange(10).view(2, 5)
    targets[1, 3:] = IGNORED_TARGET
    loss, _ = ops.cross_entropy_forward(logits, targets)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_TARGET, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0.0)


def test_cross_entropy_of_padding_alone_is_zero_and_teaches_nothing() -> None:
    loss, cache = ops.cross_entropy_forward(draw(2, 5, 13), torch.full((2, 5), IGNORED_TARGET))
    assert loss.item() == 0.0
    assert not ops.cross_entropy_backward(1.0, cache).any()


def test_cross_entropy_gradient_of_padding_is_zero_though_its_logits_overflow() -> None:
    logits = draw(2, 5, 13)
    logits[1] = 1e300
    targets = torch.zeros(2, 5, dtype=torch.int64)
    targets[1] = IGNORED_TARGET
    loss, cache = ops.cross_entropy_forward(logits, targets)
    assert loss.isfinite()
    assert not ops.cross_entropy_backward(1.0, cache)[1].any()


def test_cross_entropy_gradients_of_a_position_add_up_to_zero() -> None:
    _, cache = ops.cross_entropy_forward(draw(2, 5, 13), torch.zeros(2, 5, dtype=torch.int64))
    sums = ops.cross_entropy_backward(0.5, cache).sum(dim=-1)
    assert sums.abs().max() < 1e-15


# Large numbers, in float32


@pytest.mark.parametrize("size", [200.0, 1e4])
def test_cross_entropy_and_its_gradient_are_right_for_large_logits(size: float) -> None:
    """Without the max trick, exp(200) is infinite in float32, and so is the loss."""
    logits, targets = (size * draw(2, 5, 13)).float(), torch.arange(10).view(2, 5)
    loss, cache = ops.cross_entropy_forward(logits, targets)
    exact = logits.double().requires_grad_()
    expected = F.cross_entropy(exact.flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-6, atol=0.0)
    (gradient,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(ops.cross_entropy_backward(1.0, cache).double(), gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [200.0, 1e4])
def test_softmax_is_right_for_large_scores(size: float) -> None:
    scores = (size * draw(2, 5, 13)).float()
    weights, _ = ops.softmax_forward(scores)
    torch.testing.assert_close(weights.double(), scores.double().softmax(dim=-1), rtol=1e-5, atol=1e-7)


def test_softmax_gives_a_score_of_minus_infinity_exactly_no_weight() -> None:
    scores = draw(2, 5, 13)
    scores[..., 3] = -torch.inf
    weights, _ = ops.softmax_forward(scores)
    assert not weights[..., 3].any()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 5, dtype=torch.float64), rtol=1e-14, atol=0.0)


def test_layer_norm_is_right_far_from_zero() -> None:
    """A variance computed as mean(x^2) - mean(x)^2 would have no correct digit here."""
    x, gain, bias = (draw(2, 5, 21) + 3000.0).float(), draw(21, seed=1).float(), draw(21, seed=2).float()
    output, cache = ops.layer_norm_forward(x, gain, bias)
    exact, exact_cache = ops.layer_norm_forward(x.double(), gain.double(), bias.double())
    torch.testing.assert_close(output.double(), exact, rtol=0.0, atol=2e-3)
    grad_output = draw(2, 5, 21, seed=3)
    for found, expected in zip(
        ops.layer_norm_backward(grad_output.float(), cache),
        ops.layer_norm_backward(grad_output, exact_cache),
        strict=True,
    ):
        torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=1e-2)


# Dropout


def test_dropout_forward_keeps_the_share_it_should_and_the_mean() -> None:
    torch.manual_seed(0)
    output, _ = ops.dropout_forward(torch.ones(400, 500, dtype=torch.float64), 0.3)
    assert set(output.unique().tolist()) == {0.0, 1.0 / 0.7}
    assert abs((output == 0).double().mean().item() - 0.3) < 0.005
    assert abs(output.mean().item() - 1.0) < 0.01


def test_dropout_of_rate_zero_draws_nothing_and_gives_x_back() -> None:
    x, state = draw(2, 5, 21), torch.get_rng_state()
    output, cache = ops.dropout_forward(x, 0.0)
    assert output is x
    assert ops.dropout_backward(x, cache) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_backward_uses_the_mask_that_forward_drew() -> None:
    torch.manual_seed(0)
    x = torch.ones(2, 5, 21, dtype=torch.float64)
    output, cache = ops.dropout_forward(x, 0.5)
    assert torch.equal(ops.dropout_backward(x, cache), output)


# Embedding, accumulation, precision


def test_embedding_backward_adds_up_what_arrives_at_every_copy() -> None:
    ids = torch.tensor([[0, 2, 0], [0, 2, 3]])
    _, cache = ops.embedding_forward(ids, draw(5, 7))
    counts = ops.embedding_backward(torch.ones(2, 3, 7, dtype=torch.float64), cache)[:, 0]
    assert counts.tolist() == [3.0, 0.0, 2.0, 1.0, 0.0]


def test_positions_count_from_zero_in_every_row() -> None:
    assert ops.positions_of(torch.zeros(2, 3, dtype=torch.int64)).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_accumulate_adds_to_what_is_there() -> None:
    parameter, first, second = draw(3), draw(3, seed=1), draw(3, seed=2)
    ops.accumulate(parameter, first)
    assert torch.equal(parameter.grad, first)
    kept = parameter.grad.clone()
    ops.accumulate(parameter, second)
    assert torch.equal(parameter.grad, kept + second)


def test_residual_forward_makes_a_new_tensor() -> None:
    x, branch = draw(2, 5, 21), draw(2, 5, 21, seed=1)
    before = x.clone()
    output, _ = ops.residual_forward(x, branch)
    assert torch.equal(x, before)
    assert output.data_ptr() not in (x.data_ptr(), branch.data_ptr())


def test_matrix_product_under_autocast_rounds_to_bfloat16_and_comes_back_wide() -> None:
    a, b = draw(5, 7).float(), draw(7, 11).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product = matrix_product(a, b)
    assert product.dtype == torch.float32
    assert torch.equal(product, (a.bfloat16() @ b.bfloat16()).float())


def test_samples_have_no_two_dimensions_of_one_size() -> None:
    sizes = [size for word, size in SIZES.items() if word != "d_model"]
    assert len(set(sizes)) == len(sizes)
    assert SIZES["d_model"] == SIZES["n_heads"] * SIZES["d_head"]


def test_accumulate_leaves_the_gradients_that_it_is_given_alone() -> None:
    parameter, first, second = draw(3), draw(3, seed=1), draw(3, seed=2)
    ops.accumulate(parameter, first)
    ops.accumulate(parameter, second)
    assert torch.equal(first, draw(3, seed=1))
    assert torch.equal(second, draw(3, seed=2))


def test_attention_hides_later_positions_however_low_the_visible_scores_are() -> None:
    queries, keys, values = 1e6 * draw(2, 5, 21), 1e6 * draw(2, 5, 21, seed=1), draw(2, 5, 21, seed=2)
    output, _ = ops.attention_forward(queries, keys, values, CAUSAL, 3, 0.0)
    for n_keys in range(1, 5):
        earlier = [x[:, :n_keys] for x in (queries, keys, values)]
        expected, _ = ops.attention_forward(*earlier, CAUSAL[:n_keys, :n_keys], 3, 0.0)
        torch.testing.assert_close(output[:, :n_keys], expected, rtol=1e-13, atol=1e-14)
