"""Number of functions and files, and stack depth, of this repository's code from `tfs run` to the first optimizer step.

Run: python benchmarks/first_step.py [--list]. It trains a tiny `torch` model on Python's sources. Functions in other
threads, lambdas, comprehensions and `plugin.py` files are not counted.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from tfs_core.cli.main import tfs

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = """
experiment_name: first_step
data: {dataset: python-stdlib, tokenizer: byte, max_length: 32, subset_size: 20}
model: {name: torch, d_model: 16, n_heads: 2, n_blocks: 1, d_ffn: 32, max_seq_len: 32}
training: {batch_size: 2, max_steps: 1, learning_rate: 1e-3}
"""


def file_of(code: CodeType) -> str | None:
    """Return the file of a function, relative to the repository; None for code outside of it."""
    path = Path(code.co_filename)
    is_function = bool(code.co_flags & 1) and not code.co_name.startswith("<")
    if not is_function or path.name == "plugin.py" or not path.is_relative_to(ROOT) or ".venv" in path.parts:
        return None
    return None if path.is_relative_to(ROOT / "benchmarks") else str(path.relative_to(ROOT))


def main() -> None:
    """Run until the first optimizer step, and print the functions that were called."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="the functions of each file, and the stack")
    listing = parser.parse_args().list
    called: set[tuple[str, str]] = set()

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and (file := file_of(frame.f_code)):
            called.add((file, frame.f_code.co_qualname))

    def stop(*_arguments: Any, **_options: Any) -> None:
        sys.setprofile(None)
        stack, frame = [], sys._getframe()
        while frame is not None:
            if file := file_of(frame.f_code):
                stack.append(f"{file}: {frame.f_code.co_qualname}")
            frame = frame.f_back  # type: ignore[assignment]
        files = Counter(file for file, _ in called)
        if listing:
            print("\n".join([*(f"{count:4} {file}" for file, count in sorted(files.items())), "", *reversed(stack)]))
        print(
            f"{len(called)} functions in {len(files)} files, {len(stack)} deep at the first optimizer step", flush=True
        )
        os._exit(0)

    torch.optim.AdamW.step = stop  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "first_step.yaml").write_text(CONFIGURATION, encoding="utf-8")
        sys.setprofile(profile)
        tfs(["run", "--config", f"{folder}/first_step.yaml", "--assets", f"{folder}/assets"])


if __name__ == "__main__":
    main()
