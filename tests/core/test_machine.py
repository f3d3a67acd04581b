"""Device, threads and kernel: first the configuration, then the checkpoint's record, then detection."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tfs_core import machine as machine_module
from tfs_core.config.schema import RuntimeConfig
from tfs_core.errors import ConfigError
from tfs_core.machine import Machine, apply_machine, available_threads, choose_machine


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


@pytest.mark.usefixtures("cpu_only")
def test_recorded_choice_is_used() -> None:
    recorded = {"device": "cpu", "threads": 3, "matmul": "medium"}
    chosen = choose_machine(RuntimeConfig(), recorded)
    assert (chosen.device, chosen.threads, chosen.matmul) == ("cpu", 3, "medium")
    assert chosen.how == {"device": "recorded", "threads": "recorded", "matmul": "recorded"}


@pytest.mark.usefixtures("cpu_only")
def test_configuration_takes_precedence_over_the_record() -> None:
    runtime = RuntimeConfig(device="cpu", threads=1, matmul="medium")
    chosen = choose_machine(runtime, {"device": "cuda", "threads": 8, "matmul": "highest"})
    assert (chosen.device, chosen.threads, chosen.matmul) == ("cpu", 1, "medium")


@pytest.mark.usefixtures("cpu_only")
def test_recorded_device_that_is_not_here_is_replaced_and_named() -> None:
    chosen = choose_machine(RuntimeConfig(matmul="highest"), {"device": "cuda"})
    assert chosen.device == "cpu"
    assert chosen.how["device"] == "the recorded cuda is not available"


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


def test_apply_puts_threads_and_kernel_in_force_after_allow_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True  # also sets the precision to "high"
    apply_machine(Machine("cpu", 1, "medium", {}))
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


SPINNING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}),
        *(({name: "5"}, {name: "5"}) for name in sorted(SPINNING)),
    ],
)
def test_threads_spin_for_a_short_time_unless_the_user_has_set_it(
    given: dict[str, str], expected: dict[str, str]
) -> None:
    code = f"import json, os, tfs_core; print(json.dumps({{k: v for k, v in os.environ.items() if k in {SPINNING}}}))"
    environment = {name: value for name, value in os.environ.items() if name not in SPINNING} | given
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == expected


def test_torch_is_imported_after_the_time_is_set() -> None:
    code = "import sys, tfs_core; assert 'torch' not in sys.modules; import tfs_core.run; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
