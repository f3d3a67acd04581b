"""The wrapper `compile`: the same loss, compiled; after any failure the run continues without it and says why."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tfs_speed.compiling import Compile
from torch import Tensor, nn

from tfs_core.contracts import Batch, ModelConfig, WrapContext
from tfs_core.models import AutogradModel, LossModule, Objective, check_input_ids
from tfs_core.ranks import OneRank

VOCAB_SIZE = 7


class Tiny(AutogradModel):
    """An embedding, dropout, and a projection."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(ModelConfig(max_seq_len=8), vocab_size=VOCAB_SIZE)
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Embedding(VOCAB_SIZE, 3)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(3, VOCAB_SIZE)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, input_ids: Tensor) -> Tensor:
        check_input_ids(input_ids, vocab_size=VOCAB_SIZE, context_limit=self.context_limit)
        return self.output(self.dropout(torch.tanh(self.table(input_ids))))


class Branches(Tiny):
    """A model with control flow that depends on a value: no single graph."""

    def forward(self, input_ids: Tensor) -> Tensor:
        logits = super().forward(input_ids)
        return logits if float(logits.detach().sum()) > 0 else logits * 1.0


@dataclass
class Told:
    """The messages and records of a wrapper."""

    reported: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def record(self, **facts: Any) -> None:
        self.facts |= facts


def batch(rows: int = 4, seq_len: int = 5) -> Batch:
    input_ids, target_ids = torch.randint(VOCAB_SIZE, (2, rows, seq_len), generator=torch.Generator().manual_seed(1))
    return Batch(input_ids, target_ids, rows * seq_len)


def compiled(
    model: Any, told: Told, *, lengths_vary: bool = False, recorded: dict[str, Any] | None = None
) -> nn.Module:
    """Return the model's loss in the wrapper."""
    context = WrapContext(
        model=model,
        model_name="mine",
        device="cpu",
        ranks=OneRank(),
        trial_batch=batch(),
        lengths_vary=lengths_vary,
        recorded=recorded or {},
        report=told.reported.append,
        warn=told.warned.append,
        record=told.record,
    )
    return Compile().wrap(LossModule(model), context=context)


def loss_and_gradient(model: AutogradModel, loss: nn.Module, of: Batch) -> tuple[float, Tensor]:
    model.zero_grad()
    objective = Objective(model, loss)
    found = float(objective.loss(of.input_ids, of.target_ids))
    objective.backward(1.0)
    return found, torch.cat(
        [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    )


def eager_loss(of: Batch) -> float:
    """Return the loss of `Tiny` without the wrapper."""
    return float(Tiny().loss(of.input_ids, of.target_ids))


def fails(module: nn.Module, **options: Any) -> Callable[..., Tensor]:
    def compiled(*tensors: Any) -> Tensor:
        raise RuntimeError("no compiler here\nand a page of what it means")

    return compiled


@pytest.fixture(autouse=True)
def no_graphs_of_others() -> None:
    torch._dynamo.reset()


def test_compiled_loss_is_the_loss_in_training_and_in_validation() -> None:
    model, told = Tiny(dropout=0.3), Told()
    names, random_state = list(model.state_dict()), torch.get_rng_state()
    loss = compiled(model, told)
    assert told.facts["compiled"] is True, told
    assert told.reported[0].startswith("compiling the loss")
    assert told.reported[1].startswith("the loss is compiled (once, ")
    assert told.facts["why"]["compile"].startswith("configured: took ")
    assert torch.equal(torch.get_rng_state(), random_state), "trying out moves no random state"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert list(model.state_dict()) == names
    assert len(list(loss.parameters())) == len(list(model.parameters()))
    assert model.training

    model.dropout.p = 0.0  # compiled code draws other dropout masks
    found, expected = loss_and_gradient(model, loss, batch()), loss_and_gradient(model, LossModule(model), batch())
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert float((found[1] - expected[1]).norm()) <= 1e-6 * float(expected[1].norm())
    model.eval()
    fewer = batch(rows=3)
    validated = float(Objective(model, loss).loss(fewer.input_ids, fewer.target_ids))
    assert validated == pytest.approx(float(model.loss(fewer.input_ids, fewer.target_ids)), rel=1e-6)
    assert told.warned == []


def test_bad_ids_are_refused_before_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    told = Told()
    loss = compiled(Tiny(), told)
    with pytest.raises(ValueError, match="token id 7 is outside the vocabulary"):
        loss(torch.tensor([[7]]), torch.tensor([[1]]))
    assert told.warned == []


def test_compiler_that_fails_is_done_without_and_named_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", fails)
    model, told = Tiny(), Told()
    loss = compiled(model, told)
    assert told.warned == ["the loss is not compiled, and steps take longer: RuntimeError: no compiler here"]
    assert told.facts == {"compiled": False, "why": {"compile": "not compiled: RuntimeError: no compiler here"}}
    assert loss_and_gradient(model, loss, batch())[0] == eager_loss(batch())


def test_backward_that_does_not_compile_is_found_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class BadBackward(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(context: Any, *gradients: Tensor) -> Tensor:
            raise RuntimeError("no backward here")

    monkeypatch.setattr(
        torch, "compile", lambda module, **options: lambda *tensors: BadBackward.apply(module(*tensors))
    )
    model, told = Tiny(), Told()
    loss = compiled(model, told)
    assert "no backward here" in told.warned[0]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert loss_and_gradient(model, loss, batch())[0] == eager_loss(batch())


def test_failure_at_a_later_shape_is_told_and_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_five(module: nn.Module, **options: Any) -> Callable[..., Tensor]:
        def compiled(input_ids: Tensor, *rest: Any) -> Tensor:
            if input_ids.shape[1] != 5:
                raise RuntimeError("another length")
            return module(input_ids, *rest)

        return compiled

    monkeypatch.setattr(torch, "compile", only_five)
    model, told = Tiny(), Told()
    loss = compiled(model, told)
    assert told.facts["compiled"] is True
    assert loss_and_gradient(model, loss, batch(seq_len=6))[0] == eager_loss(batch(seq_len=6))
    assert told.warned == ["the loss is not compiled, and steps take longer: RuntimeError: another length"]
    assert told.facts == {"compiled": False, "why": {"compile": "not compiled: RuntimeError: another length"}}
    loss_and_gradient(model, loss, batch(seq_len=7))
    assert len(told.warned) == 1, "it is not tried again"


def test_training_and_validation_are_compiled_each_and_the_mode_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[bool | None] = []  # the argument `dynamic`: always True in validation

    def counted(module: nn.Module, *, dynamic: bool | None, **options: Any) -> Callable[..., Tensor]:
        def compiled(*tensors: Any) -> Tensor:
            called.append(dynamic)
            return module(*tensors)

        return compiled

    monkeypatch.setattr(torch, "compile", counted)
    model = Tiny()
    model.eval()
    loss = compiled(model, Told())
    assert called == [True, None], "tried out"
    assert not model.training
    loss(batch().input_ids, batch().target_ids)
    model.train()
    loss(batch().input_ids, batch().target_ids)
    assert called[2:] == [True, None]


def test_model_that_is_not_one_graph_is_computed_as_it_is() -> None:
    model, told = Branches(), Told()
    loss = compiled(model, told)
    assert told.facts["compiled"] is False
    assert "\n" not in told.warned[0]
    expected = float(Branches().loss(batch().input_ids, batch().target_ids))
    assert loss_and_gradient(model, loss, batch())[0] == expected


def test_machine_without_a_compiler_trains_without_it(tmp_path: Path) -> None:
    environment = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}  # an empty cache
    command = [sys.executable, "-c", WITHOUT_COMPILER, str(Path(__file__).parent)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the loss is not compiled" in done.stdout
    assert "ompiler" in done.stdout.split("longer:")[1]


WITHOUT_COMPILER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_compiling import Tiny, Told, batch, compiled, eager_loss, loss_and_gradient
model, told = Tiny(), Told()
loss = compiled(model, told)
print(told.warned[0])
assert loss_and_gradient(model, loss, batch())[0] == eager_loss(batch())
"""


def test_model_with_a_backward_of_its_own_is_not_compiled_and_says_so() -> None:
    told = Told()
    loss = compiled(SimpleNamespace(), told)
    assert isinstance(loss, LossModule)
    assert told.facts == {
        "compiled": False,
        "why": {"compile": "not compiled: the model 'mine' has a backward of its own"},
    }
    assert "the model 'mine' has a backward of its own" in told.warned[0]


@pytest.mark.parametrize(
    ("recorded", "in_force"), [({"compiled": False}, False), ({"compiled": True}, True), ({}, True)]
)
def test_resumed_run_stays_without_where_it_was_without(
    monkeypatch: pytest.MonkeyPatch, recorded: dict[str, Any], in_force: bool
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    told = Told()
    compiled(Tiny(), told, recorded=recorded)
    assert told.facts["compiled"] is in_force
    assert in_force or "the run started without compiling" in told.warned[0]


@pytest.mark.long
def test_rows_of_any_length_share_one_graph() -> None:
    model, told = Tiny(), Told()
    loss = compiled(model, told, lengths_vary=True)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for seq_len in (2, 3, 6, 8):
        loss_and_gradient(model, loss, batch(seq_len=seq_len))
    assert told.facts["compiled"] is True, told
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
