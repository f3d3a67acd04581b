"""Fixtures: a fake Hub on this machine, and `tfs` in a subprocess that can reach only that Hub."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

MAIN = "from tfs_core.cli.main import main; main()"
FAKE_HUB = Path(__file__).parents[3] / "tests" / "fake_hub.py"


def load_fake_hub() -> ModuleType:
    """Return the module `tests/fake_hub.py` of the repository."""
    if "fake_hub" not in sys.modules:
        spec = importlib.util.spec_from_file_location("fake_hub", FAKE_HUB)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["fake_hub"] = module
        spec.loader.exec_module(module)
    return sys.modules["fake_hub"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    """Return a fake Hub without repositories; folders of `hub.folder` become repositories."""
    pytest.importorskip("datasets")
    with load_fake_hub().FakeHub(tmp_path / "hub", large_from=600) as running:
        yield running


@dataclass
class Said:
    """Output and exit code of a command, and the number of network connections that it tried to open."""

    output: str
    errors: str
    exit_code: int
    connections: int


Tfs = Callable[..., Said]

COUNT_CONNECTIONS = """
import sys
def count(event, arguments):
    if event == "socket.connect":
        with open(CONNECTIONS, "ab") as file:
            file.write(b"1")
sys.addaudithook(count)
"""
"""Add a byte to a file whenever a socket is connected, whichever library does it."""


@pytest.fixture
def tfs(tmp_path: Path) -> Tfs:
    """Return a function that runs `tfs` with its own home and assets; `endpoint` is the URL of its Hub."""

    def run(*arguments: str, endpoint: str, **environment: str) -> Said:
        return run_python("from tfs_core.cli.main import main; main()", arguments, tmp_path, endpoint, environment)

    return run


def run_python(code: str, arguments: Sequence[str], folder: Path, endpoint: str, environment: dict[str, str]) -> Said:
    """Run Python code in a folder, without the user's Hugging Face and proxy settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "http", "HTTP"))}
    own |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "TFS_ASSETS": str(folder / "assets")}
    counted = folder / "connections"
    counted.write_bytes(b"")
    code = f"CONNECTIONS = {str(counted)!r}{COUNT_CONNECTIONS}{code}"
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, cwd=folder, env=own | environment, capture_output=True, text=True, timeout=600)
    return Said(ended.stdout, ended.stderr, ended.returncode, counted.stat().st_size)


@pytest.fixture
def nowhere() -> str:
    """Return the URL of a port without a listener."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"
