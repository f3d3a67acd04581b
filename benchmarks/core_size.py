"""Size of the core: lines of code (without blanks, comments and docstrings) and lines in total, as in `make check`.

Run: python benchmarks/core_size.py; the exit code is 1 above the limit. Above it, new code must replace old code.
"""

import ast
import sys
from pathlib import Path

LIMIT = 6950
CORE = Path(__file__).parent.parent / "tfs_core"


def code_lines(source: str) -> int:
    """Return the number of lines of a module that contain code."""
    documentation: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documentation.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(1 for n, line in lines if line.strip() and not line.strip().startswith("#") and n not in documentation)


def main() -> None:
    """Print the size; exit code 1 above the limit."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(CORE.rglob("*.py"))]
    code, total = sum(map(code_lines, sources)), sum(len(source.splitlines()) for source in sources)
    print(f"tfs_core: {code:,} lines of code, {total:,} in total, {len(sources)} files (limit: {LIMIT:,} of code)")
    sys.exit(code > LIMIT)


if __name__ == "__main__":
    main()
