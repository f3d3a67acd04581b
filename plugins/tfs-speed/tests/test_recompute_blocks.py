"""Activation checkpointing on a model with nested lists: number of recomputations, and saved memory."""

import pytest
import torch
from tfs_speed.recompute import ActivationCheckpointing
from torch import Tensor, nn

from tfs_core.contracts import ModelConfig, WrapContext
from tfs_core.errors import ConfigError
from tfs_core.models import AutogradModel, LossModule, Objective
from tfs_core.ranks import OneRank

VOCAB_SIZE = 7


class Part(nn.Module):
    """An item of a list: a linear layer, dropout, and a list of its own; counts its forward passes."""

    def __init__(self, inner: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.dropout = nn.Dropout(0.4)
        self.inner = nn.ModuleList(Part() for _ in range(inner))
        self.calls = 0

    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        self.calls += 1
        for part in self.inner:
            x = part(x, scale=scale)
        return x + scale * self.dropout(torch.tanh(self.linear(x)))


class Blocks(AutogradModel):
    """A model with blocks in a list."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(), vocab_size=VOCAB_SIZE)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table = nn.Embedding(VOCAB_SIZE, 3)
            self.blocks = nn.ModuleList(Part(inner=2) for _ in range(2))
            self.output = nn.Linear(3, VOCAB_SIZE)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.table(input_ids)
        for block in self.blocks:
            x = block(x, scale=0.5)
        return self.output(x)


class NoBlocks(AutogradModel):
    """A model without a list."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(), vocab_size=VOCAB_SIZE)
        self.table = nn.Embedding(VOCAB_SIZE, VOCAB_SIZE)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)


def batch() -> tuple[Tensor, Tensor]:
    input_ids, target_ids = torch.randint(VOCAB_SIZE, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    return input_ids, target_ids


def objective(model: AutogradModel, *, saving: bool = True) -> Objective:
    """Return the loss of a model, by default in the wrapper."""
    loss: nn.Module = LossModule(model)
    if saving:
        context = WrapContext(model=model, model_name="mine", device="cpu", ranks=OneRank())
        loss = ActivationCheckpointing().wrap(loss, context=context)
    return Objective(model, loss)


def trained(model: AutogradModel, *, saving: bool = True) -> tuple[Tensor, list[Tensor]]:
    made = objective(model, saving=saving)
    torch.manual_seed(5)
    loss = made.loss(*batch())
    made.backward(0.1)
    return loss, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_blocks_computed_again_give_the_same_bits_with_dropout() -> None:
    plain, saving = Blocks(), Blocks()
    (loss, gradients), (expected, expected_gradients) = trained(saving), trained(plain, saving=False)
    assert torch.equal(loss, expected)
    assert len(gradients) == len(list(plain.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected_gradients, strict=True))


def test_blocks_are_computed_twice_in_training_and_once_in_evaluation() -> None:
    model = Blocks()
    trained(model)
    assert [block.calls for block in model.blocks] == [2, 2]
    assert model.blocks[0].inner[0].calls == 2, "a list within an item is computed again with it, not once more"
    model.eval()
    model.loss(*batch())
    assert [block.calls for block in model.blocks] == [3, 3]


def test_what_blocks_compute_is_not_kept() -> None:
    kept = []
    for asked in (False, True):
        made = objective(Blocks(), saving=asked)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t):
            made.loss(*batch())
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_computing_blocks_again_leaves_every_name_as_it_is() -> None:
    plain, saving = Blocks(), Blocks()
    objective(saving)
    assert list(saving.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in saving.named_modules()] == [name for name, _ in plain.named_modules()]


def test_model_without_blocks_to_compute_again_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"runtime\.activation_checkpointing: the model 'mine' has no nn\.ModuleList"):
        objective(NoBlocks())
