"""Checks of each hand-written operation by itself, to locate the cause of a wrong gradient of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tfs_core.contracts import LanguageModel, Operation, SupportsOperationChecks
from tfs_lab.testing.gradients import AUTOGRAD_RULE, DROPOUT_SEED, compare_with_differences
from tfs_lab.testing.invariances import held_tensors
from tfs_lab.testing.results import Comparison, Finding, NotApplicable, check, conclude, expect, norm_of
from tfs_lab.testing.small_model import SmallModel


def compare_operation(operation: Operation, *, seed: int = 0) -> list[Comparison]:
    """Compare every gradient that `backward` returns with autograd of `forward` and with central differences.

    The loss is the sum of the output times random weights, so that the weights are the gradient of the output.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = dict(operation.inputs)
    differentiable = [name for name, value in inputs.items() if _is_differentiable(value)]

    with torch.no_grad():
        output, cache = _forward(operation, inputs)
        grad_output = torch.randn(output.shape, generator=generator, dtype=output.dtype)
        found = dict(zip(differentiable, _backward(operation, grad_output, cache, len(differentiable)), strict=True))
    for name, gradient in found.items():
        shape = list(inputs[name].shape)
        expect(
            list(gradient.shape) == shape,
            f"{operation.name}: the gradient of {name} has shape {list(gradient.shape)}, the input has {shape}",
        )

    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in differentiable}
    with torch.enable_grad():
        output, _ = _forward(operation, {**inputs, **leaves})
        expected = torch.autograd.grad(output, list(leaves.values()), grad_output, allow_unused=True)
    reference = {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), expected, strict=True)
    }
    comparisons = AUTOGRAD_RULE.compare_tensors("autograd", found, reference)

    moved = {**inputs, **{name: inputs[name].detach().clone() for name in differentiable}}

    def loss() -> float:
        with torch.no_grad():
            return float((_forward(operation, moved)[0] * grad_output).sum())

    whole = norm_of(found.values())
    for name, gradient in found.items():
        comparisons.append(
            compare_with_differences(name, gradient, moved[name], loss, whole=whole, generator=generator)
        )
    return [replace(comparison, name=f"{label(operation)}: {comparison.name}") for comparison in comparisons]


def label(operation: Operation) -> str:
    """Return the operation's name with its inputs that are not tensors: `gelu(form=tanh)`."""
    options = [f"{name}={value}" for name, value in operation.inputs.items() if not isinstance(value, Tensor)]
    return f"{operation.name}({', '.join(options)})" if options else operation.name


def modified_tensors(operation: Operation) -> list[str]:
    """Return a sentence for each tensor that forward or backward wrongly modified: inputs, cache, `grad_output`."""
    inputs = {name: value.clone() if isinstance(value, Tensor) else value for name, value in operation.inputs.items()}
    with torch.no_grad():
        versions = {name: value._version for name, value in inputs.items() if isinstance(value, Tensor)}
        torch.manual_seed(DROPOUT_SEED)
        output, cache = operation.forward(*inputs.values())
        changed = [f"forward changed its input {name}" for name in versions if inputs[name]._version != versions[name]]
        kept = list(held_tensors(cache))
        before = [tensor._version for tensor in kept]
        copies = [tensor.clone() for tensor in kept]
        grad_output = torch.ones_like(output)
        _backward(operation, grad_output, cache, sum(_is_differentiable(value) for value in inputs.values()))
        for tensor, version, copied in zip(kept, before, copies, strict=True):
            if tensor._version != version or not torch.equal(tensor, copied):
                changed.append(f"backward changed a cached tensor of shape {list(tensor.shape)}")
        if not torch.equal(grad_output, torch.ones_like(output)):
            changed.append("backward changed grad_output")
    return changed


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _forward(operation: Operation, inputs: Mapping[str, Any]) -> tuple[Tensor, Any]:
    """Return the result of forward on copies of the inputs, so that in-place changes do not affect other calls."""
    torch.manual_seed(DROPOUT_SEED)
    return operation.forward(*(value.clone() if isinstance(value, Tensor) else value for value in inputs.values()))


def _backward(operation: Operation, grad_output: Tensor, cache: Any, count: int) -> Sequence[Tensor]:
    gradients = operation.backward(grad_output, cache)
    gradients = (gradients,) if isinstance(gradients, Tensor) else tuple(gradients)
    expect(len(gradients) == count, f"{operation.name}: {len(gradients)} gradients for {count} floating-point inputs")
    return gradients


def operations_of(model: LanguageModel) -> Sequence[Operation]:
    """Return the model's operations in forward order. Raises NotApplicable for a model without `operations()`."""
    if not isinstance(model, SupportsOperationChecks):
        raise NotApplicable("the model offers no operations to check one by one")
    return model.operations()


@check("each operation")
def operation_gradients_are_correct(subject: SmallModel) -> Finding:
    """Every hand-written backward equals autograd and central differences of its forward."""
    operations = operations_of(subject.build())
    comparisons = [line for operation in operations for line in compare_operation(operation, seed=subject.seed)]
    return conclude(comparisons, f"{len(comparisons)} gradients of {len(operations)} operations", independent=True)


@check("operations leave their inputs alone")
def operations_keep_what_they_cached(subject: SmallModel) -> Finding:
    """No operation modifies its inputs, and no backward modifies the cache or the gradient of the output."""
    operations = operations_of(subject.build())
    changed = [f"{label(operation)}: {what}" for operation in operations for what in modified_tensors(operation)]
    expect(not changed, "; ".join(changed))
    return f"{len(operations)} operations"
