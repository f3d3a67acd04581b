from pathlib import Path

import pytest
import tfs_speedrun.optimizer
import torch
from tfs_lab.testing.shape_comments import check_shape_comments
from tfs_speedrun.config import SpeedrunConfig, SpeedrunOptimizerConfig
from tfs_speedrun.model import Speedrun
from tfs_speedrun.optimizer import ADAMW_EPS, build, orthogonalize
from torch import Tensor


def parameter_with_gradient(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.randn(shape, generator=generator).requires_grad_()
    parameter.grad = torch.randn(shape, generator=generator)
    return parameter


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 7, 40), (2, 40, 7)])
def test_orthogonalize_makes_every_singular_value_about_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3


def test_orthogonalize_keeps_the_directions() -> None:
    matrices = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    exact = left @ right
    assert float((orthogonalize(matrices) - exact).norm() / exact.norm()) < 0.3


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(1, 3, 5)), torch.zeros(1, 3, 5))


def test_every_parameter_of_the_model_has_the_rule_that_suits_it() -> None:
    config = SpeedrunConfig(d_model=6, n_heads=2, n_blocks=1, ngram_contexts=(2,), ngram_rows=(7,))
    model = Speedrun(config, vocab_size=5, generator=torch.Generator())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build(
        SpeedrunOptimizerConfig(), named_parameters=model.named_parameters(), learning_rate=0.1, weight_decay=0.2
    )
    rules = {group["rule"]: {names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups}
    hidden = {f"blocks.0.{name}" for name in ("query", "key", "value", "output", "expand", "contract")}
    assert rules == {
        "muon": hidden,
        "sgd": {"ngram_tables.0"},
        "adamw": {"taps.weight", "head", "blocks.0.distance_bias"},
    }


def test_adamw_rule_is_torchs_adamw() -> None:
    ours, theirs = parameter_with_gradient(5), parameter_with_gradient(5)
    config = SpeedrunOptimizerConfig(adamw_rate_ratio=0.5)
    optimizer = build(config, named_parameters=[("gain", ours)], learning_rate=0.1, weight_decay=0.2)
    reference = torch.optim.AdamW([theirs], lr=0.05, betas=config.betas, eps=ADAMW_EPS, weight_decay=0.0, fused=True)
    for _ in range(3):
        optimizer.step()
        reference.step()
    assert torch.equal(ours, theirs)


def test_sgd_rule_moves_against_the_gradient() -> None:
    table = parameter_with_gradient(5, 3)
    assert table.grad is not None
    expected = (table - 2.0 * table.grad).detach()
    config = SpeedrunOptimizerConfig(sgd_rate_ratio=20.0)
    build(config, named_parameters=[("ngram_tables.0", table)], learning_rate=0.1, weight_decay=0.2).step()
    assert torch.allclose(table, expected)


def test_muon_rule_takes_steps_of_one_length_whatever_the_gradients() -> None:
    lengths = []
    for size in (1e-4, 1.0, 1e4):
        matrix = parameter_with_gradient(16, 16)
        assert matrix.grad is not None
        matrix.grad *= size
        before = matrix.detach().clone()
        build(SpeedrunOptimizerConfig(), named_parameters=[("w", matrix)], learning_rate=0.1, weight_decay=0.0).step()
        lengths.append(float((matrix.detach() - before).norm()))
    assert lengths == pytest.approx([0.4] * 3, rel=0.2)  # 0.1 along each of 16 directions


def test_shape_comments_are_true() -> None:
    def run() -> None:
        tall = parameter_with_gradient(7, 5)
        build(SpeedrunOptimizerConfig(), named_parameters=[("w", tall)], learning_rate=0.1, weight_decay=0.0).step()

    sizes = {"n_matrices": 1, "rows": 7, "columns": 5, "n_short": 5, "n_long": 7}
    check_shape_comments(run, [Path(tfs_speedrun.optimizer.__file__)], sizes).require()
