"""`--compile`: a compiled step writes the same tokens, and whatever fails, writing goes on without it and says why."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tfs_core.compiled_step import CompiledStep, linear_of_one_row
from tfs_core.contracts import ModelConfig
from tfs_core.errors import UsageError
from tfs_core.generation import Sampling, generate
from tfs_core.models import AutogradModel
from tfs_core.registry import get_registry

VOCAB_SIZE, PROMPT = 96, list(range(20, 27))


def small(name: str, *, dtype: str = "float32") -> Any:
    """Return a small model far from its initial values, so that what it writes differs from place to place."""
    entry = get_registry().find("model", name)
    config_class = entry.load_config_class()
    assert config_class is not None
    config = config_class(d_model=32, n_heads=4, n_blocks=2, max_seq_len=24, dtype=dtype)
    model = entry.load_factory()(config, vocab_size=VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            parameter.add_(0.6 * torch.randn(parameter.shape, generator=noise))
    return model


def written(model: Any, step: CompiledStep | None, sampling: Sampling) -> list[int]:
    generator = torch.Generator().manual_seed(3)
    tokens = generate(model, PROMPT, max_new_tokens=40, sampling=sampling, generator=generator, compiled=step)
    return list(tokens)


@pytest.mark.parametrize("name", ["torch", "baseline"])
def test_compiled_step_writes_the_same_tokens_also_past_the_context(name: str) -> None:
    model, told = small(name), []
    step = CompiledStep(model, name=name, report=told.append)
    assert told[1].startswith("compiled in"), told
    assert model.training  # its mode is given back
    for sampling in (Sampling(temperature=0), Sampling(temperature=0.9, top_k=20)):
        plain = written(model, None, sampling)
        assert written(model, step, sampling) == plain
    assert len(set(plain)) > 3, "a model that repeats itself shows nothing"
    assert len(told) == 2, told


@pytest.mark.parametrize("name", ["torch", "baseline"])
def test_compiled_step_is_one_graph_whatever_the_position(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[fx.GraphModule] = []

    def count(graph: fx.GraphModule, example_inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr("tfs_core.compiled_step._spelled_out", count)
    model = small(name)
    step = CompiledStep(model, name=name, report=lambda said: None)
    greedy = Sampling(temperature=0)
    assert written(model, step, greedy) == written(model, None, greedy)
    assert len(graphs) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("biased", [True, False])
def test_linear_of_one_row_is_linear(dtype: torch.dtype, biased: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*size, dtype=dtype, generator=generator) for size in ((3, 1, 5), (7, 5), (7,)))
    expected = F.linear(x, weight, bias if biased else None)  # [3, 1, 7]
    torch.testing.assert_close(linear_of_one_row(x, weight, bias if biased else None), expected)


def test_linear_of_one_row_computes_in_bfloat16_where_linear_does() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*size, generator=generator) for size in ((1, 1, 64), (9, 64)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, result = F.linear(x, weight), linear_of_one_row(x, weight)
    assert result.dtype == expected.dtype == torch.bfloat16
    # A sum in another order may fall on the other side of a rounding: one step of bfloat16's eight bits.
    torch.testing.assert_close(result, expected, rtol=2**-7, atol=0)


def test_compiler_that_fails_is_done_without_and_named_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(graph: fx.GraphModule, example_inputs: list[Tensor]) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("tfs_core.compiled_step._spelled_out", fails)
    model, told = small("baseline"), []
    step = CompiledStep(model, name="baseline", report=told.append)
    assert told[1].startswith("not compiled, and tokens take longer. ")
    assert "\n" not in told[1]
    assert "no compiler here" in told[1]
    greedy = Sampling(temperature=0)
    assert written(model, step, greedy) == written(model, None, greedy)
    assert len(told) == 2, "it is said once"
    table = model.token_embedding.weight  # [vocab_size, d_model]
    assert table.stride() == (1, VOCAB_SIZE), "it lies in memory as it does without --compile"


def test_model_that_asks_for_values_is_not_compiled_and_writes_as_before() -> None:
    model, told = small("custom"), []
    step = CompiledStep(model, name="custom", report=told.append)
    assert "not compiled" in told[1]
    assert "\n" not in told[1]
    greedy = Sampling(temperature=0)
    assert written(model, step, greedy) == written(model, None, greedy)


class WithoutCache(AutogradModel):
    """A model that reads everything anew for each token."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(), vocab_size=VOCAB_SIZE)
        self.table = nn.Embedding(VOCAB_SIZE, VOCAB_SIZE)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)


def test_model_without_a_cache_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'mine' has none"):
        CompiledStep(WithoutCache(), name="mine", report=print)
