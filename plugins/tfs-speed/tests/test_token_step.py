"""`--compile`: a compiled step gives the same tokens; after any failure, generation continues without it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tfs_speed.token_step import CompiledStep, build, linear_of_one_row
from torch import Tensor, fx, nn

from tfs_core.contracts import ModelConfig
from tfs_core.errors import UsageError
from tfs_core.models import AutogradModel
from tfs_core.registry import get_registry

VOCAB_SIZE, PROMPT = 96, list(range(20, 27))


def small(name: str, *, dtype: str = "float32") -> Any:
    """Return a small model with large weights, so that its predictions differ between positions."""
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


@torch.no_grad()
def written(model: Any, step: CompiledStep | None) -> list[int]:
    """Return the sampled continuation up to the context limit; `step` computes all tokens but the first."""
    generator = torch.Generator().manual_seed(3)
    model.eval()
    cache = model.make_cache(1)
    input_ids, positions = torch.tensor([PROMPT]), torch.arange(len(PROMPT))[None]  # each [1, n_prompt]
    logits = model.forward_with_cache(input_ids, positions, cache)  # [1, n_prompt, vocab_size]
    tokens: list[int] = []
    for position in range(len(PROMPT), model.context_limit):
        shares = logits[0, -1].double().softmax(-1)  # [vocab_size]
        tokens.append(int(torch.multinomial(shares, 1, generator=generator)))
        input_ids, positions = torch.tensor([[tokens[-1]]]), torch.tensor([[position]])  # each [1, 1]
        logits = (step or model.forward_with_cache)(input_ids, positions, cache)  # [1, 1, vocab_size]
    return tokens


@pytest.mark.parametrize("name", ["torch", "baseline"])
def test_compiled_step_writes_the_same_tokens_in_one_text_after_another(name: str) -> None:
    model, told = small(name), []
    step = build(None, model=model, name=name, report=told.append)
    assert told[1].startswith("compiled in"), told
    assert step.in_force
    assert model.training  # its mode is restored
    plain = written(model, None)
    assert written(model, step) == plain == written(model, step)
    assert len(set(plain)) > 3, "a model that repeats itself shows nothing"
    assert len(told) == 2, told


@pytest.mark.parametrize("name", ["torch", "baseline"])
def test_compiled_step_is_one_graph_whatever_the_position(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[fx.GraphModule] = []

    def count(graph: fx.GraphModule, example_inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr("tfs_speed.token_step._compile_with_row_sums", count)
    model = small(name)
    step = CompiledStep(model, name=name, report=lambda said: None)
    assert written(model, step) == written(model, None)
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
    # Sums in another order may round differently, by one unit in the last of bfloat16's eight bits.
    torch.testing.assert_close(result, expected, rtol=2**-7, atol=0)


def test_compiler_that_fails_is_done_without_and_named_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(graph: fx.GraphModule, example_inputs: list[Tensor]) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("tfs_speed.token_step._compile_with_row_sums", fails)
    model, told = small("baseline"), []
    step = CompiledStep(model, name="baseline", report=told.append)
    assert told[1].startswith("not compiled, and tokens take longer. ")
    assert "\n" not in told[1]
    assert "no compiler here" in told[1]
    assert not step.in_force
    assert written(model, step) == written(model, None)
    assert len(told) == 2, "it is said once"


def test_failure_after_the_first_call_is_told_once_and_the_model_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfs_speed.token_step._compile_with_row_sums", lambda graph, example_inputs: graph.forward)
    model, told = small("torch"), []
    step = CompiledStep(model, name="torch", report=told.append)

    def fails(*arguments: Any) -> Tensor:
        raise RuntimeError("out of luck")

    step._compiled = fails
    assert written(model, step) == written(model, None)
    assert not step.in_force
    assert told[2:] == ["not compiled, and tokens take longer. PyTorch says: RuntimeError: out of luck"]


def test_model_that_asks_for_values_is_not_compiled_and_writes_as_before() -> None:
    model, told = small("custom"), []
    step = CompiledStep(model, name="custom", report=told.append)
    assert "not compiled" in told[1]
    assert "\n" not in told[1]
    assert written(model, step) == written(model, None)


class WithoutCache(AutogradModel):
    """A model without a key/value cache."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(), vocab_size=VOCAB_SIZE)
        self.table = nn.Embedding(VOCAB_SIZE, VOCAB_SIZE)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)


def test_model_without_a_cache_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'mine' has none"):
        CompiledStep(WithoutCache(), name="mine", report=print)
