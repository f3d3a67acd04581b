"""The examples in the docstrings compute what they show, and every operation has one."""

import doctest
import importlib
import math
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tfs_custom import ops, optimizers

NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


class Approximately(doctest.OutputChecker):
    """Compares numbers to half of the last digit shown, and the text between them exactly, white space apart."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        wanted, found = ([float(number) for number in NUMBER.findall(text)] for text in (want, got))
        texts = [re.sub(r"\s", "", NUMBER.sub("#", text)) for text in (want, got)]
        return (
            texts[0] == texts[1]
            and len(wanted) == len(found)
            and all(math.isclose(a, b, rel_tol=1e-6, abs_tol=5e-5) for a, b in zip(wanted, found, strict=True))
        )


def modules() -> Iterator[ModuleType]:
    for package in (ops, optimizers):
        for module in pkgutil.iter_modules(package.__path__):
            yield importlib.import_module(f"{package.__name__}.{module.name}")


def run_examples(module: ModuleType) -> doctest.TestResults:
    runner = doctest.DocTestRunner(checker=Approximately(), verbose=False)
    for test in doctest.DocTestFinder().find(module, extraglobs={"math": math, "torch": torch}):
        runner.run(test)
    return runner.summarize(verbose=False)


@pytest.mark.parametrize("module", list(modules()), ids=lambda module: module.__name__)
def test_examples_compute_what_they_show(module: ModuleType) -> None:
    results = run_examples(module)
    assert results.failed == 0
    assert results.attempted or module.__name__.endswith("groups"), "an operation without an example"


@pytest.mark.parametrize("shown", ["0.6000", "0.5001", "0.4999"])
def test_a_wrong_example_is_found(shown: str) -> None:
    module = ModuleType("wrong")
    module.__doc__ = f">>> torch.tensor([0.5])\ntensor([{shown}])\n"
    assert run_examples(module).failed == 1


def test_example_of_the_readme_runs_and_passes(tmp_path: Path) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    script = tmp_path / "example.py"
    for text, passes in ((code, True), (code.replace(" - row_mean", ""), False)):
        script.write_text(text, encoding="utf-8")
        run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=300)
        assert ("fail " not in run.stdout) == passes, run.stdout
        assert "each operation" in run.stdout
