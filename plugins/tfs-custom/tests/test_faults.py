"""Every fault that the model can plant in itself is caught, and nothing else changes."""

import dataclasses

import pytest
import torch
from tfs_custom.config import CustomConfig
from tfs_custom.faults import FAULTS
from tfs_custom.key_value_cache import CachedTransformer
from tfs_lab.testing import gradients, invariances, loss_checks, operations, state_checks
from tfs_lab.testing.results import Check
from tfs_lab.testing.small_model import SmallModel, small_options

from tfs_core.errors import UsageError

SUBJECT = SmallModel(name="custom", factory=CachedTransformer, config=CustomConfig(**small_options(CustomConfig)))

# The check that a learner would look at first for each; the clean model passes all of them (test_model.py).
CAUGHT_BY: dict[str, Check[SmallModel]] = {
    "residual-in-place": invariances.saved_tensors_are_unmodified,
    "residual-path-forgotten": operations.operation_gradients_are_correct,
    "variance-path-forgotten": operations.operation_gradients_are_correct,
    "softmax-row-mean-forgotten": operations.operation_gradients_are_correct,
    "tied-gradient-forgotten": operations.operation_gradients_are_correct,
    "dropout-mask-forgotten": operations.operation_gradients_are_correct,
    "other-gelu": operations.operation_gradients_are_correct,
    "score-scale-forgotten": operations.operation_gradients_are_correct,
    "mean-for-sum-in-loss": loss_checks.loss_is_the_sum_of_nats,
    "mean-for-sum-in-bias": operations.operation_gradients_are_correct,
    "embedding-overwritten": operations.operation_gradients_are_correct,
    "gradient-overwritten": loss_checks.backward_scales_and_adds,
    "mask-forgotten": invariances.logits_are_causal,
    "mask-too-weak": invariances.logits_are_causal,
    "position-off-by-one": state_checks.cache_equals_the_full_forward,
}

# Those that make a gradient wrong are seen in the gradients of the whole model as well.
WRONG_GRADIENTS = [
    name
    for name, check in CAUGHT_BY.items()
    if check in (operations.operation_gradients_are_correct, invariances.saved_tensors_are_unmodified)
]


def test_there_are_many_faults_and_each_has_its_check() -> None:
    assert len(FAULTS) >= 10
    assert FAULTS.keys() == CAUGHT_BY.keys()


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught_where_one_would_look(fault: str) -> None:
    result = CAUGHT_BY[fault](dataclasses.replace(SUBJECT, fault=fault))
    assert result.status == "fail", result


@pytest.mark.parametrize("fault", WRONG_GRADIENTS)
def test_fault_is_caught_in_the_gradients_of_the_model(fault: str) -> None:
    check = gradients.gradients_with_dropout
    result = check(dataclasses.replace(SUBJECT, fault=fault))
    assert result.status == "fail", result
    assert result.comparisons, "caught by its numbers, not by an exception"


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_in_one_instance_only(fault: str) -> None:
    faulty, clean, untouched = SUBJECT.build(), SUBJECT.build(), SUBJECT.build()
    assert isinstance(faulty, CachedTransformer)
    faulty.plant_fault(fault)
    expected = gradients.gradients(untouched, *SUBJECT.batch())
    gradients.gradients(faulty, *SUBJECT.batch())
    found = gradients.gradients(clean, *SUBJECT.batch())
    assert found.keys() == dict(clean.named_parameters()).keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, expected[name])


def test_faults_say_in_a_sentence_what_goes_wrong() -> None:
    model = SUBJECT.build()
    assert isinstance(model, CachedTransformer)
    assert model.faults().keys() == FAULTS.keys()
    for name, sentence in model.faults().items():
        assert sentence.endswith("."), name
        assert sentence[0].isupper(), name


def test_unknown_fault_suggests_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="Did you mean 'residual-in-place'"):
        dataclasses.replace(SUBJECT, fault="residual-inplace").build()


def test_two_faults_can_be_planted_in_one_model() -> None:
    both, one = SUBJECT.build(), SUBJECT.build()
    assert isinstance(both, CachedTransformer)
    assert isinstance(one, CachedTransformer)
    both.plant_fault("other-gelu")
    both.plant_fault("residual-path-forgotten")
    one.plant_fault("residual-path-forgotten")
    expected = gradients.gradients(one, *SUBJECT.batch())
    found = gradients.gradients(both, *SUBJECT.batch())
    name = "blocks.1.feed_forward.expand.bias"
    assert not torch.equal(found[name], expected[name])
