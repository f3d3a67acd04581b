"""`runtime.compile`: the same loss, compiled; and whatever fails, the run goes on without it and says why."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tfs_core.config.schema import Choice, DataConfig, RunConfig, RuntimeConfig
from tfs_core.contracts import ModelConfig
from tfs_core.data.batches import Batch
from tfs_core.models import AutogradModel, check_input_ids
from tfs_core.training.compilation import Compilation

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
    """A model whose code depends on a value: no single graph."""

    def forward(self, input_ids: Tensor) -> Tensor:
        logits = super().forward(input_ids)
        return logits if float(logits.detach().sum()) > 0 else logits * 1.0


def config(*, compile: bool = True, batching: Any = "packed") -> RunConfig:
    return RunConfig(
        experiment_name="a",
        data=DataConfig(dataset=Choice("text"), tokenizer=Choice("byte"), batching=batching),
        model=Choice("mine"),
        runtime=RuntimeConfig(compile=compile),
    )


def batch(rows: int = 4, seq_len: int = 5) -> Batch:
    input_ids, target_ids = torch.randint(VOCAB_SIZE, (2, rows, seq_len), generator=torch.Generator().manual_seed(1))
    return Batch(input_ids, target_ids, rows * seq_len)


def loss_and_gradient(model: AutogradModel, of: Batch) -> tuple[float, Tensor]:
    model.zero_grad()
    loss = float(model.loss(of.input_ids, of.target_ids))
    model.backward(1.0)
    return loss, torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def fails(*arguments: Any, **named: Any) -> Callable[..., Tensor]:
    def compiled(*tensors: Any) -> Tensor:
        raise RuntimeError("no compiler here\nand a page of what it means")

    return compiled


@pytest.fixture(autouse=True)
def no_graphs_of_others() -> None:
    torch._dynamo.reset()


def test_compiled_loss_is_the_loss_in_training_and_in_validation() -> None:
    model, said = Tiny(dropout=0.3), list[str]()
    names, random_state = list(model.state_dict()), torch.get_rng_state()
    compilation = Compilation(model, config(), None, said.append)
    compilation.try_out(batch(), "cpu")
    assert compilation.in_force, said
    assert said[0].startswith("compiling the loss")
    assert said[1].startswith("the loss is compiled (once, ")
    assert compilation.how["compile"].startswith("configured: took ")
    assert torch.equal(torch.get_rng_state(), random_state), "trying out moves no random state"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert list(model.state_dict()) == names

    model.dropout.p = 0.0  # what it drops, a compiler draws in its own way
    found = loss_and_gradient(model, batch())
    model.eval()
    validated = float(model.loss(batch(rows=3).input_ids, batch(rows=3).target_ids))
    model.train()
    model.wrapped_loss = None
    expected = loss_and_gradient(model, batch())
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert float((found[1] - expected[1]).norm()) <= 1e-6 * float(expected[1].norm())
    assert validated == pytest.approx(float(model.loss(batch(rows=3).input_ids, batch(rows=3).target_ids)), rel=1e-6)
    assert compilation.in_force, said


def test_bad_ids_are_refused_before_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    model = Tiny()
    compilation = Compilation(model, config(), None, [].append)
    with pytest.raises(ValueError, match="token id 7 is outside the vocabulary"):
        model.loss(torch.tensor([[7]]), torch.tensor([[1]]))
    assert compilation.in_force


def test_without_being_asked_nothing_is_compiled() -> None:
    model, said = Tiny(), list[str]()
    compilation = Compilation(model, config(compile=False), None, said.append)
    compilation.try_out(batch(), "cpu")
    assert (model.wrapped_loss, compilation.in_force, compilation.how, said) == (None, False, {}, [])


def test_compiler_that_fails_is_done_without_and_named_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", fails)
    model, said = Tiny(), list[str]()
    compilation = Compilation(model, config(), None, said.append)
    compilation.try_out(batch(), "cpu")
    assert not compilation.in_force
    assert said[1:] == ["the loss is not compiled, and steps take longer: RuntimeError: no compiler here"]
    assert compilation.failure == said[1]
    assert compilation.how == {"compile": "not compiled: RuntimeError: no compiler here"}
    assert loss_and_gradient(model, batch())[0] == loss_and_gradient(Tiny(), batch())[0]


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
    model, said = Tiny(), list[str]()
    compilation = Compilation(model, config(), None, said.append)
    compilation.try_out(batch(), "cpu")
    assert "no backward here" in said[1]
    assert loss_and_gradient(model, batch())[0] == loss_and_gradient(Tiny(), batch())[0]


def test_failure_at_a_later_shape_is_told_and_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_five(module: nn.Module, **options: Any) -> Callable[..., Tensor]:
        def compiled(input_ids: Tensor, *rest: Any) -> Tensor:
            if input_ids.shape[1] != 5:
                raise RuntimeError("another length")
            return module(input_ids, *rest)

        return compiled

    monkeypatch.setattr(torch, "compile", only_five)
    model, said = Tiny(), list[str]()
    compilation = Compilation(model, config(), None, said.append)
    compilation.try_out(batch(), "cpu")
    assert compilation.in_force
    compilation.report = said.append
    assert loss_and_gradient(model, batch(seq_len=6))[0] == loss_and_gradient(Tiny(), batch(seq_len=6))[0]
    assert said[-1] == "the loss is not compiled, and steps take longer: RuntimeError: another length"


def test_model_that_is_not_one_graph_is_computed_as_it_is() -> None:
    model, said = Branches(), list[str]()
    compilation = Compilation(model, config(), None, said.append)
    compilation.try_out(batch(), "cpu")
    assert not compilation.in_force
    assert "\n" not in said[1]
    assert loss_and_gradient(model, batch())[0] == loss_and_gradient(Branches(), batch())[0]


def test_machine_without_a_compiler_trains_without_it(tmp_path: Path) -> None:
    environment = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}  # nothing compiled earlier
    command = [sys.executable, "-c", WITHOUT_COMPILER, str(Path(__file__).parent)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the loss is not compiled" in done.stdout
    assert "ompiler" in done.stdout.split("longer:")[1]


WITHOUT_COMPILER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_compilation import Compilation, Tiny, batch, config, loss_and_gradient
model = Tiny()
Compilation(model, config(), None, print).try_out(batch(), "cpu")
assert loss_and_gradient(model, batch())[0] == loss_and_gradient(Tiny(), batch())[0]
"""


def test_model_with_a_backward_of_its_own_is_not_compiled_and_says_so() -> None:
    said = list[str]()
    compilation = Compilation(SimpleNamespace(), config(), None, said.append)  # type: ignore[arg-type]
    compilation.try_out(batch(), "cpu")
    assert not compilation.in_force
    assert "the model 'mine' has a backward of its own" in said[0]


@pytest.mark.parametrize(
    ("asked_before", "compiled_before", "in_force"),
    [(True, False, False), (True, True, True), (False, False, True)],
)
def test_resumed_run_stays_without_where_it_was_without(
    monkeypatch: pytest.MonkeyPatch, asked_before: bool, compiled_before: bool, in_force: bool
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    origin: Any = SimpleNamespace(config=config(compile=asked_before), state={"machine": {"compiled": compiled_before}})
    assert Compilation(Tiny(), config(), origin, [].append).in_force is in_force


@pytest.mark.long
def test_rows_of_any_length_share_one_graph() -> None:
    model, said = Tiny(), list[str]()
    compilation = Compilation(model, config(batching="padded"), None, said.append)
    compilation.try_out(batch(), "cpu")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for seq_len in (2, 3, 6, 8):
        loss_and_gradient(model, batch(seq_len=seq_len))
    assert compilation.in_force, said
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
