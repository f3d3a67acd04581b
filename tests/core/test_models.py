"""`AutogradModel` and the functions of `tfs_core.models`, tested with a minimal model."""

import inspect
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tfs_core.config import Choice
from tfs_core.contracts import IGNORED_TARGET, ModelConfig, SupportsDocumentMasks, SupportsFeatures
from tfs_core.errors import ConfigError
from tfs_core.models import (
    AutogradModel,
    LossModule,
    Objective,
    build_model,
    check_input_ids,
    compute_context,
    parameter_counts,
    parameter_dtype,
)
from tfs_core.registry import get_registry

VOCAB_SIZE = 7


class Bigram(AutogradModel):
    """A minimal model."""

    def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.normal_(self.table.weight, generator=generator)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)


@pytest.fixture
def model() -> Bigram:
    return Bigram(ModelConfig(max_seq_len=5), vocab_size=VOCAB_SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    input_ids = torch.tensor([[0, 1, 2], [3, 4, 5]])
    target_ids = torch.tensor([[1, 2, IGNORED_TARGET], [4, 5, 6]])
    return input_ids, target_ids


def test_loss_is_the_sum_of_nats_over_valid_targets(model: Bigram, batch: tuple[Tensor, Tensor]) -> None:
    logits = model.table.weight.detach()
    pairs = [(0, 1), (1, 2), (3, 4), (4, 5), (5, 6)]
    expected = -sum(float(logits[a].log_softmax(dim=-1)[b]) for a, b in pairs)
    loss = model.loss(*batch)
    assert loss.shape == ()
    assert math.isclose(float(loss), expected, rel_tol=1e-6)


def test_loss_in_bfloat16_is_summed_in_float32(model: Bigram, batch: tuple[Tensor, Tensor]) -> None:
    model.to(dtype=torch.bfloat16)
    assert model.loss(*batch).dtype == torch.float32


def test_loss_in_float64_stays_float64(model: Bigram, batch: tuple[Tensor, Tensor]) -> None:
    model.to(dtype=torch.float64)
    assert model.loss(*batch).dtype == torch.float64


def test_loss_without_valid_targets_is_zero_with_zero_gradients(model: Bigram, batch: tuple[Tensor, Tensor]) -> None:
    nothing = torch.full_like(batch[1], IGNORED_TARGET)
    assert float(model.loss(batch[0], nothing)) == 0.0
    model.backward(1.0)
    assert torch.equal(model.table.weight.grad, torch.zeros(VOCAB_SIZE, VOCAB_SIZE))


def test_backward_adds_the_scaled_gradient(model: Bigram, batch: tuple[Tensor, Tensor]) -> None:
    model.loss(*batch)
    model.backward(1.0)
    once = model.table.weight.grad.clone()
    model.loss(*batch)
    model.backward(0.5)
    assert torch.allclose(model.table.weight.grad, 1.5 * once, rtol=1e-6)


def test_backward_twice_is_an_error(model: Bigram, batch: tuple[Tensor, Tensor]) -> None:
    model.loss(*batch)
    model.backward(1.0)
    with pytest.raises(RuntimeError, match="backward needs a loss"):
        model.backward(1.0)


def test_eval_loss_builds_no_graph_and_leaves_the_kept_one(model: Bigram, batch: tuple[Tensor, Tensor]) -> None:
    model.loss(*batch)
    model.backward(1.0)
    expected = model.table.weight.grad.clone()
    model.table.weight.grad = None

    graphs = []
    model.register_forward_hook(lambda _model, _inputs, logits: graphs.append(logits.requires_grad))
    model.loss(*batch)
    model.eval()
    model.loss(batch[0], batch[0])
    assert graphs == [True, False]
    model.train()
    model.backward(1.0)
    assert torch.equal(model.table.weight.grad, expected)


def test_eval_loss_alone_gives_nothing_to_backward(model: Bigram, batch: tuple[Tensor, Tensor]) -> None:
    model.eval()
    model.loss(*batch)
    with pytest.raises(RuntimeError, match="training mode"):
        model.backward(1.0)


def test_loss_is_safe_to_keep(model: Bigram, batch: tuple[Tensor, Tensor]) -> None:
    assert not model.loss(*batch).requires_grad, "a kept loss would keep its graph"


class TwoSteps(AutogradModel):
    """A model with `SupportsFeatures`, whose vocabulary is its largest dimension."""

    def __init__(self, *, dtype: Any = "float64", vocab_size: int = 101) -> None:
        super().__init__(ModelConfig(max_seq_len=8, dtype=dtype), vocab_size=vocab_size)
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Embedding(vocab_size, 3)
        nn.init.normal_(self.table.weight, generator=generator)
        self.to(parameter_dtype(self.config))

    def features(self, input_ids: Tensor) -> Tensor:
        return torch.tanh(self.table(input_ids))

    def unembed(self, features: Tensor) -> Tensor:
        return nn.functional.linear(features, self.table.weight)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.unembed(self.features(input_ids))

    def batch(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        input_ids, target_ids = torch.randint(self.vocab_size, (2, 4, 8), generator=generator)
        target_ids[1, 3:] = IGNORED_TARGET
        return input_ids, target_ids


def loss_and_gradient(model: TwoSteps, *, loss_chunk: Any) -> tuple[Tensor, Tensor]:
    objective = Objective(model, LossModule(model, loss_chunk=loss_chunk))
    model.table.weight.grad = None
    with compute_context(model.config, "cpu"):
        loss = objective.loss(*model.batch())
    objective.backward(0.5)
    assert model.table.weight.grad is not None
    return loss, model.table.weight.grad


@pytest.mark.parametrize("loss_chunk", [1, 5, 16, 31, 32, 99, "auto"])
def test_loss_in_chunks_has_the_value_and_the_gradients_of_the_whole(loss_chunk: Any) -> None:
    model = TwoSteps()
    expected, expected_gradient = loss_and_gradient(model, loss_chunk=None)
    loss, gradient = loss_and_gradient(model, loss_chunk=loss_chunk)
    assert math.isclose(float(loss), float(expected), rel_tol=1e-14)
    assert (gradient - expected_gradient).norm() <= 1e-14 * expected_gradient.norm()


def test_gradients_of_chunks_are_added_in_float32_when_the_model_computes_in_bfloat16() -> None:
    exact = loss_and_gradient(TwoSteps(), loss_chunk=None)[1]
    narrow = TwoSteps(dtype="bfloat16")
    errors = [
        float((loss_and_gradient(narrow, loss_chunk=chunk)[1] - exact).norm() / exact.norm()) for chunk in (None, 1)
    ]
    assert errors[1] < 1.2 * errors[0], "32 pieces, each rounded to bfloat16 as it is added, would be further off"


class LargestTensor(TorchDispatchMode):
    """Records the maximum number of elements of all tensors that operations create."""

    largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("training", [True, False])
def test_logits_of_all_positions_are_never_in_memory_at_once(training: bool) -> None:
    model = TwoSteps()
    model.train(training)
    largest = {}
    for loss_chunk in (None, 5):
        objective = Objective(model, LossModule(model, loss_chunk=loss_chunk))
        with LargestTensor() as watch:
            objective.loss(*model.batch())
            if training:
                objective.backward(1.0)
        largest[loss_chunk] = watch.largest
    assert largest == {None: 32 * 101, 5: 5 * 101}


@pytest.mark.parametrize(("logits_at_once", "positions"), [(7 * 101, 7), (8 * 101 - 1, 7), (100, 1), (1, 1)])
def test_auto_takes_as_many_positions_as_shapes_allow_and_never_none(
    logits_at_once: int, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfs_core.models.MAX_LOGITS_IN_MEMORY", logits_at_once)
    model = TwoSteps()
    at_once: list[int] = []
    unembed = model.unembed
    monkeypatch.setattr(model, "unembed", lambda features: (at_once.append(len(features)), unembed(features))[1])
    model.loss(*model.batch())
    assert at_once == [positions] * (32 // positions) + [32 % positions] * (32 % positions > 0)


class OwnLoss(Bigram):
    """A model with its own `loss`: three times the inherited one."""

    def loss(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        return 3.0 * super().loss(input_ids, target_ids, document_ids)


class OwnBackward(Bigram):
    """A model with its own `backward`: three times the inherited gradient."""

    def backward(self, scale: float) -> None:
        super().backward(3.0 * scale)


@pytest.mark.parametrize(("kind", "loss", "gradient"), [(Bigram, 1, 1), (OwnLoss, 3, 1), (OwnBackward, 1, 3)])
def test_loss_and_backward_of_a_model_s_own_are_what_the_trainer_calls(
    kind: type[Bigram], loss: int, gradient: int, model: Bigram, batch: tuple[Tensor, Tensor]
) -> None:
    expected = float(model.loss(*batch))
    model.backward(1.0)
    own = kind(ModelConfig(), vocab_size=VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    objective = Objective(own, LossModule(own))
    assert float(objective.loss(*batch)) == pytest.approx(loss * expected)
    objective.backward(1.0)
    torch.testing.assert_close(own.table.weight.grad, gradient * model.table.weight.grad)


def test_loss_chunk_needs_features_and_the_inherited_loss(model: Bigram) -> None:
    assert LossModule(TwoSteps()).has_chunks
    assert not LossModule(model).has_chunks
    assert not LossModule(type("Own", (TwoSteps,), {"loss": OwnLoss.loss})()).has_chunks


def test_smallest_model_declares_no_capability(model: Bigram) -> None:
    assert not isinstance(model, SupportsDocumentMasks)
    assert not isinstance(model, SupportsFeatures)
    assert isinstance(TwoSteps(), SupportsFeatures)


def test_embedding_parameters_are_the_tables(model: Bigram) -> None:
    assert model.embedding_parameters() == ["table.weight"]


def test_flops_of_a_lookup_are_none(model: Bigram) -> None:
    assert model.flops_per_token(3) == 0.0


class TinyAttention(AutogradModel):
    """One fused attention head and an output projection, to test the FLOP count."""

    def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.table = nn.Embedding(vocab_size, 4)
        self.dropout = nn.Dropout(0.5)
        self.output = nn.Linear(4, vocab_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.dropout(self.table(input_ids))[:, None]  # [batch_size, 1, seq_len, 4], the layout of the fused kernel
        return self.output(nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)[:, 0])


def test_flops_count_matrices_and_every_score_three_times() -> None:
    model = TinyAttention(ModelConfig(), vocab_size=VOCAB_SIZE, generator=torch.Generator())
    seq_len = 6
    assert model.flops_per_token(seq_len) == 3 * (2 * 4 * VOCAB_SIZE + 4 * seq_len * 4)


def test_flops_count_leaves_mode_gradients_and_random_state_alone() -> None:
    model = TinyAttention(ModelConfig(), vocab_size=VOCAB_SIZE, generator=torch.Generator())
    before = torch.get_rng_state()
    model.flops_per_token(5)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameters_stay_float32_unless_all_is_float64() -> None:
    dtypes = {dtype: parameter_dtype(ModelConfig(dtype=dtype)) for dtype in ("float32", "bfloat16", "float64")}
    assert dtypes == {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


def test_unknown_dtype_is_rejected_with_a_message() -> None:
    with pytest.raises(ValueError, match=r"dtype must be one of float32, bfloat16, float64, not 'float16'"):
        Bigram(ModelConfig(dtype="float16"), vocab_size=VOCAB_SIZE, generator=torch.Generator())  # type: ignore[arg-type]


def test_compute_context_casts_products_in_bfloat16_only() -> None:
    a = torch.ones(2, 2)
    with compute_context(ModelConfig(dtype="bfloat16"), "cpu"):
        assert (a @ a).dtype == torch.bfloat16
    with compute_context(ModelConfig(dtype="float32"), "cpu"):
        assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize(
    ("input_ids", "message"),
    [
        ([[0, 7]], "token id 7 is outside the vocabulary: ids go from 0 to 6"),
        ([[-1, 2]], "token id -1 is outside the vocabulary"),
        ([[0] * 6], "a sequence of 6 tokens is longer than the model's context of 5"),
        ([0, 1], r"input_ids must be \[batch_size, seq_len\], not \[2\]"),
    ],
)
def test_invalid_input_ids_are_rejected_with_a_message(input_ids: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_input_ids(torch.tensor(input_ids), vocab_size=VOCAB_SIZE, context_limit=5)


def test_input_ids_of_any_length_are_accepted_without_a_context_limit() -> None:
    check_input_ids(torch.zeros(2, 999, dtype=torch.int64), vocab_size=VOCAB_SIZE, context_limit=None)


class Counted:
    """The part of a LanguageModel that `parameter_counts` uses: a tied embedding and a matrix."""

    def __init__(self) -> None:
        self.embedding = nn.Parameter(torch.zeros(11, 3))
        self.matrix = nn.Parameter(torch.zeros(5, 7))

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        yield "embedding.weight", self.embedding
        yield "matrix", self.matrix

    def embedding_parameters(self) -> list[str]:
        return ["embedding.weight"]


def test_parameters_are_counted_with_and_without_embeddings() -> None:
    counts = parameter_counts(Counted())  # type: ignore[arg-type]  # only a part of the protocol is used
    assert (counts.total, counts.without_embeddings) == (11 * 3 + 5 * 7, 5 * 7)


def test_defaults_of_every_model_are_those_of_the_documentation() -> None:
    config = ModelConfig()
    assert (config.max_seq_len, config.dtype, config.dropout) == (256, "float32", 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seq_len": 0}, "max_seq_len must be at least 1, not 0"),
        ({"dropout": 1.0}, r"dropout must be at least 0 and below 1, not 1\.0"),
        ({"dropout": -0.1}, r"dropout must be at least 0 and below 1, not -0\.1"),
    ],
)
def test_options_outside_their_range_are_rejected(options: dict[str, Any], message: str) -> None:
    ModelConfig(max_seq_len=1, dropout=0.99)
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


def test_ignored_target_is_the_one_that_pytorch_ignores() -> None:
    assert inspect.signature(F.cross_entropy).parameters["ignore_index"].default == IGNORED_TARGET


@pytest.mark.parametrize("limit", ["tensors", "memory"])
def test_model_that_outgrows_the_machine_is_not_built(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    constant, value = {"memory": ("memory_bytes", lambda: 1 << 18), "tensors": ("MAX_PARAMETER_TENSORS", 100)}[limit]
    monkeypatch.setattr(f"tfs_core.models.{constant}", value)
    config_class: Any = get_registry().find("model", "torch").load_config_class()
    choice = Choice("torch", config_class(n_blocks=1000, d_model=8, n_heads=1))
    with pytest.raises(ConfigError, match=r"'torch' has more than .* make it smaller"):
        build_model(choice, vocab_size=16, seed=0)
