"""`runtime.compile`: the loss compiled by `torch.compile`, with a fallback to the eager loss at the first failure.

Only the loss is compiled, for training and for validation; the optimizer is not. Compilation can fail in many ways; on
many machines there is no C++ compiler. When it fails in the trial at the start, or in a later forward pass, the run
continues with the eager loss and reports the reason. A failure in a backward pass after the trial, such as for a
new shape, ends the run.
"""

import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from tfs_core.contracts import WrapContext
from tfs_core.errors import short_message
from tfs_core.models import AutogradModel, Objective, batch_loss, check_input_ids, has_autograd_loss
from tfs_core.random_state import preserved_random_state


class CompiledLoss(nn.Module):
    """A loss compiled for training and for validation. After the first failure of either, the eager loss is used."""

    def __init__(
        self, loss: nn.Module, model: AutogradModel, *, lengths_vary: bool, on_failure: Callable[[str], None]
    ) -> None:
        """Set up `torch.compile`, which compiles at the first call. `on_failure` is called once, with the reason."""
        super().__init__()
        self.loss = loss
        self.in_force = True
        self._model = (model,)  # in a tuple, like the compiled versions in a dict: not a submodule
        self._on_failure = on_failure
        # fullgraph: a loss compiled in several graphs is slow, without any message.
        self._compiled: dict[bool, Callable[..., Tensor]] = {
            True: torch.compile(loss, fullgraph=True, dynamic=lengths_vary or None),  # in training
            False: torch.compile(loss, fullgraph=True, dynamic=True),  # the last validation batch may have fewer rows
        }

    def forward(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the loss in nats, summed over the valid targets, with its autograd graph: [].

        All arguments are int64 [batch_size, seq_len].
        """
        (model,) = self._model
        tensors = (input_ids, target_ids) if document_ids is None else (input_ids, target_ids, document_ids)
        if self.in_force:
            check_input_ids(input_ids, vocab_size=model.vocab_size, context_limit=model.context_limit)
            try:
                return self._compiled[model.training](*tensors)
            except Exception as error:  # a compiler may raise anything; an error of the batch is raised again below
                self.give_up(short_message(error))
        loss: Tensor = self.loss(*tensors)
        return loss

    def give_up(self, reason: str) -> None:
        """Use the eager loss from now on."""
        self.in_force = False
        self._on_failure(reason)


class Compile:
    """The wrapper `compile`."""

    stage: Literal["compile"] = "compile"
    changes_weights = False

    def wrap(self, loss: nn.Module, *, context: WrapContext) -> nn.Module:
        """Return the compiled loss, or `loss` itself if it is not compiled.

        Not compiled: the model has its own backward, the trial fails, or a resumed run started without compiling.
        """

        def on_failure(reason: str) -> None:
            context.record(compiled=False, why={"compile": f"not compiled: {reason}"})
            context.warn(f"the loss is not compiled, and steps take longer: {reason}")

        model = context.model
        if not has_autograd_loss(model):
            on_failure(f"the model '{context.model_name}' has a backward of its own")
            return loss
        if context.recorded.get("compiled") is False:
            on_failure("the run started without compiling, and a resumed run keeps that")
            return loss
        context.report("compiling the loss: once, a minute or two before the first step ...")
        started_at = time.perf_counter()
        compiled = CompiledLoss(loss, model, lengths_vary=context.lengths_vary, on_failure=on_failure)
        _try_out(compiled, model, context)
        if compiled.in_force:
            seconds = time.perf_counter() - started_at
            context.record(compiled=True, why={"compile": f"configured: took {seconds:.0f} s"})
            context.report(f"the loss is compiled (once, {seconds:.0f} s)")
        return compiled if compiled.in_force else loss


def build(config: None) -> Compile:  # noqa: ARG001 (it has no options)
    """Return the wrapper; it has no options."""
    return Compile()


def _try_out(compiled: CompiledLoss, model: AutogradModel, context: WrapContext) -> None:
    """Compile for validation and training, on a real batch. Random states are restored, gradients reset to None."""
    batch = context.trial_batch
    if batch is None:
        return
    objective = Objective(model, compiled)
    was_training = model.training
    with preserved_random_state():
        model.eval()
        batch_loss(model, batch, context.device, objective)
        model.train()
        batch_loss(model, batch, context.device, objective)
        try:
            objective.backward(1.0)
        except Exception as error:  # as above; a backward that also fails uncompiled fails at the first step
            compiled.give_up(short_message(error))
    model.train(was_training)
    for parameter in model.parameters():
        parameter.grad = None
