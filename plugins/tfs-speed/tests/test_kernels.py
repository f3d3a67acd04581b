"""The wrapper `kernels`: the recorded kernel of a resumed run, else the faster exact one by measurement."""

import platform
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tfs_lab.testing.small_model import small_model
from tfs_speed import kernels
from tfs_speed.kernels import Kernels, choose_matmul, keep_freed_memory

from tfs_core.contracts import Batch, WrapContext
from tfs_core.models import LossModule
from tfs_core.ranks import OneRank


@pytest.fixture(autouse=True)
def precision_kept() -> Iterator[None]:
    kernel = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(kernel)


def measured(monkeypatch: pytest.MonkeyPatch, *, error: float = 3e-7, speedup: float = 2.0) -> None:
    """Replace the measurements by these values."""
    errors = {"highest": 2e-7, "medium": error}
    monkeypatch.setattr(kernels, "_product_error", lambda kernel: errors[kernel])
    monkeypatch.setattr(kernels, "_time_kernels", lambda step: [speedup] * 5)


def wrap(
    name: str = "torch", *, device: str = "cpu", recorded: dict[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Apply the wrapper to a small model, and return the model and the records."""
    subject = small_model(name)
    model, (input_ids, target_ids) = subject.build(dropout=0.1), subject.batch()
    facts: dict[str, Any] = {}
    context = WrapContext(
        model=model,
        model_name=name,
        device=device,
        ranks=OneRank(),
        trial_batch=Batch(input_ids, target_ids, target_ids.numel()),
        lengths_vary=False,
        recorded=recorded or {},
        report=lambda said: None,
        warn=lambda said: None,
        record=facts.update,
    )
    loss = LossModule(model)
    assert Kernels().wrap(loss, context=context) is loss
    return model, facts


@pytest.mark.parametrize(
    ("error", "speedup", "expected"),
    [(3e-7, 2.0, "medium"), (3e-7, 1.1, "highest"), (3e-7, 0.5, "highest"), (3e-3, 4.0, "highest")],
)
def test_medium_is_chosen_only_when_exact_and_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, error: float, speedup: float, expected: str
) -> None:
    measured(monkeypatch, error=error, speedup=speedup)
    _, facts = wrap()
    assert facts["matmul"] == expected == torch.get_float32_matmul_precision()
    assert facts["why"]["relative_error"]["medium"] == error


def test_recorded_choice_is_obeyed_whatever_is_faster_now(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, speedup=5.0)
    _, facts = wrap(recorded={"device": "cpu", "matmul": "highest"})
    assert facts == {"matmul": "highest", "why": {"matmul": "recorded"}}
    measured(monkeypatch, speedup=0.5)
    assert wrap(recorded={"device": "cpu", "matmul": "medium"})[1]["matmul"] == "medium"


def test_recorded_medium_is_not_obeyed_where_it_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, error=3e-3)
    _, facts = wrap(recorded={"matmul": "medium"})
    assert facts["matmul"] == "highest"
    assert "rounds on this processor" in facts["why"]["matmul"]


def test_recorded_kernel_of_another_device_is_not_obeyed() -> None:
    _, facts = wrap(device="cuda", recorded={"device": "cpu", "matmul": "medium"})
    assert facts["matmul"] == "highest"


def test_float32_stays_exact_on_other_devices() -> None:
    assert choose_matmul(None, "cuda", pytest.fail)[0] == "highest"


@pytest.mark.parametrize("name", ["torch", "custom"])
def test_timing_leaves_no_gradient_and_no_random_state(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(kernels, "TIMED_SECONDS", 0.0)
    random_state = torch.get_rng_state()
    model, facts = wrap(name)
    assert facts["matmul"] in ("highest", "medium")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for _, parameter in model.named_parameters())


def test_precision_is_restored_when_the_training_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_product_error", lambda kernel: 3e-7)

    def fails(*arguments: Any) -> None:
        raise ValueError("a bad batch")

    monkeypatch.setattr(kernels, "_training_step", fails)
    torch.set_float32_matmul_precision("high")
    with pytest.raises(ValueError, match="a bad batch"):
        wrap()
    assert torch.get_float32_matmul_precision() == "high"


def test_kernels_are_timed_on_the_training_step_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(kernels, "_product_error", lambda kernel: 3e-7)
    monkeypatch.setattr(kernels, "TIMED_SECONDS", 0.0)
    choose_matmul(None, "cpu", lambda: taken.append(torch.get_float32_matmul_precision()))
    assert taken[:2] == ["highest", "medium"], "to warm up"
    assert taken[2:] == ["highest", "medium", "medium", "highest"] * 2 + ["highest", "medium"]


@pytest.mark.parametrize(
    ("speedups", "expected"),
    [
        ([2.0, 0.3, 2.0, 2.0, 2.0], "medium"),  # one round disturbed by other load
        ([2.0, 0.3, 2.0, 1.1, 2.0], "highest"),
        ([9.0, 9.0, 1.0, 1.0, 1.0], "highest"),  # faster only on average
    ],
)
def test_medium_must_be_clearly_faster_in_nearly_every_round(
    monkeypatch: pytest.MonkeyPatch, speedups: list[float], expected: str
) -> None:
    measured(monkeypatch)
    monkeypatch.setattr(kernels, "_time_kernels", lambda step: speedups)
    matmul, why = choose_matmul(None, "cpu", pytest.fail)
    assert matmul == expected
    assert why["speedup"] == sorted(speedups)[2]
    assert (why["rounds"], why["rounds_clearly_faster"]) == (5, sum(speedup >= 1.15 for speedup in speedups))


def test_measured_error_tells_float32_from_bfloat16() -> None:
    assert kernels._product_error("highest") < kernels.EXACT
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    exact = left.double() @ right.double()
    rounded = (left.bfloat16() @ right.bfloat16()).double()
    assert torch.linalg.vector_norm(rounded - exact) / torch.linalg.vector_norm(exact) > kernels.EXACT


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    is_glibc = platform.libc_ver()[0] == "glibc"
    assert keep_freed_memory() is is_glibc
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
