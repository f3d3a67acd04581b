"""Checks of parity: two models with the same weights are the same function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from tfs_core.contracts import LanguageModel
from tfs_lab.testing.gradients import AUTOGRAD_RULE, DROPOUT, DROPOUT_SEED, gradients
from tfs_lab.testing.results import Check, CheckResult, ErrorRule, Finding, NotApplicable, check, conclude, expect
from tfs_lab.testing.small_model import SmallModel

OPTIMIZER_STEPS = 10

STEPS_RULE = ErrorRule(rtol=1e-8, tiny=1e-3)
"""Adam divides a gradient by its own magnitude, which amplifies rounding noise in gradients near zero."""


class Mirrored(NamedTuple):
    """A model and its mirror, which should have the same function and parameter names."""

    model: SmallModel
    other: SmallModel

    def pair(self, *, dropout: float = 0.0) -> tuple[LanguageModel, LanguageModel]:
        """Return both models with the weights of the first."""
        model, other = self.model.build(dropout=dropout), self.other.build(dropout=dropout)
        other.load_state_dict({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
        return model, other


@check("parity: parameters")
def same_parameters(mirrored: Mirrored) -> Finding:
    """Both models have the same parameter names in the same order, the same shapes, and the same initial values."""
    mine = dict(mirrored.model.build(shake=0.0).named_parameters())
    theirs = dict(mirrored.other.build(shake=0.0).named_parameters())
    difference = sorted(set(mine) ^ set(theirs))
    expect(not difference, f"only one of the two has: {', '.join(difference)}")
    expect(list(mine) == list(theirs), "the names are the same, their order is not")
    for name, tensor in mine.items():
        shape = list(theirs[name].shape)
        expect(list(tensor.shape) == shape, f"{name} has shape {list(tensor.shape)} here and {shape} there")
        expect(torch.equal(tensor, theirs[name]), f"{name} has other initial values for the same seed")
    return f"{len(mine)} names, shapes and initial values are the same"


@check("parity: logits and loss")
def same_logits_and_loss(mirrored: Mirrored) -> Finding:
    """The same weights give the same logits and the same loss."""
    model, other = mirrored.pair()
    input_ids, target_ids = mirrored.model.batch()
    found = {"logits": model.forward(input_ids).detach(), "loss": model.loss(input_ids, target_ids).detach()}
    expected = {"logits": other.forward(input_ids).detach(), "loss": other.loss(input_ids, target_ids).detach()}
    comparisons = [
        line
        for name in found
        for line in AUTOGRAD_RULE.compare_tensors(mirrored.other.name, {name: found[name]}, {name: expected[name]})
    ]
    return conclude(comparisons, ", ".join(f"{line.name} agree to {line.relative:.1e}" for line in comparisons))


@check("parity: gradients")
def same_gradients(mirrored: Mirrored) -> Finding:
    """The same weights and batch give the same gradient of every parameter."""
    model, other = mirrored.pair()
    batch = mirrored.model.batch()
    expected = gradients(other, *batch)
    comparisons = AUTOGRAD_RULE.compare_tensors(mirrored.other.name, gradients(model, *batch), expected)
    worst = max(line.relative for line in comparisons)
    return conclude(comparisons, f"{len(comparisons)} gradients agree to {worst:.1e}")


@check("parity: gradients with dropout")
def same_gradients_with_dropout(mirrored: Mirrored) -> Finding:
    """The same random state drops the same activations in both models, and the gradients are the same."""
    model, other = mirrored.pair(dropout=DROPOUT)
    batch = mirrored.model.batch()
    losses = []
    for either in (model, other):
        torch.manual_seed(DROPOUT_SEED)
        losses.append(float(either.loss(*batch)))
    if losses[0] == float(mirrored.pair()[0].loss(*batch)):
        raise NotApplicable("dropout changes nothing in this model's loss")
    comparisons = AUTOGRAD_RULE.compare_tensors(mirrored.other.name, gradients(model, *batch), gradients(other, *batch))
    return conclude(comparisons, f"losses {losses[0]:.6f} and {losses[1]:.6f}, {len(comparisons)} gradients agree")


@check("parity: optimizer steps")
def same_after_optimizer_steps(mirrored: Mirrored) -> Finding:
    """Ten steps of AdamW on the same batches give the same weights."""
    models = mirrored.pair()
    for model in models:
        parameters = [parameter for _, parameter in model.named_parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)
        for step in range(OPTIMIZER_STEPS):
            optimizer.zero_grad(set_to_none=True)
            model.loss(*mirrored.model.batch(seed=step))
            model.backward(0.1)
            optimizer.step()
    found, expected = ({name: tensor.detach() for name, tensor in model.named_parameters()} for model in models)
    comparisons = STEPS_RULE.compare_tensors(mirrored.other.name, found, expected)
    worst = max(line.relative for line in comparisons)
    return conclude(comparisons, f"after {OPTIMIZER_STEPS} steps the weights agree to {worst:.1e}")


PARITY_CHECKS: tuple[Check[Mirrored], ...] = (
    same_parameters,
    same_logits_and_loss,
    same_gradients,
    same_gradients_with_dropout,
    same_after_optimizer_steps,
)


def check_parity(model: SmallModel, other: SmallModel) -> Iterator[CheckResult]:
    """Yield the result of each check that two models are the same function."""
    for parity_check in PARITY_CHECKS:
        yield parity_check(Mirrored(model, other))
