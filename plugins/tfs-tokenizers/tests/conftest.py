"""Fixtures: a fake Hub on this machine, and Python in a subprocess that can reach only that Hub."""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

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
    with load_fake_hub().FakeHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def nowhere() -> str:
    """Return the URL of a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@dataclass
class Said:
    """Output and exit code of a process."""

    output: str
    errors: str
    exit_code: int


Python = Callable[..., Said]


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """Return `python(*arguments, endpoint=...)`, which runs Python with its own home and assets, and that Hub."""

    def run(*arguments: str, endpoint: str, **environment: str) -> Said:
        own = {
            name: value for name, value in os.environ.items() if not name.lower().startswith(("hf_", "hugging", "http"))
        }
        own |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "TFS_ASSETS": str(tmp_path / "assets")}
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=own | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Said(ended.stdout, ended.stderr, ended.returncode)

    return run


@pytest.fixture(scope="session")
def gpt2_content() -> str:
    """Return a tokenizer.json with 50,257 ids of which only those of "Hello, world!" are GPT-2's."""
    words = ["Hello", "Ġworld"]
    ids = {"!": 0, ",": 11, "Hello": 15496, "Ġworld": 995}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
            ids.setdefault(word[:end], 20_000 + len(ids))
    for letter in ByteLevel.alphabet():
        ids.setdefault(letter, 30_000 + len(ids))
    taken = set(ids.values())
    free = (token_id for token_id in range(50_256) if token_id not in taken)
    ids |= {f"zz{token_id}": token_id for token_id in free}
    tokenizer = Tokenizer(BPE(ids, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return str(tokenizer.to_str())
