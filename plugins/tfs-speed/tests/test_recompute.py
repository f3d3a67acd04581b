"""The wrapper `activation-checkpointing`: less memory, bit-identical results, and an error where it does not apply."""

from typing import Any

import pytest
import torch
from tfs_lab.testing.small_model import small_model
from tfs_speed.compiling import Compile
from tfs_speed.recompute import ActivationCheckpointing
from torch import Tensor, nn

from tfs_core.contracts import Batch, WrapContext
from tfs_core.errors import ConfigError
from tfs_core.models import LossModule, Objective, batch_loss
from tfs_core.ranks import OneRank


def context(model: Any, batch: Batch, *, warned: list[str] | None = None) -> WrapContext:
    return WrapContext(
        model=model,
        model_name="mine",
        device="cpu",
        ranks=OneRank(),
        trial_batch=batch,
        lengths_vary=False,
        recorded={},
        report=lambda said: None,
        warn=(warned if warned is not None else []).append,
        record=lambda **facts: None,
    )


def small(name: str, **options: Any) -> tuple[Any, Batch]:
    subject = small_model(name)
    input_ids, target_ids = subject.batch()
    return subject.build(**options), Batch(input_ids, target_ids, target_ids.numel())


def loss_and_gradient(model: Any, loss: nn.Module, batch: Batch) -> tuple[float, Tensor]:
    model.zero_grad()
    objective = Objective(model, loss)
    found = float(batch_loss(model, batch, "cpu", objective))
    objective.backward(1.0)
    return found, torch.cat(
        [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    )


@pytest.mark.parametrize("name", ["torch", "baseline"])
def test_blocks_are_computed_again_and_no_bit_of_a_gradient_changes(name: str) -> None:
    model, batch = small(name, dropout=0.1)
    calls: list[str] = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append("block"))
    first = next(iter(model.blocks[0].children()))
    first.register_forward_pre_hook(lambda *_: calls.append("inside"))
    names, parameters = list(model.state_dict()), dict(model.named_parameters())
    torch.manual_seed(0)
    plain = loss_and_gradient(model, LossModule(model), batch)
    assert calls == ["inside", "block"]
    calls.clear()
    loss = ActivationCheckpointing().wrap(LossModule(model), context=context(model, batch))
    torch.manual_seed(0)
    again = loss_and_gradient(model, loss, batch)
    assert calls == ["inside", "block", "inside"], "once more in the backward pass"
    assert again[0] == plain[0]
    assert torch.equal(again[1], plain[1])
    assert list(model.state_dict()) == names
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())


def test_in_eval_mode_nothing_is_computed_again() -> None:
    model, batch = small("torch")
    expected = float(model.eval().loss(batch.input_ids, batch.target_ids))
    loss = ActivationCheckpointing().wrap(LossModule(model), context=context(model, batch))
    assert float(Objective(model, loss).loss(batch.input_ids, batch.target_ids)) == expected


def test_model_without_a_list_of_blocks_is_refused_by_name() -> None:
    model, batch = small("custom")
    with pytest.raises(ConfigError, match=r"runtime\.activation_checkpointing: the model 'mine' has no nn\.ModuleList"):
        ActivationCheckpointing().wrap(LossModule(model), context=context(model, batch))


@pytest.mark.long
@pytest.mark.parametrize("name", ["torch", "baseline"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("saving", [False, True])
def test_compiled_loss_works_together_with_everything_else(name: str, dtype: str, saving: bool) -> None:
    torch._dynamo.reset()
    model, batch = small(name, dtype=dtype)
    if name == "baseline":  # with document masks
        documents = (torch.arange(batch.input_ids.shape[1]) > 3).long().expand_as(batch.input_ids).contiguous()
        batch = Batch(batch.input_ids, batch.target_ids, batch.valid_targets, documents)
    plain: nn.Module = LossModule(model, loss_chunk=8 if saving else "auto")
    warned: list[str] = []
    wrap = context(model, batch, warned=warned)
    if saving:
        plain = ActivationCheckpointing().wrap(plain, context=wrap)
    compiled = Compile().wrap(plain, context=wrap)
    loss, gradient = loss_and_gradient(model, compiled, batch)
    assert warned == []
    expected, expected_gradient = loss_and_gradient(model, plain, batch)
    rounding = 1e-5 if dtype == "float32" else 3e-2
    assert loss == pytest.approx(expected, rel=rounding)
    assert float((gradient - expected_gradient).norm()) <= rounding * float(expected_gradient.norm())
