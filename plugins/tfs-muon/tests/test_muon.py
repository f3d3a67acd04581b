"""Muon's update follows the papers, each parameter is updated by the right rule, and resuming is bit-identical."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tfs_lab.testing.shape_comments import check_shape_comments
from tfs_lab.testing.small_model import small_model
from tfs_muon import muon
from tfs_muon.config import MuonConfig
from tfs_muon.muon import COEFFICIENTS, Muon, multiplies_bfloat16, orthogonalize
from torch import Tensor

from tfs_core import run
from tfs_core.errors import ConfigError

SHAPES = [(7, 7), (5, 11), (11, 5), (2, 3, 5)]


def random_matrices(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def build(named: dict[str, Tensor], *, weight_decay: float = 0.1, **options: Any) -> Muon:
    config = MuonConfig(**options)
    return muon.build(config, named_parameters=named.items(), learning_rate=1e-2, weight_decay=weight_decay)


def train(optimizer: torch.optim.Optimizer, parameters: list[Tensor], steps: int = 10) -> None:
    """Take steps with fixed random gradients and a learning rate that changes as by a schedule."""
    generator = torch.Generator().manual_seed(1)
    ratios = [group["lr"] / 1e-2 for group in optimizer.param_groups]
    for step in range(steps):
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = ratio * 1e-2 * (step + 1) / steps
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()


# The orthogonalization


@pytest.mark.parametrize("shape", [(3, 48, 48), (3, 24, 64), (3, 64, 24)])
def test_orthogonalize_brings_nearly_every_singular_value_near_one(shape: tuple[int, ...]) -> None:
    singular_values = torch.linalg.svdvals(orthogonalize(random_matrices(*shape), 5))
    assert float(singular_values.max()) < 1.21
    within = (singular_values > 0.68).double().mean()
    assert float(within) > 0.97  # the smallest ones need more iterations


def test_orthogonalize_applies_the_polynomial_to_the_singular_values_and_keeps_the_directions() -> None:
    a, b, c = COEFFICIENTS
    matrix = random_matrices(5, 11)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    expected = left @ torch.diag(values) @ right
    torch.testing.assert_close(orthogonalize(matrix[None], 5)[0], expected, rtol=1e-9, atol=1e-12)


def test_orthogonalize_does_not_depend_on_the_size_of_the_gradient() -> None:
    matrix = random_matrices(1, 5, 11)
    torch.testing.assert_close(orthogonalize(1e-3 * matrix, 5), orthogonalize(matrix, 5))


def test_orthogonalize_leaves_a_matrix_of_zeros_at_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(1, 5, 11), 5), torch.zeros(1, 5, 11))


@pytest.mark.parametrize("with_instructions", [True, False])
def test_orthogonalize_rounds_float32_alone_and_only_where_bfloat16_is_multiplied(
    with_instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = orthogonalize(random_matrices(2, 12, 30), 5)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: with_instructions)
    assert torch.equal(orthogonalize(random_matrices(2, 12, 30), 5), exact)
    result = orthogonalize(random_matrices(2, 12, 30).float(), 5)
    assert result.dtype == torch.float32
    error = float((result.double() - exact).norm() / exact.norm())
    assert (1e-3 < error < 2e-2) if with_instructions else error < 1e-5


@pytest.mark.parametrize("with_instructions", [True, False])
def test_a_gpu_that_only_emulates_bfloat16_does_not_count(
    with_instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: with_instructions)
    assert multiplies_bfloat16(torch.device("cuda")) == with_instructions
    assert not multiplies_bfloat16(torch.device("mps"))


@pytest.mark.parametrize("shape", [(5, 11), (11, 5)])
def test_update_has_the_size_that_adamw_updates_have(shape: tuple[int, int]) -> None:
    parameter = random_matrices(*shape)
    before = parameter.clone()
    optimizer = build({"hidden": parameter}, weight_decay=0.0)
    parameter.grad = random_matrices(*shape)
    optimizer.step()
    size = float((parameter - before).square().mean().sqrt()) / 1e-2
    assert 0.14 < size < 0.24  # learning rates


# The update


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(48, 48), (24, 64), (64, 24)])
def test_muon_equals_torch_on_one_matrix_but_for_the_rounding_of_bfloat16(
    shape: tuple[int, int], nesterov: bool
) -> None:
    ours, theirs = random_matrices(*shape, dtype=torch.float32), random_matrices(*shape, dtype=torch.float32)
    before = ours.clone()
    options: dict[str, Any] = {"momentum": 0.9, "nesterov": nesterov}
    train(build({"hidden": ours}, **options), [ours])
    reference = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw", **options)
    train(reference, [theirs])
    # torch orthogonalizes in bfloat16, which has 8 bits, everywhere.
    assert float((ours - theirs).norm()) < 2e-2 * float((theirs - before).norm())


@pytest.mark.parametrize("shape", [(48, 48), (64, 24)])
def test_muon_equals_torch_to_the_last_digits_when_both_orthogonalize_alike(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def alike(matrix: Tensor, coefficients: tuple[float, ...], steps: int, eps: float) -> Tensor:
        assert coefficients == COEFFICIENTS
        return orthogonalize(matrix[None], steps)[0]

    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", alike)
    ours, theirs = random_matrices(*shape), random_matrices(*shape)
    train(build({"hidden": ours}), [ours])
    train(torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), [theirs])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rest_is_updated_as_torch_adamw_does_to_the_bit(dtype: torch.dtype) -> None:
    def parameters() -> dict[str, Tensor]:
        shapes = {"embedding": (13, 5), "hidden": (5, 7), "bias": (5,)}
        return {name: random_matrices(*shape, dtype=dtype) for name, shape in shapes.items()}

    ours, theirs = parameters(), parameters()
    train(build(ours, adamw_rate_ratio=0.5), list(ours.values()))
    groups = [
        {"params": [theirs["embedding"]], "weight_decay": 0.1},
        {"params": [theirs["bias"]], "weight_decay": 0.0},
    ]
    train(torch.optim.AdamW(groups, lr=0.5e-2, betas=(0.9, 0.95), fused=True), list(theirs.values()))
    assert torch.equal(ours["embedding"], theirs["embedding"])
    assert torch.equal(ours["bias"], theirs["bias"])


@pytest.mark.parametrize("shape", SHAPES)
def test_matrices_of_one_shape_are_updated_as_each_would_be_alone(shape: tuple[int, ...]) -> None:
    together = {name: random_matrices(*shape) + index for index, name in enumerate("abc")}
    alone = {name: parameter.clone() for name, parameter in together.items()}
    generator = torch.Generator().manual_seed(2)
    for name in together:
        together[name].grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        alone[name].grad = together[name].grad
    build(together).step()
    for name, parameter in alone.items():
        build({name: parameter}).step()
        torch.testing.assert_close(together[name], parameter, rtol=1e-12, atol=1e-12)


def test_a_stack_of_matrices_is_updated_as_its_matrices_are() -> None:
    stack = random_matrices(2, 3, 5)
    matrices = {str(index): matrix.clone() for index, matrix in enumerate(stack)}
    gradient = random_matrices(2, 3, 5) + 1.0
    stack.grad = gradient
    for matrix, its_gradient in zip(matrices.values(), gradient, strict=True):
        matrix.grad = its_gradient.clone()
    build({"experts": stack}).step()
    build(matrices).step()
    torch.testing.assert_close(stack, torch.stack(list(matrices.values())), rtol=1e-12, atol=1e-12)


def test_a_parameter_without_gradient_is_left_alone() -> None:
    named = {"hidden": random_matrices(3, 5), "other": random_matrices(3, 5), "bias": random_matrices(3)}
    before = {name: parameter.clone() for name, parameter in named.items()}
    optimizer = build(named, weight_decay=1.0)
    named["hidden"].grad = random_matrices(3, 5)
    optimizer.step()
    assert not torch.equal(named["hidden"], before["hidden"])
    assert torch.equal(named["other"], before["other"])
    assert torch.equal(named["bias"], before["bias"])


def test_shape_comments_are_true() -> None:
    def run_it() -> None:
        orthogonalize(random_matrices(2, 3, 5), 2)
        parameters = {"a": random_matrices(5, 3), "b": random_matrices(5, 3)}
        train(build(parameters), list(parameters.values()), steps=1)

    words = ("n_matrices", "rows", "columns", "n_short", "n_long")
    report = check_shape_comments(run_it, [Path(muon.__file__)], {}, per_call=words)
    report.require()
    assert len(report.checked) > 6


# Groups of parameters


@pytest.mark.parametrize("model", ["torch", "custom"])
def test_tables_and_vectors_of_a_model_go_to_adamw_and_all_other_matrices_to_muon(model: str) -> None:
    named = dict(small_model(model).build().named_parameters())
    hidden, tables, vectors = (
        {name for name, parameter in named.items() if any(parameter is other for other in group["params"])}
        for group in build(named).param_groups
    )
    assert tables == {"token_embedding.weight", "position_embedding.weight"}
    assert vectors == {name for name, parameter in named.items() if parameter.dim() == 1}
    assert hidden == named.keys() - tables - vectors
    assert "blocks.0.attention.output.weight" in hidden


@pytest.mark.parametrize("name", ["unembedding.weight", "model.embed_tokens.weight", "lm_head.weight", "output.weight"])
def test_output_matrix_goes_to_adamw(name: str) -> None:
    groups = build({"blocks.0.weight": random_matrices(3, 5), name: random_matrices(7, 5)}).param_groups
    assert [(group["rule"], tuple(group["params"][0].shape)) for group in groups] == [
        ("muon", (3, 5)),
        ("adamw", (7, 5)),
    ]


def test_vectors_do_not_decay_and_matrices_do() -> None:
    named = {"hidden": random_matrices(3, 5), "embedding": random_matrices(7, 5), "bias": random_matrices(3)}
    assert [group["weight_decay"] for group in build(named).param_groups] == [0.1, 0.1, 0.0]


def test_a_frozen_parameter_is_in_no_group() -> None:
    frozen = torch.nn.Parameter(random_matrices(3, 5), requires_grad=False)
    groups = build({"hidden": random_matrices(3, 5), "frozen": frozen}).param_groups
    assert sum(len(group["params"]) for group in groups) == 1


def test_a_pattern_that_matches_no_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no parameter of the model is called 'classifier\.\*'.*hidden"):
        build({"hidden": random_matrices(3, 5)}, adamw_parameters=("classifier.*",))


def test_a_model_that_leaves_no_matrix_to_muon_is_refused() -> None:
    with pytest.raises(ConfigError, match="muon has no matrix to update"):
        build({"embedding.weight": random_matrices(3, 5), "bias": random_matrices(3)})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"momentum": 1.0}, "momentum must be at least 0"),
        ({"momentum": 0.0}, "nesterov needs a momentum above 0"),
        ({"newton_schulz_steps": 0}, "newton_schulz_steps must be at least 1"),
        ({"betas": (0.9, 1.0)}, "betas must be at least 0"),
        ({"eps": -1.0}, "eps must be at least 0"),
        ({"adamw_rate_ratio": 0.0}, "adamw_rate_ratio must be above 0"),
    ],
)
def test_an_option_out_of_range_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MuonConfig(**option)


# In a run


def settings(model: str) -> dict[str, Any]:
    return {
        "experiment_name": "small",
        "data": {"dataset": "text", "tokenizer": "byte", "max_length": 16},
        "model": {"name": model, "d_model": 12, "n_heads": 3, "n_blocks": 2, "max_seq_len": 16},
        "training": {
            "batch_size": 4,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "checkpoint_every": 3,
            "optimizer": {"name": "muon", "adamw_rate_ratio": 0.5},
        },
        "runtime": {"threads": 1, "matmul": "highest", "device": "cpu"},
        "loggers": ["jsonl"],
    }


@pytest.mark.parametrize("model", ["torch", "custom"])
def test_a_run_resumes_to_the_bit(model: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for name in "abcdefgh":
        (text / f"{name}.txt").write_text(f"{name}: the cat sat on the mat, and the mat sat on {name}.\n" * 20)
    config = settings(model)
    config["data"]["dataset"] = {"name": "text", "path": str(text)}
    whole = run(config, assets=tmp_path / "assets")
    half_way = next(path for path in whole.checkpoints() if path.name == "step-00000003")
    resumed = run(None, resume=str(half_way), name="again", assets=tmp_path / "assets")
    assert whole.latest is not None
    assert resumed.latest is not None
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (resumed.latest / file).read_bytes() == (whole.latest / file).read_bytes(), file
