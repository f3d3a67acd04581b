"""`tfs doctor`: what it finds, what it says about problems, and what it never prints."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tfs_lab import doctor as doctor_module
from tfs_lab.public_text import HIDDEN, public_text

from tfs_core.cli.main import tfs

InstallPlugin = Callable[..., None]
SECTIONS = ["versions", "torch", "devices", "threads", "kernels", "disk", "plugins", "environment", "hub"]


@pytest.fixture(autouse=True)
def quiet_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an assets folder of the test, and no network."""
    monkeypatch.setenv("TFS_ASSETS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor_module, "LOW_DISK_BYTES", 0)
    monkeypatch.setattr(doctor_module, "NVIDIA_DRIVER", tmp_path / "no-driver")


def report(*arguments: str, exit_code: int = 0) -> dict[str, Any]:
    """Return what `tfs doctor --json` prints."""
    result = CliRunner().invoke(tfs, ["doctor", "--json", *arguments])
    assert result.exit_code == exit_code, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def problems_of(values: dict[str, Any]) -> list[str]:
    return [problem for section in SECTIONS for problem in values[section]["problems"]]


def test_installation_without_problems(tmp_path: Path) -> None:
    values = report()
    assert list(values) == ["ok", *SECTIONS]
    assert values["ok"] is True
    assert problems_of(values) == []
    assert values["versions"]["facts"]["tfs-lab"] == "0.1.0"
    assert values["versions"]["facts"]["torch"] == torch.__version__
    assert "cores allowed" in values["devices"]["facts"]["CPU"]
    assert "GiB" in values["devices"]["facts"]["memory"]
    assert values["threads"]["facts"]["torch"] == str(torch.get_num_threads())
    assert values["kernels"]["facts"]["matmul"] == torch.get_float32_matmul_precision()
    assert values["disk"]["facts"]["locks"] == values["disk"]["facts"]["writing, renaming"] == "work"
    assert values["plugins"]["facts"]["tfs-lab (lab)"] == "0.1.0, ok"
    assert values["environment"]["facts"]["HF_HUB_OFFLINE"] == "1"
    assert values["hub"]["facts"]["answer"] == "not asked: offline, since HF_HUB_OFFLINE is set"
    assert list(tmp_path.iterdir()) == [], "the assets folder is left as it was"


def test_page_has_every_section_and_fact_of_the_json() -> None:
    page, values = CliRunner().invoke(tfs, ["doctor"]).output, report()
    assert [line for line in page.splitlines() if line in SECTIONS] == SECTIONS
    for section in SECTIONS:
        for name in values[section]["facts"]:
            assert f"  {name} " in page
    assert page.endswith("\nProblems found: none\n")


# torch and devices


def test_without_torch_it_says_so_and_the_rest_works() -> None:
    code = "import sys; sys.modules['torch'] = None; from tfs_core.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json"], capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 1, done.stderr
    values = json.loads(done.stdout)
    assert values["torch"]["facts"] == {"torch": "not installed"}
    [problem] = problems_of(values)
    assert problem.startswith("torch cannot be imported")
    assert " install torch" in problem
    assert values["disk"]["facts"]["locks"] == "work"
    assert "tfs" not in values["threads"]["facts"]


def test_torch_that_breaks_on_import_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_(name: str) -> object:
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr("importlib.import_module", break_)
    section = doctor_module.Section()
    assert doctor_module.import_torch(section) is None
    [problem] = section.problems
    assert "libtorch.so: cannot open shared object file. Correct what it names" in problem


def fake_torch(*, cuda: Any, built_for: str | None = "13.0") -> Any:
    no_mps = SimpleNamespace(is_available=lambda: False)
    version = SimpleNamespace(cuda=built_for)
    return SimpleNamespace(cuda=cuda, backends=SimpleNamespace(mps=no_mps), version=version)


def test_gpu_is_shown_with_its_memory_and_one_that_cannot_be_used_is_a_problem() -> None:
    def memory(index: int) -> tuple[int, int]:
        if index == 1:
            raise RuntimeError("CUDA error: out of memory")
        return 3 << 30, 8 << 30

    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        mem_get_info=memory,
        get_device_properties=lambda index: SimpleNamespace(name="Some GPU"),
    )
    section = doctor_module.devices(fake_torch(cuda=cuda))
    assert section.facts["cuda:0"] == "Some GPU, 8.0 GiB, 3.0 GiB free"
    [problem] = section.problems
    assert problem.startswith("cuda:1 cannot be used: RuntimeError: CUDA error: out of memory. End the process")


@pytest.mark.parametrize(("built_for", "says"), [(None, "this torch has no CUDA"), ("13.0", "built for CUDA 13.0")])
def test_driver_without_a_gpu_that_torch_can_use_is_a_problem(
    built_for: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "driver").touch()
    monkeypatch.setattr(doctor_module, "NVIDIA_DRIVER", tmp_path / "driver")
    no_cuda = SimpleNamespace(is_available=lambda: False)
    [problem] = doctor_module.devices(fake_torch(cuda=no_cuda, built_for=built_for)).problems
    assert says in problem
    assert "Install a build that fits" in problem


def test_memory_limit_of_a_container_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "max").write_text("2147483648\n")
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    1572864 kB\n")
    monkeypatch.setattr(doctor_module, "MEMORY_FILES", (tmp_path / "max", tmp_path / "meminfo"))
    memory = doctor_module.devices(None).facts["memory"]
    assert memory.endswith(" GiB, 1.5 GiB available, at most 2.0 GiB in this container")
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "meminfo").unlink()
    assert doctor_module.devices(None).facts["memory"].count("GiB") == 1


# Disk


def test_assets_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # a folder without permissions would not stop root
    [problem] = report("--assets", str(tmp_path / "file" / "assets"), exit_code=1)["disk"]["problems"]
    assert problem.startswith("files cannot be written in ")
    assert problem.endswith(
        "Not a directory. Change its permissions, or choose another place with --assets or TFS_ASSETS."
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_assets_folder_without_permission_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir(mode=0o555)
    [problem] = report("--assets", str(tmp_path / "assets"), exit_code=1)["disk"]["problems"]
    assert "Permission denied. Change its permissions" in problem


def test_disk_that_is_full_or_takes_no_locks_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "LOW_DISK_BYTES", 1 << 60)
    monkeypatch.setattr(doctor_module, "is_locked", lambda path: False)
    full, unlocked = report(exit_code=1)["disk"]["problems"]
    assert full.startswith("only ")
    assert "Make room, or choose another place" in full
    assert unlocked.startswith("file locks do not work in ")
    assert "For a local disk, choose another place" in unlocked


def test_assets_folder_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    disk = report("--assets", str(tmp_path / "a" / "b"))["disk"]
    assert disk["facts"]["assets"].endswith("b, which does not exist yet")
    assert disk["facts"]["locks"] == "work"
    assert list(tmp_path.iterdir()) == []


# Plugins


def test_broken_plugins_and_clashes_are_problems_with_advice(install_plugin: InstallPlugin) -> None:
    command = """
@hookimpl
def tfs_commands(): return [Component(name="again", summary="A", factory="tfs_x.command:run")]
"""
    install_plugin("tfs-broken", "1 / 0")
    install_plugin("tfs-one", command)
    install_plugin("tfs-two", command)
    plugins = report(exit_code=1)["plugins"]
    assert plugins["facts"]["tfs-broken (main)"] == "1.2, failed"
    assert plugins["problems"] == [
        "tfs-broken is failed: tfs_broken.plugin cannot be imported: ZeroDivisionError: division by zero. Upgrade it, "
        "reinstall it, or leave it out: TFS_DISABLE_PLUGINS=tfs-broken",
        "tfs-one: command 'again' is also in tfs-two: write tfs-one/again",
        "tfs-two: command 'again' is also in tfs-one: write tfs-two/again",
    ]


def test_disabled_plugin_is_no_problem(install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin("tfs-broken", "1 / 0")
    monkeypatch.setenv("TFS_DISABLE_PLUGINS", "tfs-broken")
    assert report()["plugins"]["facts"]["tfs-broken (main)"] == "1.2, disabled by TFS_DISABLE_PLUGINS"


# The Hub


def test_hub_that_never_answers_is_waited_for_once_and_at_most_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    join = threading.Thread.join

    def counted(thread: threading.Thread, timeout: float | None = None) -> None:
        waits.append(timeout)
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", counted)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:  # the system accepts connections, and nobody answers
        server.settimeout(60)
        address = server.getsockname()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{address[1]}")
        section = doctor_module.hub()
        connection, _ = server.accept()
        with connection, socket.create_connection(address) as own:
            second, peer = server.accept()  # connections come in order: this is the second one
            second.close()
            assert peer == own.getsockname(), "the Hub is asked once"
    assert waits == [1.0]
    assert section.facts["answer"] == "no"
    [problem] = section.problems
    assert problem.startswith("the Hugging Face Hub does not answer: ")
    assert "set HF_HUB_OFFLINE=1" in problem


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "500 Broken"])
def test_any_status_is_an_answer(status: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        received: list[bytes] = []

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                received.append(connection.recv(4096))
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(doctor_module, "HUB_SECONDS", 60.0)  # it answers at once, however slow the machine is
            patch.setenv("NO_PROXY", "127.0.0.1")
            assert doctor_module.why_no_answer(f"http://127.0.0.1:{server.getsockname()[1]}") is None
        thread.join()
    assert received[0].startswith(b"HEAD / HTTP")
    assert b"authorization" not in received[0].lower()


@pytest.mark.parametrize("url", ["no url", "http://127.0.0.1:1", "strange://huggingface.co"])
def test_address_that_cannot_be_asked_gives_a_reason(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(doctor_module, "HUB_SECONDS", 60.0)
    reason = doctor_module.why_no_answer(url)
    assert reason
    assert not reason.startswith("nothing came")


def test_without_huggingface_hub_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    assert doctor_module.hub().facts == {"answer": "not asked: huggingface_hub is not installed"}


# What is never printed


def test_no_secret_host_user_or_home_is_printed(
    install_plugin: InstallPlugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "homes" / "alice"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "alice")
    monkeypatch.setenv("LOGNAME", "alice")
    monkeypatch.setattr(socket, "gethostname", lambda: "alices-laptop.example.org")
    monkeypatch.setenv("HF_TOKEN", "a-token-of-no-known-form")
    monkeypatch.setenv("TFS_API_KEY", "swordfish")
    monkeypatch.setenv("TFS_PASSWORD", "123")  # too short to be searched for in other text
    monkeypatch.setenv("HTTPS_PROXY", "http://alice:sesame@proxy.internal:3128")
    monkeypatch.setenv("HF_ENDPOINT", "https://alice:sesame@mirror.internal/hub?key=opensesame")
    monkeypatch.setenv("TFS_NOTE", "hf_abcdefghijklmnop on alices-laptop for bob:sesame@elsewhere")
    monkeypatch.setenv("HF_HOME", str(home / "models"))
    monkeypatch.setenv("TFS_ASSETS", str(home))
    secrets = "a-token-of-no-known-form swordfish https://huggingface.co/x?token=opensesame /home/carol/x"
    install_plugin("tfs-broken", f"raise ValueError({secrets!r} + {str(home)!r})")
    for arguments in (["doctor"], ["doctor", "--json"]):
        output = CliRunner().invoke(tfs, arguments).output
        for private in [*secrets.split()[:2], "sesame", "hf_abc", "internal", "alice", "carol", "laptop", str(home)]:
            assert private not in output, f"{private} is printed:\n{output}"
        assert "~/models" in output
        assert "https://huggingface.co/x" in output
        assert "HF_TOKEN" in output
    assert doctor_module.environment().facts["TFS_PASSWORD"] == HIDDEN


def test_public_text_keeps_what_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "vm.example.org")
    monkeypatch.setattr("pathlib.Path.home", lambda: Path("/home/tfs"))
    monkeypatch.setenv("LOGNAME", "tfs")
    monkeypatch.setenv("SHORT_TOKEN", "1")
    for text in ("tfs run --resume 1", "https://huggingface.co:443/a", "Linux-6.1-x86_64", "/home", "20.7 GiB"):
        assert public_text(text) == text
    assert public_text("/home/tfs/x, /tmp/of-tfs/y; /home/tfs2/z") == "~/x, /tmp/of-[user]/y; ~/z"
    assert public_text("vm vms vm.example.org") == "[host] vms [host]"
    assert public_text("http://[broken") == f"http://{HIDDEN}"
