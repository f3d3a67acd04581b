"""The checks detect every fault that an installed model can inject, and pass for the same model without it."""

from collections.abc import Iterator
from functools import cache

import pytest
from tfs_lab.testing import CheckResult, SmallModel, check_model
from tfs_lab.testing.model_checks import MODEL_CHECKS
from tfs_lab.testing.small_model import small_model

from tfs_core.contracts import SupportsFaults
from tfs_core.registry import get_registry


@cache
def faults_by_model() -> dict[str, dict[str, str]]:
    """Return the injectable faults of each installed model."""
    names = [entry.qualified_name for entry in get_registry().entries("model")]
    models = {name: small_model(name).build() for name in names}
    return {name: dict(model.faults()) for name, model in models.items() if isinstance(model, SupportsFaults)}


def all_faults() -> list[tuple[str, str]]:
    return [(model, fault) for model, faults in faults_by_model().items() for fault in faults]


def checked(model: str, fault: str | None = None) -> Iterator[CheckResult]:
    """Yield the results of all checks, parity with the model's mirror included."""
    subject: SmallModel = small_model(model, fault=fault)
    mirror = subject.build().mirrors
    return check_model(subject, against=subject.counterpart(mirror) if mirror else None)


@pytest.mark.parametrize(("model", "fault"), all_faults())
def test_injected_fault_is_detected(model: str, fault: str) -> None:
    assert any(not result.passed for result in checked(model, fault))


@pytest.mark.parametrize("model", list(faults_by_model()))
def test_model_without_a_fault_passes(model: str) -> None:
    results = list(checked(model))
    assert {check.name for check in MODEL_CHECKS} <= {result.name for result in results}
    assert [str(result) for result in results if not result.passed] == []


@pytest.mark.parametrize("model", list(faults_by_model()))
def test_model_declares_at_least_eight_faults_each_in_a_sentence(model: str) -> None:
    faults = faults_by_model()[model]
    assert len(faults) >= 8
    assert all(sentence.endswith(".") for sentence in faults.values())


def one_check(name: str, fault: str | None = None, **options: str) -> CheckResult:
    """Return the result of one check of `custom`."""
    check = next(check for check in MODEL_CHECKS if check.name == name)
    return check(small_model("custom", options, fault=fault))


def test_other_form_of_gelu_has_right_gradients_too() -> None:
    one_check("gradients against differences", gelu="exact").require()


@pytest.mark.parametrize(
    ("fault", "check", "says"),
    [
        ("residual-in-place", "kept tensors stay as they were", "changed in place by 'add_' at "),
        ("residual-in-place", "operations leave their inputs alone", "residual: forward changed its input x"),
        ("other-gelu", "each operation", "first gelu(form=tanh): x"),
        ("softmax-row-mean-forgotten", "each operation", "first softmax: scores"),
        ("other-gelu", "gradients against differences", "blocks.1.feed_forward.expand.bias"),
        ("score-scale-forgotten", "gradients against differences", "blocks.1.attention.query.bias"),
        ("mask-forgotten", "causality", "they see the future"),
        ("mask-too-weak", "causality", "they see the future"),
        ("mean-for-sum-in-loss", "loss is a sum", "the sum of nats"),
        ("gradient-overwritten", "backward scales and adds", "are wrong"),
        ("dropout-mask-forgotten", "gradients with dropout", "are wrong"),
        ("position-off-by-one", "key/value cache", "differ from those of the full forward"),
        ("tied-gradient-forgotten", "gradients against differences", "token_embedding.weight"),
    ],
)
def test_fault_is_detected_where_it_is(fault: str, check: str, says: str) -> None:
    result = one_check(check, fault)
    assert result.status == "fail"
    assert says in result.detail


@pytest.mark.parametrize("fault", ["residual-in-place", "other-gelu", "variance-path-forgotten"])
def test_fault_that_a_falling_loss_does_not_show(fault: str) -> None:
    """The loss of one batch still falls to less than half: a falling loss does not prove a correct gradient."""
    assert one_check("learns one batch", fault).passed
    assert not one_check("gradients against differences", fault).passed
