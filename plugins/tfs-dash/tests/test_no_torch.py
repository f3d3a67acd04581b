"""The command line and the dashboard work without PyTorch, and do not install it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MakeRun = Callable[..., Path]

REPOSITORY = Path(__file__).parents[3]

WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, NoTorch())
"""

COMMAND = WITHOUT_TORCH + "from tfs_core.cli.main import main\nmain(sys.argv[1:])"

SHOW = (
    WITHOUT_TORCH
    + """
import time
from tfs_dash import create_app

browser = create_app(sys.argv[1]).server.test_client()
assert browser.get("/compare").status_code == 200
deadline = time.monotonic() + 60  # on a busy machine the first answers come before the page is filled
while True:
    layout = browser.get("/_dash-layout", headers={"Referer": "http://127.0.0.1/compare"})
    if "lowest validation loss" in layout.text:
        break
    assert time.monotonic() < deadline, layout.text
    time.sleep(0.1)
"""
)

COUNT = (
    WITHOUT_TORCH
    + """
from tfs_core.errors import TfsError
from tfs_dash import estimate_model_params

assert estimate_model_params(sys.argv[1]) == 24_256_000
try:
    estimate_model_params({"name": "torch"}, vocab_size=256)
except TfsError as error:
    assert 'pip install "tfs-core[train]"' in str(error)
else:
    raise AssertionError("a model was built")
"""
)


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["dash", "--help"]], ids=" ".join)
def test_command_works_without_torch(arguments: list[str]) -> None:
    done = python(COMMAND, *arguments)
    assert done.returncode == 0, done.stderr
    assert "dash" in done.stdout


def test_configuration_is_validated_without_torch() -> None:
    done = python(COMMAND, "config", "validate", REPOSITORY / "configs" / "quickstart.yaml")
    assert done.returncode == 0, done.stderr


def test_training_says_what_to_install() -> None:
    done = python(COMMAND, "run", "--config", REPOSITORY / "configs" / "quickstart.yaml")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: this command needs torch, which is not installed: ")
    assert done.stderr.endswith('-m pip install "tfs-core[train]"\n')


def test_report_is_exported_without_torch(assets: Path, make_run: MakeRun, tmp_path: Path) -> None:
    make_run("wide")
    done = python(COMMAND, "dash", "export", tmp_path / "report.html", TFS_ASSETS=str(assets))
    assert done.returncode == 0, done.stderr
    assert "wide" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_page_is_answered_without_torch(assets: Path, make_run: MakeRun) -> None:
    make_run("wide")
    done = python(SHOW, assets)
    assert done.returncode == 0, done.stderr


def test_parameters_of_a_run_are_read_and_those_of_a_configuration_say_what_to_install(make_run: MakeRun) -> None:
    done = python(COUNT, make_run("wide"))
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_environment_without_torch_reads(assets: Path, make_run: MakeRun, tmp_path: Path) -> None:
    """Install the distributions with their declared dependencies into a new virtual environment."""
    make_run("wide")
    folder = tmp_path / "environment"
    binaries = folder / ("Scripts" if sys.platform == "win32" else "bin")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    environment = {**os.environ, "TFS_ASSETS": str(assets)}
    environment.pop("PYTHONPATH", None)

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(binaries / program), *map(str, arguments)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip

    pip = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    if run("python", *pip, "hatchling").returncode != 0:
        pytest.skip("the package index cannot be reached")
    plugins = REPOSITORY / "plugins"
    reads = run("python", *pip, "--no-build-isolation", REPOSITORY, plugins / "tfs-dash")
    assert reads.returncode == 0, reads.stderr
    # `--no-deps`: their settings can be validated without their dependencies.
    named = [plugins / name for name in ("tfs-baseline", "tfs-datasets", "tfs-tokenizers", "tfs-generate")]
    assert run("python", *pip, "--no-build-isolation", "--no-deps", *named).returncode == 0
    assert run("python", "-c", "import torch").returncode != 0

    for arguments in (
        ["--help"],
        ["plugins"],
        ["config", "validate", REPOSITORY / "configs" / "quickstart.yaml"],
        ["dash", "--help"],
        ["dash", "export", tmp_path / "report.html"],
    ):
        done = run("tfs", *arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    assert "wide" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (
        'pip install "tfs-core[train]"'
        in run("tfs", "run", "--config", REPOSITORY / "configs" / "quickstart.yaml").stderr
    )
