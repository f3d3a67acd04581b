"""Repeat a training step and record each module: outputs in the forward pass, and gradients in the backward pass.

Modules of PyTorch are recorded by hooks. Of a model with a hand-written backward pass, every part with the methods
`forward` and `backward` is recorded. A model that is one function has records of its loss and its parameters only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tfs_core.config.schema import Choice
from tfs_core.contracts import Batch, LanguageModel, WrapContext
from tfs_core.models import LossModule, Objective, batch_loss, build_model
from tfs_core.plugins import as_plugin_error
from tfs_core.random_state import preserved_random_state, restore_random_state
from tfs_core.ranks import OneRank
from tfs_core.trained import LoadedModel
from tfs_core.wrapping import build_wrappers, wrapped

SAMPLE_SIZE = 1 << 16
"""Number of elements of a tensor that are compared between number formats, divided by the number of micro-batches."""

Kind = Literal["output", "gradient", "parameter"]
Key = tuple[Kind, str, int, int]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A tensor of the step: a module's output, the gradient of one, or a parameter's gradient of the whole step."""

    kind: Kind
    name: str  # of the module or the parameter
    micro_batch: int
    call: int  # number of earlier records of this kind and name in this micro-batch
    finite: bool
    inputs_finite: bool | None  # of the module; None for gradients
    rows: tuple[int, ...]  # rows of the micro-batch with numbers that are not finite, if the tensor has a row for each
    largest: float  # largest absolute value; NaN if a number is not finite
    sample: Tensor  # float64 [at most SAMPLE_SIZE], on the CPU
    numel: int

    @property
    def key(self) -> Key:
        """The identity of the tensor, equal in all number formats."""
        return self.kind, self.name, self.micro_batch, self.call

    @property
    def norm(self) -> float:
        """The Euclidean norm of the tensor, estimated from the sample."""
        return self.norm_of(self.sample)

    def norm_of(self, sample: Tensor) -> float:
        """Return the norm of a tensor of the same size, estimated from a sample of its elements [n]."""
        return float(sample.norm()) * math.sqrt(self.numel / max(len(sample), 1))


@dataclass(frozen=True)
class RepeatedStep:
    """The result of a repeated step in one number format."""

    dtype: str
    loss: float  # nats per valid target
    grad_norm: float
    records: list[Record]  # in order of execution, the gradients of parameters last

    def first_nonfinite(self, kind: Kind) -> Record | None:
        """Return the first record of a kind with a number that is not finite, or None."""
        return next((record for record in self.records if record.kind == kind and not record.finite), None)

    def before(self, record: Record) -> Record | None:
        """Return the last record of the same kind and micro-batch before this one, or None."""
        of_kind = [it for it in self.records if (it.kind, it.micro_batch) == (record.kind, record.micro_batch)]
        place = of_kind.index(record)
        return of_kind[place - 1] if place else None


def repeat_step(
    loaded: LoadedModel, state: Mapping[str, Any], batches: Sequence[Batch], *, dtype: str, dropout: float
) -> RepeatedStep:
    """Build the model again with this dtype and dropout, and repeat the forward and backward passes of a step.

    `state` is the content of the bundle's `state.json`. The step starts from its random states. Raises PluginError when
    the model cannot compute the step in this dtype.
    """
    model, objective = _rebuilt(loaded, state, dtype=dtype, dropout=dropout)
    valid_targets = max(sum(batch.valid_targets for batch in batches), 1)
    recorder = _Recorder(SAMPLE_SIZE // len(batches))
    losses = []
    with (
        as_plugin_error(f"the model '{loaded.config.model.name}' cannot repeat the step in {dtype}"),
        preserved_random_state(),
        recorder.watching(model),
    ):
        restore_random_state(dict(state["random_state"]))
        for index, batch in enumerate(batches):
            recorder.begin(index, rows=len(batch.input_ids))
            loss = batch_loss(model, batch, loaded.device, objective)
            losses.append(float(loss))
            recorder.add("output", "(loss)", loss)
            recorder.in_backward = True
            objective.backward(1.0 / valid_targets)
        for name, parameter in reversed(list(model.named_parameters())):
            if parameter.grad is not None:
                recorder.add("parameter", name, parameter.grad)
        grad_norm = float(OneRank().finish_gradients([parameter for _, parameter in model.named_parameters()]))
    return RepeatedStep(dtype, math.fsum(losses) / valid_targets, grad_norm, recorder.records)


def _rebuilt(
    loaded: LoadedModel, state: Mapping[str, Any], *, dtype: str, dropout: float
) -> tuple[LanguageModel, Objective]:
    """Return the model of a bundle in training mode, with its adapters, for another dtype and dropout."""
    choice = loaded.config.model
    options = replace(choice.options, dtype=dtype, dropout=dropout)
    vocab_size, seed = loaded.tokenizer.vocab_size, loaded.config.seed
    model = build_model(Choice(choice.name, options), vocab_size=vocab_size, seed=seed, device=loaded.device)
    adapters = [wrapper for wrapper in build_wrappers(loaded.config.wrappers) if wrapper.changes_weights]
    context = WrapContext(model=model, model_name=choice.name, device=loaded.device, ranks=OneRank())
    module = wrapped(LossModule(model, loss_chunk=loaded.config.runtime.loss_chunk), adapters, context=context)
    OneRank().load(loaded.folder, model, None, state)
    return model, Objective(model, module)


class _Recorder:
    """Collects the records of one repeated step."""

    def __init__(self, sample_size: int) -> None:
        self.records: list[Record] = []
        self.in_backward = False
        self._sample_size = max(sample_size, 1)
        self._calls: Counter[tuple[str, str]] = Counter()
        self._micro_batch = self._rows = 0

    def begin(self, micro_batch: int, *, rows: int) -> None:
        """Begin the forward pass of a micro-batch with this number of rows."""
        self._micro_batch, self._rows, self.in_backward = micro_batch, rows, False
        self._calls.clear()

    @contextmanager
    def watching(self, model: LanguageModel) -> Iterator[None]:
        """Record all modules of a model inside the block (context manager)."""
        with ExitStack() as stack:
            if isinstance(model, nn.Module):
                for name, module in model.named_modules():
                    stack.callback(module.register_forward_hook(self._hook(name or "(model)"), with_kwargs=True).remove)
            else:
                for name, part in _parts_by_hand(model):
                    self._watch_by_hand(name, part)
            yield

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            if self.in_backward:  # activation checkpointing computes the forward pass again
                return
            for tensor in self.outputs(name, output, (inputs, named)):
                if tensor.requires_grad:
                    tensor.register_hook(partial(self.add, "gradient", name))  # type: ignore[no-untyped-call]

        return hook

    def _watch_by_hand(self, name: str, part: Any) -> None:
        """Replace the methods of a part, which belongs to this step alone, by ones that record."""
        forward, backward = part.forward, part.backward

        def recorded_forward(*inputs: Any, **named: Any) -> Any:
            output = forward(*inputs, **named)
            self.outputs(name, output, (inputs, named))
            return output

        def recorded_backward(*gradients: Any, **named: Any) -> Any:
            for gradient in _floats((gradients, named)):
                self.add("gradient", name, gradient)
            return backward(*gradients, **named)

        part.forward, part.backward = recorded_forward, recorded_backward

    def outputs(self, name: str, output: Any, inputs: Any) -> list[Tensor]:
        """Record the tensors of a module's output, and return them, in any shape."""
        tensors = _floats(output)
        inputs_finite = all(bool(torch.isfinite(it).all()) for it in _floats(inputs))
        for tensor in tensors:
            self.add("output", name, tensor, inputs_finite=inputs_finite)
        return tensors

    def add(self, kind: Kind, name: str, tensor: Tensor, *, inputs_finite: bool | None = None) -> None:
        """Record a tensor of any shape."""
        values = tensor.detach()
        finite = torch.isfinite(values)
        rows: tuple[int, ...] = ()
        if kind != "parameter" and values.dim() > 1 and len(values) == self._rows:
            rows = tuple((~finite.flatten(1).all(1)).nonzero().flatten().tolist())
        flat = values.flatten()
        # An odd distance between the elements does not divide the powers of 2 that sizes usually are.
        sample = flat[:: max(1, len(flat) // self._sample_size) | 1].cpu().to(torch.float64)
        self.records.append(
            Record(
                kind=kind,
                name=name,
                micro_batch=self._micro_batch,
                call=self._calls[kind, name],
                finite=bool(finite.all()),
                inputs_finite=inputs_finite,
                rows=rows,
                largest=float(values.abs().max()) if len(flat) else 0.0,
                sample=sample,
                numel=len(flat),
            )
        )
        self._calls[kind, name] += 1


def _floats(value: Any) -> list[Tensor]:
    """Return the tensors of real numbers, of any shape, in a value, also in tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return [tensor for item in value for tensor in _floats(item)] if isinstance(value, tuple | list) else []


def _parts_by_hand(model: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over (name, part): the attributes of a model with `forward` and `backward`, in lists and nested too."""
    for name, value in list(vars(model).items()):
        parts = {f"{prefix}{name}.{i}": it for i, it in enumerate(value)} if isinstance(value, list) else {}
        for part_name, part in (parts or {f"{prefix}{name}": value}).items():
            if callable(getattr(part, "forward", None)) and callable(getattr(part, "backward", None)):
                yield part_name, part
                yield from _parts_by_hand(part, f"{part_name}.")
