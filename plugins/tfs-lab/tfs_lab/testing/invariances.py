"""Checks of invariances: later tokens, padding, other rows of the batch, arguments, and saved tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tfs_core.contracts import IGNORED_TARGET, LanguageModel
from tfs_core.models import compute_context
from tfs_lab.testing.gradients import gradients
from tfs_lab.testing.loss_checks import ROUNDING, close
from tfs_lab.testing.results import ErrorRule, Finding, check, conclude, expect
from tfs_lab.testing.small_model import SmallModel


@check("causality")
def logits_are_causal(subject: SmallModel) -> Finding:
    """Changing token t leaves the logits of every earlier position bit-identical, in float64 and bfloat16."""
    input_ids, _ = subject.batch()
    for dtype in ("float64", "bfloat16"):
        model = subject.build(dtype=dtype)
        model.eval()
        with compute_context(model.config, "cpu"):
            before = model.forward(input_ids)
            for position in range(subject.seq_len):
                changed = input_ids.clone()
                changed[:, position] = (changed[:, position] + 1) % subject.vocab_size
                after = model.forward(changed)
                seen = (after[:, :position] != before[:, :position]).any(dim=-1).any(dim=0).nonzero().flatten()
                expect(
                    not len(seen),
                    f"in {dtype}, changing the token at position {position} changes the logits at earlier positions "
                    f"{seen.tolist()}: they see the future",
                )
                expect(
                    not torch.equal(after[:, position], before[:, position]),
                    f"in {dtype}, changing the token at position {position} does not change the logits there",
                )
    return f"every one of {subject.seq_len} positions, in float64 and bfloat16"


@check("padding")
def padding_changes_nothing(subject: SmallModel) -> Finding:
    """Padding on the right with target -100 adds nothing to loss and gradients, for any ids in it."""
    model = subject.build()
    input_ids, target_ids = subject.batch(padded=False)
    kept = max(1, subject.seq_len // 2)
    padded = target_ids.clone()
    padded[:, kept:] = IGNORED_TARGET
    short_loss = model.loss(input_ids[:, :kept], target_ids[:, :kept])
    short = gradients(model, input_ids[:, :kept], target_ids[:, :kept])
    loss = model.loss(input_ids, padded)
    expect(
        close(loss, short_loss),
        f"{subject.seq_len - kept} padded positions made the loss {float(loss):.10g}; it was {float(short_loss):.10g}",
    )
    other_ids = input_ids.clone()
    other_ids[:, kept:] = (other_ids[:, kept:] + 1) % subject.vocab_size
    expect(
        torch.equal(model.loss(other_ids, padded), loss),
        "the loss depends on the ids in the padding",
    )
    rule = ErrorRule(rtol=ROUNDING, tiny=1e-3)
    comparisons = rule.compare_tensors("unpadded", gradients(model, input_ids, padded), short)
    return conclude(comparisons, "the same loss and gradients as without padding")


@check("batch invariance")
def rows_do_not_see_each_other(subject: SmallModel) -> Finding:
    """Logits of a row are bit-identical if the other rows change, and equal within rounding if the row is alone.

    With another number of rows, a matrix product may use another kernel, which sums in another order.
    """
    model = subject.build()
    model.eval()
    input_ids, _ = subject.batch()
    together = model.forward(input_ids)
    others = (input_ids + 1) % subject.vocab_size
    others[0] = input_ids[0]
    expect(
        torch.equal(model.forward(others)[0], together[0]),
        "the logits of row 0 change when the ids of the other rows do",
    )
    alone = model.forward(input_ids[:1])
    expect(close(alone, together[:1]), "the logits of a row alone differ from those in a batch by more than rounding")
    same = "bit-identical" if torch.equal(alone, together[:1]) else f"within {ROUNDING:.0e}"
    return f"other ids in the other rows: bit-identical; alone or in a batch of {subject.batch_size}: {same}"


@check("arguments are left alone")
def arguments_are_left_alone(subject: SmallModel) -> Finding:
    """`loss` and `backward` modify neither the ids, nor the targets, nor the parameters."""
    model = subject.build()
    input_ids, target_ids = subject.batch()
    held = {"input_ids": input_ids, "target_ids": target_ids, **dict(model.named_parameters())}
    copies = {name: tensor.detach().clone() for name, tensor in held.items()}
    model.train()
    model.loss(input_ids, target_ids)
    model.backward(1.0)
    for name, tensor in held.items():
        expect(torch.equal(tensor.detach(), copies[name]), f"{name} was changed by loss or backward")
    return "ids, targets and parameters are unchanged"


def held_tensors(owner: object) -> Iterator[Tensor]:
    """Iterate over the tensors reachable from an object's attributes, through containers and other objects.

    The tensors have any shape.
    """
    seen: set[int] = set()
    pending: list[Any] = [owner]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            pending.extend(value)
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            pending.extend(vars(value).values())
        elif hasattr(type(value), "__slots__"):
            pending.extend(getattr(value, name) for name in type(value).__slots__ if hasattr(value, name))


@check("eval keeps nothing")
def eval_keeps_nothing(subject: SmallModel) -> Finding:
    """In eval mode the model retains no tensor of the batch."""
    model = subject.build()
    model.eval()
    input_ids, target_ids = subject.batch()
    model.loss(input_ids, target_ids)  # the first call creates the tensors that a model caches
    before = list(held_tensors(model))
    model.loss(input_ids, target_ids)
    known = {id(tensor) for tensor in before}
    new = [tensor for tensor in held_tensors(model) if id(tensor) not in known]
    shapes = ", ".join(str(list(tensor.shape)) for tensor in new[:4])
    expect(not new, f"after a loss in eval mode the model still holds {len(new)} new tensors, of shape {shapes}")
    return "no new tensor after a loss"


class _Mutations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every tensor that is read, and every tensor that is modified in place after it was read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: set[int] = set()
        self.changed_after_read: dict[int, str] = {}  # memory address -> the operation, with file and line
        self._alive: list[Tensor] = []  # keeps the memory of each tensor, so that no address is reused

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        arguments = function._schema.arguments
        makes_view = any(argument.alias_info and not argument.alias_info.is_write for argument in arguments)
        values = [*args, *((kwargs or {}).get(argument.name) for argument in arguments[len(args) :])]
        for argument, value in zip(arguments, values, strict=True):
            is_written = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if not isinstance(tensor, Tensor):
                    continue
                self._alive.append(tensor)
                address = tensor.untyped_storage().data_ptr()
                if not is_written and not makes_view:
                    self.read.add(address)
                elif is_written and address in self.read:
                    self.changed_after_read[address] = f"'{function.overloadpacket.__name__}' at {_caller()}"
        return result


def _caller() -> str:
    """Return the file and line that called the running PyTorch operation."""
    frame: FrameType | None = sys._getframe(1)
    while frame and (frame.f_code.co_filename == __file__ or "torch" in Path(frame.f_code.co_filename).parts):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "an unknown place"


@check("kept tensors stay as they were")
def saved_tensors_are_unmodified(subject: SmallModel) -> Finding:
    """Tensors that forward saves for backward are not modified in place after their first use.

    `x += y` writes into a tensor that an earlier step may have saved: its backward would then read the new values.
    """
    model = subject.build()
    input_ids, target_ids = subject.batch()
    persistent = {tensor.untyped_storage().data_ptr() for tensor in held_tensors(model)}
    model.train()
    with _Mutations() as mutations:
        model.loss(input_ids, target_ids)
    saved = [t for t in held_tensors(model) if t.untyped_storage().data_ptr() not in persistent]
    for tensor in saved:
        operation = mutations.changed_after_read.get(tensor.untyped_storage().data_ptr())
        expect(
            operation is None,
            f"a saved tensor of shape {list(tensor.shape)} was changed in place by {operation} after its first use",
        )
    _check_unmodified_by_backward(model, saved)
    return f"{len(saved)} saved tensors"


def _check_unmodified_by_backward(model: LanguageModel, saved: list[Tensor]) -> None:
    """Fail when `backward` modifies a saved tensor, which may also be the output of another step."""
    versions = [tensor._version for tensor in saved]
    model.backward(1.0)
    for tensor, version in zip(saved, versions, strict=True):
        expect(tensor._version == version, f"backward modified a saved tensor of shape {list(tensor.shape)} in place")
