"""Device, threads and kernel: the configuration first, then what was recorded, then what was measured."""

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tfs_core.config.schema import RuntimeConfig
from tfs_core.errors import ConfigError
from tfs_core.training import machine as machine_module
from tfs_core.training.machine import (
    Machine,
    apply_machine,
    available_threads,
    choose_machine,
    keep_freed_memory,
)


@pytest.fixture(autouse=True)
def settings_kept() -> Iterator[None]:
    threads, kernel = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision(kernel)


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)


def measured(monkeypatch: pytest.MonkeyPatch, *, error: float = 3e-7, speedup: float = 2.0) -> None:
    """Make the measurements come out so."""
    errors = {"highest": 2e-7, "medium": error}
    monkeypatch.setattr(machine_module, "_product_error", lambda kernel: errors[kernel])
    monkeypatch.setattr(machine_module, "_time_kernels", lambda step: [speedup] * 5)


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize(
    ("error", "speedup", "expected"),
    [(3e-7, 2.0, "medium"), (3e-7, 1.1, "highest"), (3e-7, 0.5, "highest"), (3e-3, 4.0, "highest")],
)
def test_medium_is_chosen_only_when_exact_and_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, error: float, speedup: float, expected: str
) -> None:
    measured(monkeypatch, error=error, speedup=speedup)
    chosen = choose_machine(RuntimeConfig())
    assert chosen.matmul == expected
    assert chosen.how["relative_error"]["medium"] == error


@pytest.mark.usefixtures("cpu_only")
def test_recorded_choice_is_obeyed_whatever_is_faster_now(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, speedup=5.0)
    recorded = {"device": "cpu", "threads": 3, "matmul": "highest"}
    chosen = choose_machine(RuntimeConfig(), recorded)
    assert (chosen.device, chosen.threads, chosen.matmul) == ("cpu", 3, "highest")
    measured(monkeypatch, speedup=0.5)
    assert choose_machine(RuntimeConfig(), {**recorded, "matmul": "medium"}).matmul == "medium"


@pytest.mark.usefixtures("cpu_only")
def test_recorded_medium_is_not_obeyed_where_it_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, error=3e-3)
    chosen = choose_machine(RuntimeConfig(), {"matmul": "medium"})
    assert chosen.matmul == "highest"
    assert "rounds on this processor" in chosen.how["matmul"]


@pytest.mark.usefixtures("cpu_only")
def test_configuration_comes_before_what_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, error=3e-3)
    runtime = RuntimeConfig(device="cpu", threads=1, matmul="medium")
    chosen = choose_machine(runtime, {"device": "cuda", "threads": 8, "matmul": "highest"})
    assert (chosen.device, chosen.threads, chosen.matmul) == ("cpu", 1, "medium")


@pytest.mark.usefixtures("cpu_only")
def test_recorded_device_that_is_not_here_is_replaced_and_named() -> None:
    chosen = choose_machine(RuntimeConfig(matmul="highest"), {"device": "cuda"})
    assert chosen.device == "cpu"
    assert chosen.how["device"] == "the recorded cuda is not here"


@pytest.mark.usefixtures("cpu_only")
def test_configured_device_that_is_not_here_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"runtime\.device is 'cuda', but this torch .* finds only: cpu"):
        choose_machine(RuntimeConfig(device="cuda"))


def test_recorded_kernel_of_another_device_is_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    recorded = {"device": "cpu", "threads": 2, "matmul": "medium"}
    assert choose_machine(RuntimeConfig(device="cuda"), recorded).matmul == "highest"


def test_auto_device_prefers_cuda_and_keeps_float32_exact_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    chosen = choose_machine(RuntimeConfig())
    assert (chosen.device, chosen.matmul) == ("cuda", "highest")


@pytest.mark.usefixtures("cpu_only")
def test_choosing_changes_no_setting_and_no_random_state() -> None:
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    state = torch.get_rng_state()
    choose_machine(RuntimeConfig(threads=2))
    assert torch.get_num_threads() == 1
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("cpu_only")
def test_settings_are_restored_when_the_training_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_product_error", lambda kernel: 3e-7)

    def fails() -> None:
        raise ValueError("a bad batch")

    with pytest.raises(ValueError, match="a bad batch"):
        choose_machine(RuntimeConfig(), training_step=fails)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("cpu_only")
def test_kernels_are_timed_on_the_training_step_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = []
    monkeypatch.setattr(machine_module, "_product_error", lambda kernel: 3e-7)
    monkeypatch.setattr(machine_module, "TIMED_SECONDS", 0.0)
    choose_machine(RuntimeConfig(), training_step=lambda: kernels.append(torch.get_float32_matmul_precision()))
    assert kernels[:2] == ["highest", "medium"], "to warm up"
    assert kernels[2:] == ["highest", "medium", "medium", "highest"] * 2 + ["highest", "medium"]


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize(
    ("speedups", "expected"),
    [
        ([2.0, 0.3, 2.0, 2.0, 2.0], "medium"),  # one round met something else on the machine
        ([2.0, 0.3, 2.0, 1.1, 2.0], "highest"),
        ([9.0, 9.0, 1.0, 1.0, 1.0], "highest"),  # faster on the average only
    ],
)
def test_medium_must_be_clearly_faster_in_nearly_every_round(
    monkeypatch: pytest.MonkeyPatch, speedups: list[float], expected: str
) -> None:
    measured(monkeypatch)
    monkeypatch.setattr(machine_module, "_time_kernels", lambda step: speedups)
    chosen = choose_machine(RuntimeConfig())
    assert chosen.matmul == expected
    assert chosen.how["speedup"] == sorted(speedups)[2]
    assert (chosen.how["rounds"], chosen.how["rounds_clearly_faster"]) == (5, sum(s >= 1.15 for s in speedups))


def test_measured_error_tells_float32_from_bfloat16() -> None:
    assert machine_module._product_error("highest") < machine_module.EXACT
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    exact = left.double() @ right.double()
    rounded = (left.bfloat16() @ right.bfloat16()).double()
    assert torch.linalg.vector_norm(rounded - exact) / torch.linalg.vector_norm(exact) > machine_module.EXACT


def test_apply_puts_threads_and_kernel_in_force_after_allow_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True  # sets the precision to "high" behind one's back
    apply_machine(Machine("cpu", 1, "medium"))
    assert torch.get_num_threads() == 1
    assert torch.get_float32_matmul_precision() == "medium"


def test_threads_respect_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_TORCH_THREADS", 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    monkeypatch.setattr(machine_module, "_container_limit", lambda: 8)
    assert available_threads() == 3
    monkeypatch.setattr(machine_module, "_container_limit", lambda: 2)
    assert available_threads() == 2


@pytest.mark.parametrize(("content", "limit"), [("150000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", None)])
def test_container_limit_is_rounded_up(tmp_path: Path, content: str, limit: int | None) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(content)
    assert machine_module._container_limit(str(path)) == (limit or 1 << 30)
    assert machine_module._container_limit(str(tmp_path / "none")) == 1 << 30


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    is_glibc = platform.libc_ver()[0] == "glibc"
    assert keep_freed_memory() is is_glibc
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
