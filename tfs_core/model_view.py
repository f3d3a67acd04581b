"""Read-only view of the model for loggers that observe it (implements `contracts.ModelView`)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tfs_core.contracts import Batch, Batching, LanguageModel, Tokenizer
from tfs_core.models import compute_context
from tfs_core.random_state import preserved_random_state


@dataclass(frozen=True, kw_only=True)
class StepView:
    """The model at one moment of one step. Parameters, gradients and updates have any shape."""

    step: int
    model: LanguageModel
    tokenizer: Tokenizer
    batching: Batching
    device: str
    micro_batches: Sequence[Batch]
    before: Mapping[str, Tensor] | None = None  # copies of the parameters before the update, at the moment "update"

    def parameters(self) -> Mapping[str, Tensor]:
        """Return all parameters by name, without their graph."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def gradients(self) -> Mapping[str, Tensor]:
        """Return the gradients by parameter name, after clipping. Parameters without a gradient are left out."""
        return {name: it.grad.detach() for name, it in self.model.named_parameters() if it.grad is not None}

    def updates(self) -> Mapping[str, Tensor]:
        """Return the change of each parameter in this step. Raises RuntimeError at any moment but "update"."""
        if self.before is None:
            raise RuntimeError('updates are available only at the moment "update"')
        return {name: now - self.before[name] for name, now in self.parameters().items()}

    @contextmanager
    def evaluating(self) -> Iterator[LanguageModel]:
        """Yield the model in eval mode, without gradients. On exit, restore the mode and all random states."""
        with evaluating(self.model):
            yield self.model

    def trace(self, input_ids: Tensor, points: Sequence[str]) -> Mapping[str, Tensor]:
        """Run a separate forward pass in eval mode, and return the outputs at `points`, by name.

        `input_ids` is int64 [batch_size, seq_len]. A point is "logits" or the name of a submodule; outputs that are not
        tensors are left out. Raises KeyError for a point that the model does not have.
        """
        modules = dict(self.model.named_modules()) if isinstance(self.model, nn.Module) else {}
        traced: dict[str, Tensor] = {}
        if unknown := [point for point in points if point != "logits" and point not in modules]:
            raise KeyError(f"the model has no {', '.join(unknown)}; it has logits, {', '.join(filter(None, modules))}")

        def keep(point: str, output: object) -> None:
            if isinstance(output, Tensor):
                traced[point] = output.detach()

        hooks = [
            modules[point].register_forward_hook(lambda _module, _inputs, output, point=point: keep(point, output))
            for point in points
            if point != "logits"
        ]
        try:
            with self.evaluating() as model, compute_context(model.config, self.device):
                logits = model.forward(input_ids.to(self.device))  # [batch_size, seq_len, vocab_size]
        finally:
            for hook in hooks:
                hook.remove()
        return {**traced, "logits": logits.detach()} if "logits" in points else traced


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Switch a model to eval mode and gradients off. On exit, restore the mode and all random states."""
    was_training = model.training
    model.eval()
    try:
        with preserved_random_state(), torch.no_grad():
            yield
    finally:
        model.train(was_training)
