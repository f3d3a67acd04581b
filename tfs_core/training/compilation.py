"""`runtime.compile`: a model's loss compiled by `torch.compile`, and computed as without it from the first failure on.

Only the loss is compiled, in training and in validation. A compiler can fail in many ways, on a machine that has none
for C++ to begin with. A failure when it is tried out, or in a later forward pass, stops no run: it goes on without, and
says why.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tfs_core.config.schema import RunConfig
from tfs_core.contracts import LanguageModel
from tfs_core.data.batches import Batch
from tfs_core.errors import in_short
from tfs_core.models import AutogradModel, check_input_ids
from tfs_core.training.batch_loss import batch_loss
from tfs_core.training.random_state import random_state_kept
from tfs_core.training.resume import Origin


class LossModule(nn.Module):
    """A model's loss as a module of its own, which calls the model: whatever wraps a module wraps this one."""

    def __init__(self, model: AutogradModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the sum of nats over the valid targets, with its graph."""
        return self.model.sum_of_nats(input_ids, target_ids, document_ids)


class CompiledLoss:
    """What an `AutogradModel` computes its loss by: the compiled one, until that fails for the first time."""

    def __init__(self, model: AutogradModel, *, lengths_vary: bool, gave_up: Callable[[str], None]) -> None:
        self.model = model
        self.gave_up = gave_up
        self.for_training = _compiled(model, sizes_vary=lengths_vary)
        self.for_validation = _compiled(model, sizes_vary=True)  # its last batch may have fewer rows

    def __call__(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the sum of nats over the valid targets, with its graph."""
        model = self.model
        check_input_ids(input_ids, vocab_size=model.vocab_size, context_limit=model.context_limit)
        compiled = self.for_training if model.training else self.for_validation
        try:
            return compiled(input_ids, target_ids, document_ids)
        except Exception as error:  # compilers raise anything; what is wrong with the batch is raised again below
            self.gave_up(in_short(error))
            return model.sum_of_nats(input_ids, target_ids, document_ids)


def _compiled(model: AutogradModel, *, sizes_vary: bool) -> Callable[..., Tensor]:
    """Return the loss, to be compiled when it is first called: for all sizes, or for those of the call.

    In one graph or not at all: what is compiled in parts is slow, and nobody would know.
    """
    compiled: Callable[..., Tensor] = torch.compile(LossModule(model), fullgraph=True, dynamic=sizes_vary or None)
    return compiled


class Compilation:
    """What becomes of `runtime.compile` in a run."""

    def __init__(
        self, model: LanguageModel, config: RunConfig, origin: Origin | None, report: Callable[[str], None]
    ) -> None:
        self.report = report  # told in a sentence what happens
        self.in_force = False
        self.failure: str | None = None  # what to say of it
        self.how: dict[str, str] = {}  # what run.json says
        self._model = model
        self._started_at = time.perf_counter()
        if not config.runtime.compile:
            return
        if not isinstance(model, AutogradModel):
            self.give_up(f"the model '{config.model.name}' has a backward of its own")
        elif origin is not None and origin.config.runtime.compile and not origin.state["machine"].get("compiled"):
            self.give_up("the run began without, and goes on so")
        else:
            self.in_force = True
            self.report("compiling the loss: once, a minute or two before the first step ...")
            model.wrapped_loss = CompiledLoss(
                model, lengths_vary=config.data.batching == "padded", gave_up=self.give_up
            )

    def try_out(self, batch: Batch, device: str) -> None:
        """Compile for training and for validation, on a real batch. Leaves behind nothing but what is compiled."""
        if not self.in_force:
            return
        model = self._model
        with random_state_kept():
            model.eval()
            batch_loss(model, batch, device)
            model.train()
            batch_loss(model, batch, device)
            try:
                model.backward(1.0)
            except Exception as error:  # as above; a backward that fails without the compiler fails at the first step
                self.give_up(in_short(error))
        for _, parameter in model.named_parameters():
            parameter.grad = None
        if self.in_force:
            seconds = time.perf_counter() - self._started_at
            self.how = {"compile": f"configured: took {seconds:.0f} s"}
            self.report(f"the loss is compiled (once, {seconds:.0f} s)")

    def give_up(self, reason: str) -> None:
        """Compute the loss as without the compiler from now on, and say why."""
        self.in_force = False
        self.how = {"compile": f"not compiled: {reason}"}
        if isinstance(self._model, AutogradModel):
            self._model.wrapped_loss = None
        self.failure = f"the loss is not compiled, and steps take longer: {reason}"
        self.report(self.failure)
