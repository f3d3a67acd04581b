"""Checks of gradients against autograd and against central differences. A falling loss proves nothing.

`input_ids` and `target_ids` are int64 [batch_size, seq_len], and a loss is a tensor without dimensions: []. Parameters
have any shape, and a gradient has the shape of its parameter.

Autograd applies the chain rule to the model's own forward. Central differences use no rule: they move the weights a
little and measure the slope of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfs_core.contracts import IGNORED_TARGET, LanguageModel
from tfs_core.models import Objective
from tfs_lab.testing.results import Comparison, ErrorRule, Finding, NotApplicable, check, conclude, expect, norm_of
from tfs_lab.testing.small_model import SmallModel

AUTOGRAD_RULE = ErrorRule(rtol=1e-9, tiny=1e-4)
"""Two orders of summation in float64 differ by about 1e-15 of the largest term."""

DIFFERENCES_RULE = ErrorRule(rtol=1e-6, tiny=1e-3)
"""A difference of two losses has an error of about 1e-11, which limits the accuracy for very small gradients."""

STEPS = (1e-3, 1e-4, 1e-5)
"""The step sizes of the differences. Smaller steps are for losses with kinks (ReLU): the first may cross a kink."""

DIRECTIONS = 3
COORDINATES = 4
DROPOUT = 0.25
DROPOUT_SEED = 5


def gradients(model: LanguageModel, input_ids: Tensor, target_ids: Tensor, *, scale: float = 1.0) -> dict[str, Tensor]:
    """Reset the gradients, call `loss` and `backward(scale)`, and return the `.grad` of every trainable parameter."""
    parameters = trainable(model)
    for parameter in parameters.values():
        parameter.grad = None
    model.train()
    torch.manual_seed(DROPOUT_SEED)
    model.loss(input_ids, target_ids)
    model.backward(scale)
    return collected_gradients(parameters)


def loss_and_gradients(model: LanguageModel, module: nn.Module, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the training-mode loss of a module wrapped around a model, and the gradients of the model's parameters."""
    objective, parameters = Objective(model, module), trainable(model)
    for parameter in parameters.values():
        parameter.grad = None
    model.train()
    module.train()
    torch.manual_seed(DROPOUT_SEED)
    loss = objective.loss(*inputs)
    objective.backward(1.0)
    return loss, collected_gradients(parameters)


def trainable(model: LanguageModel) -> dict[str, Tensor]:
    """Return the parameters that require a gradient; for a model without autograd, all parameters."""
    parameters = dict(model.named_parameters())
    learning = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    return learning or parameters


def collected_gradients(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of every `.grad`. The check fails when one is missing, not finite, or of another shape."""
    found = {}
    for name, parameter in parameters.items():
        gradient = parameter.grad
        if gradient is None:
            expect(False, f"{name} got no gradient: .grad is None after backward")
            continue
        expect(
            gradient.shape == parameter.shape,
            f"the gradient of {name} has shape {list(gradient.shape)}, the parameter has {list(parameter.shape)}",
        )
        expect(bool(gradient.isfinite().all()), f"the gradient of {name} is not finite")
        found[name] = gradient.detach().clone()
    return found


def cross_entropy(logits: Tensor, target_ids: Tensor) -> Tensor:
    """Return PyTorch's cross-entropy, summed over the valid targets (nats): [].

    `logits` are [batch_size, seq_len, vocab_size], `target_ids` [batch_size, seq_len].
    """
    return F.cross_entropy(logits.flatten(0, 1), target_ids.flatten(), ignore_index=IGNORED_TARGET, reduction="sum")


def autograd_gradients(model: LanguageModel, input_ids: Tensor, target_ids: Tensor) -> dict[str, Tensor] | None:
    """Return autograd's gradients of the cross-entropy of the model's logits, or None if `forward` builds no graph."""
    model.train()
    torch.manual_seed(DROPOUT_SEED)
    with torch.enable_grad():
        logits = model.forward(input_ids)
        if not logits.requires_grad:
            return None
        parameters = trainable(model)
        found = torch.autograd.grad(cross_entropy(logits, target_ids), list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
    }


def slope(loss: Callable[[], float], tensor: Tensor, direction: Tensor, step: float) -> float:
    """Return the derivative of `loss()` when `tensor` moves along `direction`, and restore the tensor.

    Richardson extrapolation: two central differences, the second with twice the step, are combined so that the third
    derivative cancels. The remaining error is of order step ** 4, plus the rounding error of the loss over `step`.
    """
    original = tensor.detach().clone()

    def loss_at(distance: float) -> float:
        with torch.no_grad():
            tensor.copy_(original + distance * direction)
        return loss()

    try:
        near = loss_at(step) - loss_at(-step)
        far = loss_at(2 * step) - loss_at(-2 * step)
    finally:
        with torch.no_grad():
            tensor.copy_(original)
    return (8 * near - far) / (12 * step)


def compare_with_differences(
    name: str,
    gradient: Tensor,
    tensor: Tensor,
    loss: Callable[[], float],
    *,
    whole: float,
    generator: torch.Generator,
    directions: int = DIRECTIONS,
    coordinates: int = COORDINATES,
) -> Comparison:
    """Compare one gradient with central differences of `loss()`, which depends on `tensor`.

    A small tensor is measured element by element. In a larger one, the elements with the largest gradients and a
    random sample are measured, and then random directions of +1 and -1. Every element contributes to each direction, so
    the mean square of the directions' errors is, on average, the square of the norm of the whole error.
    """
    norm = norm_of([gradient])
    tolerance = DIFFERENCES_RULE.rtol * max(norm, DIFFERENCES_RULE.tiny * whole)

    def error_along(direction: Tensor) -> float:
        errors = []
        for step in STEPS:
            errors.append(abs(slope(loss, tensor, direction, step) - float((gradient * direction).sum())))
            if errors[-1] <= tolerance / max(1, gradient.numel()) ** 0.5:
                break
        return min(errors)

    elements = gradient.numel()
    if elements <= directions + coordinates:
        chosen = list(range(elements))
        directions = 0
    else:
        largest = gradient.abs().flatten().topk(coordinates // 2).indices.tolist()
        sampled = torch.randperm(elements, generator=generator)[: coordinates - len(largest)].tolist()
        chosen = sorted({*largest, *sampled})
    squares = []
    for index in chosen:
        direction = torch.zeros_like(gradient)
        direction.view(-1)[index] = 1.0
        squares.append(error_along(direction) ** 2)
    along = []
    for _ in range(directions):
        signs = torch.randint(2, gradient.shape, generator=generator).to(gradient.dtype) * 2 - 1
        along.append(error_along(signs / elements**0.5) ** 2 * elements)
    error = max(sum(squares), sum(along) / len(along) if along else 0.0) ** 0.5
    return DIFFERENCES_RULE.compare(name, "differences", error=error, norm=norm, whole=whole)


def _against_differences(subject: SmallModel, *, dropout: float, directions: int, coordinates: int) -> list[Comparison]:
    model = subject.build(dropout=dropout)
    input_ids, target_ids = subject.batch()
    found = gradients(model, input_ids, target_ids)
    whole = norm_of(found.values())
    generator = torch.Generator().manual_seed(subject.seed)

    def loss() -> float:
        torch.manual_seed(DROPOUT_SEED)  # the same dropout mask in every call
        return model.loss(input_ids, target_ids).item()

    return [
        compare_with_differences(
            name,
            found[name],
            parameter,
            loss,
            whole=whole,
            generator=generator,
            directions=directions,
            coordinates=coordinates,
        )
        for name, parameter in trainable(model).items()
    ]


@check("gradients against autograd")
def gradients_against_autograd(subject: SmallModel) -> Finding:
    """The gradient of every parameter equals autograd's gradient of the model's own forward."""
    model = subject.build()
    input_ids, target_ids = subject.batch()
    expected = autograd_gradients(model, input_ids, target_ids)
    if expected is None:
        raise NotApplicable("the model's forward builds no autograd graph")
    found = gradients(model, input_ids, target_ids)
    comparisons = AUTOGRAD_RULE.compare_tensors("autograd", found, expected)
    return conclude(comparisons, f"{len(comparisons)} gradients agree to {_worst(comparisons)}")


@check("gradients against differences")
def gradients_against_differences(subject: SmallModel) -> Finding:
    """The gradient of every parameter equals the slope of the loss, measured by central differences."""
    comparisons = _against_differences(subject, dropout=0.0, directions=DIRECTIONS, coordinates=COORDINATES)
    return conclude(comparisons, f"{len(comparisons)} gradients agree to {_worst(comparisons)}")


@check("gradients with dropout")
def gradients_with_dropout(subject: SmallModel) -> Finding:
    """The gradient of every parameter equals the slope of the loss also with dropout on, under one fixed mask."""
    model = subject.build(dropout=DROPOUT)
    input_ids, target_ids = subject.batch()
    losses = set()
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        losses.add(model.loss(input_ids, target_ids).item())
    if len(losses) == 1:
        raise NotApplicable("dropout changes nothing in this model's loss")
    expect(len(losses) == 2, "the dropout mask does not follow torch's random state: the same seed gave two losses")
    comparisons = _against_differences(subject, dropout=DROPOUT, directions=1, coordinates=0)
    return conclude(comparisons, f"{len(comparisons)} gradients agree to {_worst(comparisons)}")


def _worst(comparisons: list[Comparison]) -> str:
    return f"{max(comparison.relative for comparison in comparisons):.1e}"
