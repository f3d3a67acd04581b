"""The whole model, beyond what every model is asked (test_conformance.py): no autograd, bfloat16, bad input."""

import math
from collections.abc import Iterator

import pytest
import tfs_custom
import torch
from tfs_custom.config import CustomConfig
from tfs_custom.key_value_cache import CachedTransformer
from tfs_custom.layers import Layer
from tfs_custom.ops.residual import residual_backward, residual_forward
from torch import Tensor

from tfs_core.contracts import IGNORED_TARGET, LanguageModel
from tfs_core.errors import CheckpointError
from tfs_core.models import compute_context
from tfs_core.registry import get_registry

OPTIONS = {"max_seq_len": 17, "d_model": 12, "n_heads": 3, "n_blocks": 2, "d_ffn": 19}
VOCAB_SIZE = 23


def build(name: str = "custom", seed: int = 0, **options: object) -> LanguageModel:
    entry = get_registry().find("model", name)
    config_class = entry.load_config_class()
    assert config_class is not None
    config = config_class(**{**OPTIONS, "dtype": "float64", **options})
    generator = torch.Generator().manual_seed(seed)
    model = entry.load_factory()(config, vocab_size=VOCAB_SIZE, generator=generator)
    model.to(device="cpu", dtype=torch.float64 if config.dtype == "float64" else torch.float32)
    return model


def batch(batch_size: int = 5, seq_len: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(VOCAB_SIZE, (batch_size, seq_len), generator=generator)
    target_ids = torch.randint(VOCAB_SIZE, (batch_size, seq_len), generator=generator)
    target_ids[1, -2:] = IGNORED_TARGET
    return input_ids, target_ids


# No autograd


@pytest.fixture
def no_graph() -> Iterator[list[Tensor]]:
    """Every tensor that autograd would save for a backward of its own."""
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.enable_grad():
        yield saved


def test_no_autograd_graph_is_ever_built(no_graph: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("autograd was asked for a gradient")

    for name in ("backward", "grad"):
        monkeypatch.setattr(torch.autograd, name, forbidden)
    model = build(dropout=0.1)
    for _, parameter in model.named_parameters():
        assert not parameter.requires_grad
        parameter.requires_grad_()  # even so
    logits, loss = model.forward(batch()[0]), model.loss(*batch())
    model.backward(1.0)
    assert no_graph == []
    gradients = [parameter.grad for _, parameter in model.named_parameters() if parameter.grad is not None]
    assert len(gradients) == len(list(model.named_parameters()))
    for tensor in (logits, loss, *gradients):
        assert tensor.grad_fn is None
        assert not tensor.requires_grad


def test_the_mirror_does_build_a_graph_so_the_test_above_can_fail(no_graph: list[Tensor]) -> None:
    build("torch").loss(*batch())
    assert no_graph


# What is kept, and for how long


def test_backward_lets_go_of_every_cache() -> None:
    model = build()
    assert isinstance(model, CachedTransformer)
    model.loss(*batch())
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    assert layers
    assert all(layer.cache is not None for layer in layers)
    model.backward(1.0)
    assert all(layer.cache is None for layer in layers)


def test_a_forward_pass_between_loss_and_backward_changes_no_gradient() -> None:
    model, disturbed = build(), build()
    for one in (model, disturbed):
        one.loss(*batch())
    disturbed.forward(batch(seed=1)[0])
    for one in (model, disturbed):
        one.backward(1.0)
    for (name, parameter), (_, other) in zip(model.named_parameters(), disturbed.named_parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name


def test_backward_without_loss_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="backward needs a loss"):
        build().backward(1.0)


def test_moving_the_model_keeps_its_tensors_so_that_an_optimizer_holds_the_right_ones() -> None:
    model = build()
    held = dict(model.named_parameters())
    model.to(device="cpu", dtype=torch.float32)
    for name, parameter in model.named_parameters():
        assert parameter is held[name]
        assert parameter.dtype == torch.float32


# bfloat16


def gradients(model: LanguageModel) -> dict[str, Tensor]:
    torch.manual_seed(0)
    with compute_context(model.config, "cpu"):
        model.loss(*batch())
    model.backward(1.0)
    return {name: parameter.grad.double() for name, parameter in model.named_parameters() if parameter.grad is not None}


def shaken(name: str, dtype: str) -> LanguageModel:
    """Return a model whose gradients are no longer nearly alike: weights far from the initial ones."""
    model = build(name, dtype=dtype)
    noise = torch.Generator().manual_seed(1)
    for _, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64).to(parameter.dtype))
    return model


def test_bfloat16_gradients_are_as_near_the_exact_ones_as_autograds() -> None:
    exact = gradients(shaken("custom", "float64"))
    whole = math.sqrt(sum(float(gradient.square().sum()) for gradient in exact.values()))

    def error(found: dict[str, Tensor]) -> float:
        return math.sqrt(sum(float((found[name] - exact[name]).square().sum()) for name in exact)) / whole

    ours, autograds = error(gradients(shaken("custom", "bfloat16"))), error(gradients(shaken("torch", "bfloat16")))
    assert 1e-4 < ours < 2e-2, "bfloat16 has three digits: it should be seen, and do no harm"
    assert ours < 1.5 * autograds


def test_bfloat16_computes_its_products_in_bfloat16_on_the_way_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    products = []
    real = torch.Tensor.__matmul__

    def noted(a: Tensor, b: Tensor) -> Tensor:
        products.append(real(a, b).dtype)
        return real(a, b)

    model = build(dtype="bfloat16")
    monkeypatch.setattr(torch.Tensor, "__matmul__", noted)
    with compute_context(model.config, "cpu"):
        model.loss(*batch())
    forward_products = len(products)
    model.backward(1.0)
    assert set(products) == {torch.bfloat16}
    assert len(products) == 3 * forward_products


def test_bfloat16_leaves_the_residual_stream_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[Tensor] = []

    def noted(x: Tensor, branch: Tensor) -> tuple[Tensor, None]:
        output, cache = residual_forward(x, branch)
        assert torch.equal(output, x + branch), "the sum is not rounded"
        streams.extend((x, output))
        return output, cache

    def noted_back(grad_output: Tensor, cache: None) -> tuple[Tensor, Tensor]:
        grad_x, grad_branch = residual_backward(grad_output, cache)
        streams.extend((grad_x, grad_branch))
        return grad_x, grad_branch

    monkeypatch.setattr("tfs_custom.model.residual_forward", noted)
    monkeypatch.setattr("tfs_custom.model.residual_backward", noted_back)
    model = shaken("custom", "bfloat16")
    with compute_context(model.config, "cpu"):
        model.loss(*batch())
    model.backward(1.0)
    assert len(streams) == 4 * 2 * OPTIONS["n_blocks"]
    for stream in streams:
        assert stream.dtype == torch.float32
        assert not torch.equal(stream, stream.bfloat16().float()), "its numbers have more digits than bfloat16"


# Bad input


def test_loss_of_ids_outside_the_vocabulary_says_so() -> None:
    input_ids, target_ids = batch()
    input_ids[0, 0] = VOCAB_SIZE
    with pytest.raises(ValueError, match=f"token id {VOCAB_SIZE} is outside the vocabulary"):
        build().loss(input_ids, target_ids)


def test_loss_of_targets_outside_the_vocabulary_says_so() -> None:
    input_ids, target_ids = batch()
    target_ids[0, 0] = -1
    with pytest.raises(ValueError, match="target id -1 is outside the vocabulary"):
        build().loss(input_ids, target_ids)


def test_loss_of_targets_of_another_shape_says_so() -> None:
    input_ids, target_ids = batch()
    with pytest.raises(ValueError, match=r"target_ids are \[5, 6\], but input_ids are \[5, 7\]"):
        build().loss(input_ids, target_ids[:, :-1])


def test_a_sequence_past_the_context_says_so() -> None:
    with pytest.raises(ValueError, match="18 tokens is longer than the model's context of 17"):
        build().forward(torch.zeros(1, 18, dtype=torch.int64))


def test_a_position_past_the_context_says_so() -> None:
    model = build()
    assert isinstance(model, CachedTransformer)
    with pytest.raises(ValueError, match="position 17 is outside the model's context of 17"):
        model.forward_with_cache(torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[17]]), model.make_cache(1))


def test_an_all_padding_row_counts_nothing() -> None:
    input_ids, target_ids = batch()
    target_ids[2] = IGNORED_TARGET
    rest = torch.tensor([0, 1, 3, 4])
    model = build()
    torch.testing.assert_close(
        model.loss(input_ids, target_ids), model.loss(input_ids[rest], target_ids[rest]), rtol=1e-13, atol=0.0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_parameters_of_a_narrow_dtype_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="parameters are float32 or float64"):
        build().to(device="cpu", dtype=dtype)


def test_a_dtype_that_nothing_computes_in_is_refused() -> None:
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float64, not 'float16'"):
        build(dtype="float16")


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_load_state_dict_names_what_does_not_fit_and_changes_nothing(change: str) -> None:
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    if change == "missing":
        del state["final_norm.bias"]
        expected = "'final_norm.bias' is missing"
    elif change == "unknown":
        state["final_norm.scale"] = torch.zeros(12)
        expected = "'final_norm.scale' is no parameter of this model"
    else:
        state["final_norm.bias"] = torch.zeros(13)
        expected = r"'final_norm.bias' has shape \[13\], here it is \[12\]"
    with pytest.raises(CheckpointError, match=expected):
        model.load_state_dict(state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="5 does not divide 12"):
        CustomConfig(d_model=12, n_heads=5)


def test_a_loss_that_broke_off_leaves_nothing_for_backward() -> None:
    """Or backward would mix the caches of two passes."""

    def failing(logits: Tensor, target_ids: Tensor) -> object:
        raise ZeroDivisionError

    model = build()
    model.loss(*batch())
    with tfs_custom.replaced(cross_entropy_forward=failing), pytest.raises(ZeroDivisionError):
        model.loss(*batch(seed=1))
    with pytest.raises(RuntimeError, match="backward needs a loss"):
        model.backward(1.0)


def test_moving_the_model_drops_its_gradients() -> None:
    model = build()
    model.loss(*batch())
    model.backward(1.0)
    model.to(device="cpu", dtype=torch.float64)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == []


@pytest.mark.parametrize("target_id", [-1, -99, VOCAB_SIZE])
def test_loss_of_each_target_outside_the_vocabulary_says_so(target_id: int) -> None:
    input_ids, target_ids = batch()
    target_ids[0, 0] = target_id
    with pytest.raises(ValueError, match=f"target id {target_id} is outside the vocabulary"):
        build().loss(input_ids, target_ids)


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE])
def test_the_cache_takes_no_ids_outside_the_vocabulary(token_id: int) -> None:
    model = build()
    assert isinstance(model, CachedTransformer)
    with pytest.raises(ValueError, match=f"token id {token_id} is outside the vocabulary"):
        model.forward_with_cache(torch.tensor([[token_id]]), torch.tensor([[0]]), model.make_cache(1))


def test_load_state_dict_refuses_a_transposed_matrix() -> None:
    model = build()
    state = model.state_dict()
    state["token_embedding.weight"] = state["token_embedding.weight"].mT
    with pytest.raises(CheckpointError, match=r"'token_embedding.weight' has shape \[12, 23\], here it is \[23, 12\]"):
        model.load_state_dict(state)


def test_slots_of_an_empty_cache_hold_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    model = build()
    assert isinstance(model, CachedTransformer)
    torch.use_deterministic_algorithms(True)  # fills memory that nobody wrote to with NaN
    try:
        cache = model.make_cache(2)
    finally:
        torch.use_deterministic_algorithms(False)
    for block_cache in cache:
        assert not block_cache.keys.any()
        assert not block_cache.values.any()
