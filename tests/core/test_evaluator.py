"""Evaluator: results that can be computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tfs_core.contracts import ModelConfig
from tfs_core.data.batches import Batch
from tfs_core.errors import DataError
from tfs_core.models import AutogradModel
from tfs_core.training import Evaluator

VOCAB_SIZE = 4


class Uniform(AutogradModel):
    """A uniform distribution over 4 tokens: the loss of each target is ln 4 nats."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(), vocab_size=VOCAB_SIZE)
        self.bias = torch.nn.Parameter(torch.zeros(VOCAB_SIZE))

    def forward(self, input_ids: Tensor) -> Tensor:
        torch.rand(1)  # changes the global random state, as dropout does
        return self.bias.expand(*input_ids.shape, VOCAB_SIZE)


def batch(targets: list[list[int]]) -> Batch:
    target_ids = torch.tensor(targets)
    return Batch(torch.zeros_like(target_ids), target_ids, int((target_ids != -100).sum()))


BATCHES = [batch([[1, 2, 3], [2, -100, -100]]), batch([[3, 0, -100]])]


def test_loss_is_nats_per_valid_target_and_padding_is_not_counted() -> None:
    evaluation = Evaluator(Uniform()).evaluate(BATCHES)
    assert evaluation.tokens_evaluated == 6
    assert evaluation.loss == pytest.approx(math.log(4), rel=1e-6)
    assert evaluation.perplexity == pytest.approx(4, rel=1e-6)


def test_bits_per_byte_counts_the_nats_of_end_of_text_and_none_of_its_bytes() -> None:
    byte_lengths = np.array([0, 1, 2, 5])  # id 0 is the end of text
    evaluation = Evaluator(Uniform()).evaluate(BATCHES, byte_lengths=byte_lengths)
    assert evaluation.bits_per_byte == pytest.approx(6 * 2 / (1 + 2 + 5 + 2 + 5 + 0), rel=1e-6)


def test_mean_is_over_tokens_and_not_over_batches() -> None:
    model = Uniform()
    with torch.no_grad():
        model.bias[3] = 2.0
    together = Evaluator(model).evaluate([batch([[1, 2, 3, 2, 3, 0]])])
    assert Evaluator(model).evaluate(BATCHES).loss == pytest.approx(together.loss, rel=1e-6)


def test_max_batches_takes_the_first_ones() -> None:
    assert Evaluator(Uniform()).evaluate(BATCHES, max_batches=1).tokens_evaluated == 4


def test_pairs_of_tensors_do_as_batches() -> None:
    pairs = [(batch.input_ids, batch.target_ids) for batch in BATCHES]
    assert Evaluator(Uniform()).evaluate(pairs) == Evaluator(Uniform()).evaluate(BATCHES)


def test_evaluation_preserves_the_random_states() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Evaluator(Uniform()).evaluate(BATCHES)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_restores_the_mode(training: bool) -> None:
    model = Uniform().train(training)
    Evaluator(model).evaluate(BATCHES)
    assert model.training is training


def test_evaluation_without_a_valid_target_is_an_error() -> None:
    with pytest.raises(DataError, match="no valid target"):
        Evaluator(Uniform()).evaluate([batch([[-100]])])


def test_perplexity_of_a_nan_loss_is_nan() -> None:
    model = Uniform()
    with torch.no_grad():
        model.bias[3] = math.nan
    assert math.isnan(Evaluator(model).evaluate([batch([[1]])]).perplexity)


def test_perplexity_of_a_huge_loss_is_infinite() -> None:
    model = Uniform()
    with torch.no_grad():
        model.bias[3] = 5000.0
    assert Evaluator(model).evaluate([batch([[1]])]).perplexity == math.inf


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.int32])
def test_byte_lengths_may_have_any_integer_type(dtype: type) -> None:
    evaluation = Evaluator(Uniform()).evaluate(BATCHES, byte_lengths=np.array([0, 100, 200, 250], dtype=dtype))
    assert evaluation.bits_per_byte == pytest.approx(6 * 2 / (100 + 200 + 250 + 200 + 250 + 0), rel=1e-6)
