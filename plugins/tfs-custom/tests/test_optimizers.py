"""The optimizers by hand are torch's to the last digit."""

from typing import Any

import pytest
import torch
from tfs_custom.config import AdamWByHandConfig, SGDByHandConfig
from tfs_custom.optimizers import adamw, sgd
from torch import Tensor

from tfs_core.registry import get_registry

DTYPES = [torch.float64, torch.float32]


def parameters(dtype: torch.dtype) -> list[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (67, 35), "bias": (67,), "gain": (3,)}
    return [(name, torch.randn(shape, generator=generator, dtype=dtype)) for name, shape in shapes.items()]


def train(optimizer: torch.optim.Optimizer, named: list[tuple[str, Tensor]], steps: int = 20) -> None:
    """Twenty steps along the same random gradients, the learning rate changing as a schedule would change it."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (step + 1) / steps
        for _, parameter in named:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()


def groups(named: list[tuple[str, Tensor]], weight_decay: float) -> list[dict[str, Any]]:
    matrix, *others = (parameter for _, parameter in named)
    return [{"params": [matrix], "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_by_hand_equals_torch_to_the_last_digit(dtype: torch.dtype, weight_decay: float) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    by_hand = adamw.build(AdamWByHandConfig(), named_parameters=ours, learning_rate=1e-2, weight_decay=weight_decay)
    reference = torch.optim.AdamW(groups(theirs, weight_decay), lr=1e-2, betas=(0.9, 0.95), fused=False, foreach=False)
    train(by_hand, ours)
    train(reference, theirs)
    for (name, mine), (_, torchs) in zip(ours, theirs, strict=True):
        assert torch.equal(mine, torchs), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_by_hand_equals_torch_to_the_last_digit(dtype: torch.dtype, momentum: float, nesterov: bool) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    config = SGDByHandConfig(momentum=momentum, nesterov=nesterov)
    by_hand = sgd.build(config, named_parameters=ours, learning_rate=1e-2, weight_decay=0.1)
    options = {"lr": 1e-2, "momentum": momentum, "nesterov": nesterov, "fused": False, "foreach": False}
    reference = torch.optim.SGD(groups(theirs, 0.1), **options)
    train(by_hand, ours)
    train(reference, theirs)
    for (name, mine), (_, torchs) in zip(ours, theirs, strict=True):
        assert torch.equal(mine, torchs), name


@pytest.mark.parametrize("name", ["adamw-by-hand", "sgd-by-hand"])
def test_optimizer_by_hand_resumes_to_the_bit(name: str) -> None:
    entry = get_registry().find("optimizer", name)
    factory, config_class = entry.load_factory(), entry.load_config_class()
    assert config_class is not None
    options = {"momentum": 0.9} if name == "sgd-by-hand" else {}

    def build(named: list[tuple[str, Tensor]]) -> torch.optim.Optimizer:
        return factory(config_class(**options), named_parameters=named, learning_rate=1e-2, weight_decay=0.1)

    straight_on, resumed = parameters(torch.float32), parameters(torch.float32)
    first, second = build(straight_on), build(resumed)
    train(first, straight_on)
    train(second, resumed)
    third = build(resumed)
    third.load_state_dict(second.state_dict())
    train(first, straight_on)
    train(third, resumed)
    for (parameter_name, mine), (_, other) in zip(straight_on, resumed, strict=True):
        assert torch.equal(mine, other), parameter_name


def test_optimizer_by_hand_leaves_a_parameter_without_gradient_alone() -> None:
    named = parameters(torch.float64)
    before = named[0][1].clone()
    optimizer = adamw.build(AdamWByHandConfig(), named_parameters=named, learning_rate=1.0, weight_decay=1.0)
    optimizer.step()
    assert torch.equal(named[0][1], before)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match="nesterov needs a momentum above 0"):
        SGDByHandConfig(nesterov=True)


def test_momentum_survives_gradients_that_are_cleared_in_place() -> None:
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    config = SGDByHandConfig(momentum=0.9)
    by_hand = sgd.build(config, named_parameters=ours, learning_rate=1e-2, weight_decay=0.0)
    reference = torch.optim.SGD([parameter for _, parameter in theirs], lr=1e-2, momentum=0.9)
    for optimizer, named in ((by_hand, ours), (reference, theirs)):
        train(optimizer, named, steps=1)
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
    for (name, mine), (_, torchs) in zip(ours, theirs, strict=True):
        assert torch.equal(mine, torchs), name
