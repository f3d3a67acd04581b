"""Conformance checks for optimizers: descent, learning rate, and bit-identical resuming."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tfs_lab.testing.chosen import chosen
from tfs_lab.testing.results import Check, Finding, check, expect

LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class OptimizerUnderCheck:
    """An optimizer by its name and options."""

    name: str
    options: Mapping[str, Any]

    def build(self, parameters: Mapping[str, Tensor], *, weight_decay: float = 0.0) -> torch.optim.Optimizer:
        """Return the optimizer of these parameters, of any shape."""
        component = chosen("optimizer", self.name, self.options)
        optimizer: torch.optim.Optimizer = component.factory(
            component.config,
            named_parameters=list(parameters.items()),
            learning_rate=LEARNING_RATE,
            weight_decay=weight_decay,
        )
        return optimizer


def _parameters() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"first.weight": (5, 7), "first.bias": (5,), "second.weight": (3, 5)}
    return {name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in shapes.items()}


def _step(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Take a step on the sum of squares, whose gradient is 2 * parameter; return the sum before the step."""
    for parameter in parameters.values():
        parameter.grad = 2.0 * parameter.detach()
    before = sum(float(parameter.detach().square().sum()) for parameter in parameters.values())
    optimizer.step()
    return before


@check("descends")
def it_descends(subject: OptimizerUnderCheck) -> Finding:
    """50 steps on a quadratic loss reduce it."""
    parameters = _parameters()
    optimizer = subject.build(parameters)
    losses = [_step(parameters, optimizer) for _ in range(50)]
    expect(losses[-1] < losses[0], f"the loss went from {losses[0]:.4g} to {losses[-1]:.4g}")
    return f"{losses[0]:.4g} to {losses[-1]:.4g}"


@check("obeys the learning rate")
def it_obeys_the_learning_rate(subject: OptimizerUnderCheck) -> Finding:
    """The learning rate is read from `param_groups` at every step: at rate 0 nothing changes, weight decay included."""
    parameters = _parameters()
    optimizer = subject.build(parameters, weight_decay=0.1)
    grouped = sum(len(group["params"]) for group in optimizer.param_groups)
    expect(grouped == len(parameters), f"the groups hold {grouped} of {len(parameters)} parameters")
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    _step(parameters, optimizer)
    for name, parameter in parameters.items():
        expect(torch.equal(parameter.detach(), before[name]), f"{name} moved at a learning rate of 0")
    return f"{len(optimizer.param_groups)} groups"


@check("resume")
def it_resumes_exactly(subject: OptimizerUnderCheck) -> Finding:
    """Resuming by `state_dict` and `load_state_dict` is bit-identical; the state is tensors and plain values only."""
    parameters = _parameters()
    optimizer = subject.build(parameters, weight_decay=0.1)
    for _ in range(3):
        _step(parameters, optimizer)
    saved, state = copy.deepcopy(parameters), copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        for name, value in entry.items():
            plain = value is None or isinstance(value, Tensor | int | float | bool | str)
            expect(plain, f"its state '{name}' is a {type(value).__name__}, which a checkpoint (no pickle) cannot hold")
    resumed = subject.build(saved, weight_decay=0.1)
    resumed.load_state_dict(state)
    for _ in range(3):
        _step(parameters, optimizer)
        _step(saved, resumed)
    for name, parameter in parameters.items():
        expect(torch.equal(parameter, saved[name]), f"{name} differs after resuming")
    return "3 + 3 steps bit-identical"


OPTIMIZER_CHECKS: tuple[Check[OptimizerUnderCheck], ...] = (
    it_descends,
    it_obeys_the_learning_rate,
    it_resumes_exactly,
)
