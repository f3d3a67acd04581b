"""Conformance checks for wrappers: the wrapped loss has the same value and the same gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tfs_core.contracts import Batch, ModelConfig, WrapContext, Wrapper
from tfs_core.models import AutogradModel, LossModule, Objective
from tfs_core.ranks import OneRank
from tfs_core.wrapping import STAGES
from tfs_lab.testing.chosen import chosen
from tfs_lab.testing.gradients import loss_and_gradients
from tfs_lab.testing.loss_checks import ROUNDING, close
from tfs_lab.testing.results import Check, ErrorRule, Finding, check, conclude, expect
from tfs_lab.testing.small_model import SmallModel

WIDTH = 8


class ExampleModel(AutogradModel):
    """A model to wrap: an embedding, two blocks in an nn.ModuleList, and an output projection."""

    def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.table = nn.Embedding(vocab_size, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 3 * WIDTH), nn.GELU(), nn.Linear(3 * WIDTH, WIDTH)) for _ in range(2)
        )
        self.output = nn.Linear(WIDTH, vocab_size)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of each next id."""
        x = self.table(input_ids)  # [batch_size, seq_len, width]
        for block in self.blocks:
            x = x + block(x)  # [batch_size, seq_len, width]
        return self.output(x)


EXAMPLE_MODEL = SmallModel(name="tfs_lab's ExampleModel", factory=ExampleModel, config=ModelConfig(max_seq_len=11))


@dataclass(frozen=True)
class WrapperUnderCheck:
    """A wrapper by its name and options, and the model to wrap."""

    name: str
    options: Mapping[str, Any]
    model: SmallModel = EXAMPLE_MODEL

    def build(self) -> Wrapper:
        """Return the wrapper."""
        component = chosen("wrapper", self.name, self.options)
        wrapper: Wrapper = component.factory(component.config)
        return wrapper

    def wrapped(self) -> tuple[Any, nn.Module, list[str]]:
        """Return a new model, the module around its loss, and the warnings of the wrapper."""
        model, warnings = self.model.build(), list[str]()
        input_ids, target_ids = self.model.batch()
        context = WrapContext(
            model=model,
            model_name=self.model.name,
            device="cpu",
            ranks=OneRank(),
            trial_batch=Batch(input_ids, target_ids, int((target_ids >= 0).sum())),
            lengths_vary=True,
            warn=warnings.append,
        )
        return model, self.build().wrap(LossModule(model), context=context), warnings


@check("stage")
def the_stage_is_known(subject: WrapperUnderCheck) -> Finding:
    """`stage` is a known stage, and `changes_weights` is True for a wrapper that changes the set of parameters."""
    wrapper = subject.build()
    expect(isinstance(wrapper, Wrapper), "it lacks `stage`, `changes_weights` or `wrap`")
    expect(wrapper.stage in STAGES, f"its stage is {wrapper.stage!r}, not one of {', '.join(STAGES)}")
    expect(isinstance(wrapper.changes_weights, bool), f"`changes_weights` is {wrapper.changes_weights!r}, not a bool")
    plain = {name: list(tensor.shape) for name, tensor in subject.model.build().named_parameters()}
    wrapped = {name: list(tensor.shape) for name, tensor in subject.wrapped()[0].named_parameters()}
    expect(wrapper.changes_weights or wrapped == plain, "it changes the parameters: `changes_weights` must be True")
    return f"{wrapper.stage}; {'changes' if wrapper.changes_weights else 'leaves'} the parameters"


@check("training")
def training_is_the_same(subject: WrapperUnderCheck) -> Finding:
    """In training mode, the wrapped loss has the same value and gradients as the plain loss, within rounding."""
    model, module, warnings = subject.wrapped()
    plain = subject.model.build()
    comparisons = []
    for seed in (0, 1):
        inputs = subject.model.batch(seed=seed)
        loss, expected = loss_and_gradients(plain, LossModule(plain), *inputs)
        wrapped_loss, found = loss_and_gradients(model, module, *inputs)
        expect(close(wrapped_loss, loss), f"the loss is {float(wrapped_loss):.12g}; without it {float(loss):.12g}")
        shared = {name: expected[name] for name in found.keys() & expected.keys()}  # an adapter has others
        comparisons += ErrorRule(rtol=ROUNDING, tiny=1e-3).compare_tensors("without it", found, shared)
    warned = f"; it warned: {' '.join(warnings)}" if warnings else ""
    return conclude(comparisons, f"the same loss and {len(comparisons) // 2} gradients{warned}", independent=True)


@check("evaluation")
def evaluation_is_the_same(subject: WrapperUnderCheck) -> Finding:
    """In eval mode, the wrapped loss equals the plain loss for batches of any size, and builds no graph."""
    model, module, _ = subject.wrapped()
    plain = subject.model.build()
    for one in (model, plain, module):
        one.eval()
    input_ids, target_ids = subject.model.batch()
    for rows, length in ((len(input_ids), subject.model.seq_len), (2, subject.model.seq_len - 1)):
        inputs = input_ids[:rows, :length], target_ids[:rows, :length]
        loss, wrapped_loss = plain.loss(*inputs), Objective(model, module).loss(*inputs)
        expect(close(wrapped_loss, loss), f"the loss is {float(wrapped_loss):.12g}; without it {float(loss):.12g}")
        expect(not wrapped_loss.requires_grad, "a graph is built in eval mode")
    return "the same loss for two batch sizes"


@check("random state")
def wrapping_draws_no_random_numbers(subject: WrapperUnderCheck) -> Finding:
    """Wrapping leaves no gradients and restores the random state, so that training draws the same numbers."""
    torch.manual_seed(0)
    subject.model.build()
    before = torch.get_rng_state()
    torch.manual_seed(0)
    model, _, _ = subject.wrapped()
    expect(torch.equal(torch.get_rng_state(), before), "`wrap` changes the random state")
    left = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    expect(not left, f"`wrap` left a gradient in {', '.join(left)}")
    expect(model.training, "`wrap` left the model in eval mode")
    return "unchanged"


WRAPPER_CHECKS: tuple[Check[WrapperUnderCheck], ...] = (
    the_stage_is_known,
    training_is_the_same,
    evaluation_is_the_same,
    wrapping_draws_no_random_numbers,
)
