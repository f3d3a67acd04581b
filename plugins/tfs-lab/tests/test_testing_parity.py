"""Parity of two models: equal models pass, and every kind of difference is found."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tfs_lab.testing.parity import check_parity
from tfs_lab.testing.results import CheckResult
from tfs_lab.testing.small_model import SmallModel
from torch import Tensor, nn

from tfs_core.contracts import ModelConfig
from tfs_core.models import AutogradModel


class Model(AutogradModel):
    scale = 1.0

    def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.table = nn.Embedding(vocab_size, 3)
        self.output = nn.Linear(3, vocab_size)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.output(self.drop(self.table(input_ids).tanh() * self.scale))

    def drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.config.dropout, self.training)


class OtherFunction(Model):
    scale = 1.0 + 1e-8


class OtherBackward(Model):
    def backward(self, scale: float) -> None:
        super().backward(scale)
        self.table.weight.grad[:, 0] += 1e-4


class OtherDraws(Model):
    def drop(self, hidden: Tensor) -> Tensor:
        torch.rand(1)
        return super().drop(hidden)


class OtherInitialValues(Model):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        with torch.no_grad():
            self.output.bias.zero_()


class OtherNames(Model):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.extra = nn.Parameter(torch.zeros(1))


class OtherOrder(Model):
    def named_parameters(self, *arguments: Any, **options: Any) -> Any:
        return reversed(list(super().named_parameters(*arguments, **options)))


def parity(other: type[AutogradModel]) -> dict[str, CheckResult]:
    model, reference = (
        SmallModel(name=name, factory=factory, config=ModelConfig(max_seq_len=9))
        for name, factory in (("model", Model), ("reference", other))
    )
    return {result.name: result for result in check_parity(model, reference)}


def test_model_has_parity_with_itself() -> None:
    found = parity(Model)
    assert [result.status for result in found.values()] == ["pass"] * len(found)


@pytest.mark.parametrize(
    ("other", "failing", "says"),
    [
        (OtherFunction, "parity: logits and loss", "logits"),
        (OtherBackward, "parity: gradients", "table.weight"),
        (OtherBackward, "parity: optimizer steps", "table.weight"),
        (OtherDraws, "parity: gradients with dropout", "table.weight"),
        (OtherInitialValues, "parity: parameters", "output.bias has other initial values"),
        (OtherNames, "parity: parameters", "only one of the two has: extra"),
        (OtherOrder, "parity: parameters", "order is not"),
    ],
)
def test_difference_is_found(other: type[AutogradModel], failing: str, says: str) -> None:
    result = parity(other)[failing]
    assert result.status == "fail"
    assert says in str(result)


def test_table_names_the_other_model() -> None:
    assert {line.reference for line in parity(Model)["parity: gradients"].comparisons} == {"reference"}
