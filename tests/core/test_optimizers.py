"""AdamW and SGD: weight decay, the update formula, and reproducible bits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tfs_core.builtin.optimizers import AdamWConfig, SGDConfig, adamw, sgd


def some_parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embedding": (11, 3), "weight": (5, 7), "bias": (5,), "gain": (2,)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def with_gradients(parameters: dict[str, nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("build", [adamw, sgd])
def test_weight_decay_pulls_matrices_only(build: Callable[..., Optimizer]) -> None:
    parameters = some_parameters()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    config = AdamWConfig() if build is adamw else SGDConfig()
    optimizer = build(config, named_parameters=parameters.items(), learning_rate=0.1, weight_decay=0.5)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name in ("embedding", "weight"):
        torch.testing.assert_close(parameters[name].detach(), before[name] * (1 - 0.1 * 0.5))
    for name in ("bias", "gain"):
        assert torch.equal(parameters[name], before[name])


def test_adamw_is_the_formula() -> None:
    parameter = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    optimizer = adamw(AdamWConfig(), named_parameters=[("p", parameter)], learning_rate=0.1, weight_decay=0.5)
    expected, mean, square = parameter.detach().clone(), torch.zeros(1, 2), torch.zeros(1, 2)
    for step in (1, 2, 3):
        gradient = torch.tensor([[0.3, -0.7]], dtype=torch.float64) * step
        parameter.grad = gradient.clone()
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        step_size = (mean / (1 - 0.9**step)) / ((square / (1 - 0.95**step)).sqrt() + 1e-8)
        expected = expected - 0.1 * 0.5 * expected - 0.1 * step_size
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=0.0)


def test_sgd_with_nesterov_is_the_formula() -> None:
    parameter = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    config = SGDConfig(momentum=0.9, nesterov=True)
    optimizer = sgd(config, named_parameters=[("p", parameter)], learning_rate=0.1, weight_decay=0.5)
    expected, velocity = 2.0, 0.0
    for gradient in (0.3, -0.2, 0.5):
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        velocity = 0.9 * velocity + gradient
        expected -= 0.1 * (gradient + 0.9 * velocity)
    assert parameter.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("build", [adamw, sgd])
def test_updates_are_bit_equal_for_every_number_of_threads(build: Callable[..., Optimizer]) -> None:
    def trained(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        parameters = some_parameters()
        parameters["large"] = nn.Parameter(torch.ones(401, 503))
        config = AdamWConfig() if build is adamw else SGDConfig(momentum=0.9)
        optimizer = build(config, named_parameters=parameters.items(), learning_rate=0.01, weight_decay=0.1)
        for step in range(3):
            with_gradients(parameters, step)
            optimizer.step()
        return [parameter.detach() for parameter in parameters.values()]

    threads = torch.get_num_threads()
    try:
        runs = [trained(1), trained(1), trained(2)]
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], run, strict=True))


def test_parameters_that_are_not_trained_are_left_out() -> None:
    parameters = some_parameters()
    parameters["weight"].requires_grad_(False)
    optimizer = adamw(AdamWConfig(), named_parameters=parameters.items(), learning_rate=0.1, weight_decay=0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3


def test_model_without_biases_is_optimized() -> None:
    parameters = {"weight": some_parameters()["weight"]}
    with_gradients(parameters, 0)
    before = parameters["weight"].detach().clone()
    adamw(AdamWConfig(), named_parameters=parameters.items(), learning_rate=0.1, weight_decay=0.1).step()
    assert not torch.equal(parameters["weight"], before)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: AdamWConfig(betas=(0.9, 1.0)), "betas must be"),
        (lambda: AdamWConfig(eps=-1e-8), "eps must be"),
        (lambda: SGDConfig(momentum=1.0), "momentum must be"),
        (lambda: SGDConfig(nesterov=True), "nesterov needs a momentum"),
    ],
)
def test_option_out_of_range_is_rejected(config: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config()
