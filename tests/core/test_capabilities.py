"""What a configuration asks of a model beyond the contract: done where the model can, refused where it cannot."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tfs_core.config.schema import Choice, DataConfig, RunConfig, RuntimeConfig
from tfs_core.contracts import ModelConfig
from tfs_core.errors import ConfigError
from tfs_core.models import AutogradModel
from tfs_core.training.capabilities import check_document_masks, save_memory

VOCAB_SIZE = 7


class Part(nn.Module):
    """An item of a list: a product and dropout, and a list of its own; counts how often it is computed."""

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


class TakesDocumentIds(NoBlocks):
    """A model that says it keeps documents apart."""

    takes_document_ids = True

    def forward(self, input_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        return self.table(input_ids)


def config(*, document_masks: bool = False, **runtime: Any) -> RunConfig:
    return RunConfig(
        experiment_name="a",
        data=DataConfig(dataset=Choice("text"), tokenizer=Choice("byte"), document_masks=document_masks),
        model=Choice("mine"),
        runtime=RuntimeConfig(**runtime),
    )


def batch() -> tuple[Tensor, Tensor]:
    input_ids, target_ids = torch.randint(VOCAB_SIZE, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    return input_ids, target_ids


def trained(model: AutogradModel) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(5)
    loss = model.loss(*batch())
    model.backward(0.1)
    return loss, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_blocks_computed_again_give_the_same_bits_with_dropout() -> None:
    plain, saving = Blocks(), Blocks()
    save_memory(saving, config(activation_checkpointing=True))
    (loss, gradients), (expected, expected_gradients) = trained(saving), trained(plain)
    assert torch.equal(loss, expected)
    assert len(gradients) == len(list(plain.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected_gradients, strict=True))


def test_blocks_are_computed_twice_in_training_and_once_in_evaluation() -> None:
    model = Blocks()
    save_memory(model, config(activation_checkpointing=True))
    trained(model)
    assert [block.calls for block in model.blocks] == [2, 2]
    assert model.blocks[0].inner[0].calls == 2, "a list within an item is computed again with it, not once more"
    model.eval()
    model.loss(*batch())
    assert [block.calls for block in model.blocks] == [3, 3]


def test_what_blocks_compute_is_not_kept() -> None:
    kept = []
    for asked in (False, True):
        model = Blocks()
        save_memory(model, config(activation_checkpointing=asked))
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t):
            model.loss(*batch())
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_computing_blocks_again_leaves_every_name_as_it_is() -> None:
    plain, saving = Blocks(), Blocks()
    save_memory(saving, config(activation_checkpointing=True))
    assert list(saving.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in saving.named_modules()] == [name for name, _ in plain.named_modules()]


def test_model_without_blocks_to_compute_again_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"runtime\.activation_checkpointing: the model 'mine' has no nn\.ModuleList"):
        save_memory(NoBlocks(), config(activation_checkpointing=True))


def test_loss_chunk_of_a_model_without_features_is_an_error_but_auto_and_null_are_not() -> None:
    with pytest.raises(ConfigError, match=r"runtime\.loss_chunk: the model 'mine' makes its logits in one step"):
        save_memory(NoBlocks(), config(loss_chunk=8))
    for loss_chunk in ("auto", None):
        save_memory(NoBlocks(), config(loss_chunk=loss_chunk))


def test_document_masks_of_a_model_without_them_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"data\.document_masks: the model 'mine' has no document masks"):
        check_document_masks(NoBlocks(), config(document_masks=True))
    check_document_masks(NoBlocks(), config())
    check_document_masks(TakesDocumentIds(), config(document_masks=True))
