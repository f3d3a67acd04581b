"""The checks of tfs_lab.testing.gradients: wrong gradients fail, correct ones pass."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tfs_lab.testing.gradients import (
    gradients_against_autograd,
    gradients_against_differences,
    gradients_with_dropout,
    slope,
)
from tfs_lab.testing.results import CheckResult, ErrorRule
from tfs_lab.testing.small_model import SmallModel
from torch import Tensor, nn

from tfs_core.contracts import ModelConfig
from tfs_core.models import AutogradModel


class Squasher(AutogradModel):
    """logits = output @ tanh(table[id] + bias), with dropout, a shift that softmax cancels, and autograd."""

    def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.table = nn.Parameter(torch.randn(vocab_size, 3, generator=generator))
        self.bias = nn.Parameter(torch.zeros(3))
        self.output = nn.Parameter(torch.randn(vocab_size, 3, generator=generator))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = F.dropout(torch.tanh(self.table[input_ids] + self.bias), self.config.dropout, self.training)
        return hidden @ self.output.T + self.shift


class ByHand(Squasher):
    """The same model with a hand-written backward. `wrong` selects an error of it."""

    wrong = ""

    @torch.no_grad()
    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids)

    @torch.no_grad()
    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        hidden = torch.tanh(self.table[input_ids] + self.bias)
        mask = F.dropout(torch.ones_like(hidden), self.config.dropout, self.training)
        logits = (hidden * mask) @ self.output.T + self.shift
        self.kept = input_ids, target_ids, hidden, mask, logits
        return F.cross_entropy(logits.flatten(0, 1), target_ids.flatten(), reduction="sum")

    @torch.no_grad()
    def backward(self, scale: float) -> None:
        input_ids, target_ids, hidden, mask, logits = self.kept
        valid = (target_ids != -100)[..., None]
        one_hot = F.one_hot(target_ids.clamp(min=0), self.vocab_size)
        grad_logits = scale * (logits.softmax(dim=-1) - one_hot) * valid
        grad_hidden = grad_logits @ self.output * (1.0 if self.wrong == "mask forgotten" else mask)
        derivative = 1.0 - (hidden if self.wrong == "wrong derivative" else hidden**2)
        grad_sum = grad_hidden * derivative
        grad_table = torch.zeros_like(self.table).index_add(0, input_ids.flatten(), grad_sum.flatten(0, 1))
        if self.wrong == "one element":
            grad_table[input_ids[0, 0], 1] *= 1.0 + 1e-4
        if self.wrong == "not finite":
            grad_table[0, 0] = float("nan")
        self.table.grad = grad_table
        self.bias.grad = grad_sum.mean(dim=(0, 1)) if self.wrong == "mean for sum" else grad_sum.sum(dim=(0, 1))
        self.output.grad = grad_logits.flatten(0, 1).T @ (hidden * mask).flatten(0, 1)
        self.shift.grad = None if self.wrong == "missing" else grad_logits.sum().reshape(1)


def subject(model: Callable[..., AutogradModel], **changes: str) -> SmallModel:
    factory = type("Changed", (model,), changes) if changes else model
    return SmallModel(name="squasher", factory=factory, config=ModelConfig(max_seq_len=9))


def verdicts(result: CheckResult) -> dict[str, str]:
    return {comparison.name: comparison.verdict for comparison in result.comparisons}


def test_right_gradients_pass_every_way() -> None:
    for result in (
        gradients_against_autograd(subject(Squasher)),
        gradients_against_differences(subject(Squasher)),
        gradients_with_dropout(subject(Squasher)),
        gradients_against_differences(subject(ByHand)),
        gradients_with_dropout(subject(ByHand)),
    ):
        assert result.status == "pass", str(result)


def test_gradient_that_is_zero_by_mathematics_is_called_so() -> None:
    for result in (gradients_against_differences(subject(ByHand)), gradients_against_autograd(subject(Squasher))):
        expected = {"table": "PASS", "bias": "PASS", "output": "PASS", "shift": "ZERO BY MATHEMATICS"}
        assert verdicts(result) == expected


def test_model_without_a_graph_is_not_held_against_autograd() -> None:
    assert gradients_against_autograd(subject(ByHand)).status == "skip"


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [("wrong derivative", "bias"), ("mean for sum", "bias"), ("one element", "table")],
)
def test_wrong_gradient_is_found_and_named(wrong: str, parameter: str) -> None:
    result = gradients_against_differences(subject(ByHand, wrong=wrong))
    assert result.status == "fail"
    assert result.first_wrong == parameter
    assert parameter in result.detail
    assert verdicts(result)["output"] == "PASS"


def test_every_element_of_a_large_tensor_counts() -> None:
    """With one wrong element in the table, the sampled elements usually miss it; the directions always show it."""
    for seed in range(5):
        changed = SmallModel(
            name="squasher",
            factory=type("Changed", (ByHand,), {"wrong": "one element"}),
            config=ModelConfig(max_seq_len=9),
            seed=seed,
        )
        assert verdicts(gradients_against_differences(changed))["table"] == "FAIL"


def test_mask_forgotten_in_the_backward_is_seen_with_dropout_only() -> None:
    changed = subject(ByHand, wrong="mask forgotten")
    assert gradients_against_differences(changed).status == "pass"
    assert gradients_with_dropout(changed).status == "fail"


def test_missing_gradient_is_named() -> None:
    result = gradients_against_differences(subject(ByHand, wrong="missing"))
    assert result.status == "fail"
    assert "shift got no gradient" in result.detail


def test_gradient_that_is_not_finite_fails() -> None:
    result = gradients_against_differences(subject(ByHand, wrong="not finite"))
    assert result.status == "fail"
    assert "table is not finite" in result.detail


def test_loss_with_kinks_is_measured_with_shorter_steps() -> None:
    class Kinked(Squasher):
        def forward(self, input_ids: Tensor) -> Tensor:
            return torch.relu(self.table[input_ids] + self.bias) @ self.output.T + self.shift

    for seed in range(5):
        kinked = SmallModel(name="kinked", factory=Kinked, config=ModelConfig(max_seq_len=9), seed=seed)
        assert gradients_against_differences(kinked).status == "pass"


def test_dropout_that_torch_does_not_seed_is_reported() -> None:
    source = torch.Generator().manual_seed(0)

    class OwnDice(Squasher):
        def forward(self, input_ids: Tensor) -> Tensor:
            mask = torch.rand(3, generator=source) >= self.config.dropout
            return torch.tanh(self.table[input_ids] + self.bias) * mask @ self.output.T + self.shift

    assert "the same seed gave" in gradients_with_dropout(subject(OwnDice)).detail


def test_slope_is_exact_for_a_cubic_and_puts_the_tensor_back() -> None:
    x = torch.tensor([2.0], dtype=torch.float64)
    found = slope(lambda: float(x**3), x, torch.ones(1, dtype=torch.float64), 1e-3)
    assert found == pytest.approx(12.0, rel=1e-10)
    assert x.item() == 2.0


def test_error_rule_measures_a_small_gradient_by_the_whole_one() -> None:
    rule = ErrorRule(rtol=1e-6, tiny=1e-3)
    assert rule.compare("noise", "autograd", error=1e-11, norm=1e-12, whole=1.0).passed
    assert not rule.compare("small", "autograd", error=1e-8, norm=1e-4, whole=1.0).passed
    assert not rule.compare("nan", "autograd", error=float("nan"), norm=1.0, whole=1.0).passed


def test_error_rule_without_any_gradient_takes_no_error() -> None:
    rule = ErrorRule(rtol=1e-6, tiny=1e-3)
    assert rule.compare("none", "autograd", error=0.0, norm=0.0, whole=0.0).passed
    assert not rule.compare("some", "autograd", error=1.0, norm=0.0, whole=0.0).passed


def test_checks_leave_the_random_state_and_the_threads_as_they_were() -> None:
    torch.manual_seed(3)
    expected, threads = torch.rand(2), torch.get_num_threads()
    torch.manual_seed(3)
    gradients_with_dropout(subject(ByHand))
    assert torch.equal(torch.rand(2), expected)
    assert torch.get_num_threads() == threads


def test_failed_check_raises_with_everything_it_found() -> None:
    result = gradients_against_differences(subject(ByHand, wrong="mean for sum"))
    with pytest.raises(AssertionError, match=r"bias: FAIL \(relative error"):
        result.require()
